"""Scripts without a main guard: a worker that imports such a script would make the pool again.

Workers under spawn and forkserver import the main module. If the import makes a pool, the worker ends with an exit code of its own. The
supervisor knows the code, and the user gets one error with the remedy, from the pool that the script has made first.

The fork server imports the main module too, before it has any worker: in Python 3.14, where it is the default, and in late releases
of the versions before. An exception of that import ends it. So it ends with the same code, which the launcher knows. From
Python 3.15 on, the server goes on after an exception, and its workers end with the code.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from multiprocessing import forkserver, process

#: Exit code of a worker whose main module makes a pool. No signal and no other program of this project uses it.
UNGUARDED = 113

ADVICE = (
    "the script makes a pool at its top level, and each worker imports the script. Put the code that makes and uses the pool "
    'below the main guard: if __name__ == "__main__":'
)

#: How long a fork server that has closed its connections may take to end, and the interval for looking at it.
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.005


def leave_if_unguarded(start_method: str) -> None:
    """End this process if it is a new worker, or a fork server, that imports a script without a guard; for the beginning of a new pool.

    Raises
    ------
    SystemExit
        With `UNGUARDED`. In a child that no arrowpool started, the advice is printed, since no pool raises an error with it.
    """
    current = process.current_process()
    if start_method == "fork" or not getattr(current, "_inheriting", False):
        return
    is_server = current.name == "MainProcess"
    if is_server and sys.version_info >= (3, 15):
        return  # the standard library's error follows, which the server ignores
    if not _has_arena(os.getppid() if is_server else os.getpid()):
        print(f"arrowpool: {ADVICE}", file=sys.stderr)
    if is_server or "--multiprocessing-fork" in sys.orig_argv:  # or spawned
        raise SystemExit(UNGUARDED)
    # A child of the fork server, for which the code of a SystemExit is lost.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(UNGUARDED)


def has_server_left() -> bool:
    """Whether the fork server has ended, or is about to end, because the script has no guard. For one that has closed a connection."""
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if sys.platform == "win32" or pid is None or not hasattr(os, "waitid"):
        return False
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            # The standard library reads the exit status, too, when it starts another server.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # the server of a parent process
            return False
        if ended is not None:
            return ended.si_code == os.CLD_EXITED and ended.si_status == UNGUARDED
        time.sleep(_LOOK_SECONDS)
    return False


def _has_arena(pid: int) -> bool:
    """Whether this process has memory of a pool of ours: a worker has inherited it, and the process that starts workers has made it."""
    directory = f"/proc/{pid}/fd"
    try:
        return any(_target(f"{directory}/{fd}").startswith("/memfd:arrowpool") for fd in os.listdir(directory))
    except OSError:  # a system without this directory
        return False


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # the descriptor of the list itself
        return ""
