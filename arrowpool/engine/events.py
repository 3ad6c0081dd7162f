"""One worker as the parent sees it, and what the parent's threads say of it to each other.

Who does what
-------------
The *supervisor* starts and buries workers. The *feeder* alone encodes, sends, and keeps the books of the arguments' arena.
The *collector* alone reads replies, rebuilds results and hands them to the caller's result objects. Each has an inbox;
nothing else is shared between them but `WorkerHandle.outstanding`, a dict of which every operation used is atomic, and counters.

    caller -> feeder -> worker -> collector -> caller
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

from arrowpool.engine.calls import Share, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.tuning import HEADROOM_STEP


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """To the collector: read from it from now on. To the feeder: it is ready for tasks."""

    worker: WorkerHandle


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """To the collector: the process is gone, with this exit code. To the feeder: its leases are over."""

    worker: WorkerHandle
    exitcode: int | None


@dataclass(frozen=True, slots=True)
class Answered:
    """To the feeder: some tasks have their results; look at `Feeder.answered`."""


@dataclass(frozen=True, slots=True)
class Unshare:
    """To the feeder: no call that is made from now on refers to it."""

    share: Share


@dataclass(frozen=True, slots=True)
class Drawn:
    """To the feeder: the source of this job has tasks."""

    job: int


@dataclass(frozen=True, slots=True)
class Read:
    """To the feeder: results of this job were read, or need not be kept, which it has been waiting for."""

    job: int


@dataclass(frozen=True, slots=True)
class Hurry:
    """To the feeder: the pool is closed, so results may pile up."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """To the collector: nobody will read the results of this imap, and its call ends or is let run."""

    job: int
    ends: bool


@dataclass(frozen=True, slots=True)
class Late:
    """To the feeder, by itself: nothing came in the time that it waits."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """To the feeder: something has changed that nobody else reports."""


@dataclass(frozen=True, slots=True)
class Returned:
    """To the feeder: these tasks were sent but never begun."""

    tasks: list[Task]


@dataclass(frozen=True, slots=True)
class Failed:
    """To the collector: the result of task `index` of `job` is this exception."""

    job: int
    index: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Short:
    """To the feeder: this worker finds no memory for a result; have the others give back what they keep warm."""

    worker: WorkerHandle


@dataclass(frozen=True, slots=True)
class Released:
    """To the feeder: the caller has let go of results; their workers could give that memory back."""


class Releases:
    """Tells the feeder of what the caller lets go of, now and then. Called in finalizers, so it takes no lock."""

    def __init__(self, feeder_inbox: queue.SimpleQueue[Any]):
        self._inbox = feeder_inbox
        self._bytes = 0

    def __call__(self, nbytes: int) -> None:
        self._bytes += nbytes
        if self._bytes >= HEADROOM_STEP:
            self._bytes = 0
            self._inbox.put(Released())


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for this job any more. To the collector: end its result. To the feeder: do no more of it."""

    job: int
    #: What its result is then; None for `CancelledError`.
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """To the collector: no task can ever run again, for this reason."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Stop:
    """To a thread: end. With `drain`, once every worker is gone; else at once."""

    drain: bool
