"""The limit on this process's descriptors, raised where a pool needs more."""

from __future__ import annotations

import contextlib
import logging
import os

from arrowpool.memory import facilities, platform

_log = logging.getLogger(__name__)

#: Descriptors that the parent has open per worker: two pipes, the results' arena, two of `multiprocessing` (three under
#: forkserver).
PER_WORKER = {"fork": 5, "spawn": 5}
_PER_WORKER_OTHERWISE = 6
#: Descriptors of the pool itself, and those that are open only while a worker is started.
_BESIDE = 16


def make_room(workers: int, method: str) -> None:
    """Raise the soft limit by the number that so many more workers need, if it may be too low and the hard limit allows it.

    The usual soft limit is 1,024, and the program has used a part of it. The usual hard limit is far above that.
    """
    soft, hard = platform.descriptors_limit()
    needed = workers * PER_WORKER.get(method, _PER_WORKER_OTHERWISE) + _BESIDE
    if soft == platform.UNLIMITED or _opened() + needed <= soft:
        return
    wanted = soft + needed
    raised = wanted if hard == platform.UNLIMITED else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        platform.raise_descriptors_limit(raised, hard)
        soft = raised
    if _opened() + needed > soft:
        _log.warning(
            "a pool of %d workers needs up to %d descriptors, but this process may have only %d open: raise the limit "
            "(ulimit -n), or make a smaller pool",
            workers,
            needed,
            soft,
        )


def _opened() -> int:
    try:
        return len(os.listdir(facilities.proc("self/fd")))
    except OSError:
        lowest = os.open(os.devnull, os.O_RDONLY)  # all lower numbers are in use; others may be
        os.close(lowest)
        return lowest
