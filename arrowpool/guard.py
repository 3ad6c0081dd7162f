"""Scripts without a main guard: a worker that imports such a script would make the pool again.

Workers under spawn and forkserver import the main module. If the import makes a pool, the worker ends with an exit code of its own. The
supervisor knows the code, and the user gets one error with the remedy, from the pool that the script has made first.
"""

from __future__ import annotations

import contextlib
import os
import sys
from multiprocessing import process

#: Exit code of a worker whose main module makes a pool. No signal and no other program of this project uses it.
UNGUARDED = 113

ADVICE = (
    "the script makes a pool at its top level, and each worker imports the script. Put the code that makes and uses the pool "
    'below the main guard: if __name__ == "__main__":'
)


def leave_if_unguarded(start_method: str) -> None:
    """End this process if it is a new worker that imports a script without a guard; for the beginning of a new pool.

    Raises
    ------
    SystemExit
        With `UNGUARDED`. In a child that no arrowpool started, the advice is printed, since no pool raises an error with it.
    """
    current = process.current_process()
    # The fork server itself keeps the standard library's error: it must not end.
    if start_method == "fork" or not getattr(current, "_inheriting", False) or current.name == "MainProcess":
        return
    if not _is_own_worker():
        print(f"arrowpool: {ADVICE}", file=sys.stderr)
    if "--multiprocessing-fork" in sys.orig_argv:  # spawned
        raise SystemExit(UNGUARDED)
    # A child of the fork server, for which the code of a SystemExit is lost.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(UNGUARDED)


def _is_own_worker() -> bool:
    """Whether a pool of ours has started this process: then it has inherited memory of that pool."""
    try:
        return any(_target(fd).startswith("/memfd:arrowpool") for fd in os.listdir("/proc/self/fd"))
    except OSError:  # a system without this directory
        return False


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # the descriptor of the list itself
        return ""
