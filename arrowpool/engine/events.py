"""Events: what the parent's threads tell each other.

Who does what
-------------
The *supervisor* starts and buries workers. The *feeder* alone encodes, sends, and keeps the books of the arguments' arena.
The *collector* alone reads replies, rebuilds results and hands them to the calls' result objects. Feeder and collector have an
inbox each. Apart from events they share `WorkerHandle` and `Call` objects, which say at each attribute who writes it.

    caller -> feeder -> worker -> collector -> caller

Events are equal when their class and fields are.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from arrowpool.engine.calls import Share, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.tuning import HEADROOM_STEP


@dataclass(frozen=True, slots=True)
class _Plain:
    """An event that is the whole message."""


@dataclass(frozen=True, slots=True)
class _OfJob:
    """An event of one call."""

    job: int


@dataclass(frozen=True, slots=True)
class _OfWorker:
    """An event of one worker."""

    worker: WorkerHandle


# To the feeder


class Answered(_Plain):
    """The mailbox has answers that the feeder wants."""

    __slots__ = ()


class Late(_Plain):
    """Nothing came in the time that the feeder sleeps at most. From its mailbox."""

    __slots__ = ()


class LookAgain(_Plain):
    """Something has changed that has no event of its own."""

    __slots__ = ()


class Hurry(_Plain):
    """The pool is closed: results may pile up."""

    __slots__ = ()


class Released(_Plain):
    """The caller has let go of results: if memory is short, their workers give it back."""

    __slots__ = ()


class Drawn(_OfJob):
    """The source of this job has tasks."""

    __slots__ = ()


class Read(_OfJob):
    """Results of this job, which is held back, were read or need not be kept."""

    __slots__ = ()


class Short(_OfWorker):
    """This worker has no memory for a result: all others are to give back what they keep warm."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unshare:
    """No call that is made from now on refers to this object."""

    share: Share


@dataclass(frozen=True, slots=True)
class Returned:
    """These tasks were sent and never begun."""

    tasks: list[Task]


# To the collector


@dataclass(frozen=True, slots=True)
class Dropped(_OfJob):
    """The results of this imap will not be read. Its call ends, or its tasks are still run."""

    ends: bool


@dataclass(frozen=True, slots=True)
class Failed(_OfJob):
    """The result of task `index` is this exception."""

    index: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Broken:
    """No task can ever run again, for this reason."""

    error: BaseException


# To both


class WorkerJoined(_OfWorker):
    """To the collector: read from it from now on. To the feeder: it is ready for tasks."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class WorkerExited(_OfWorker):
    """To the collector: the process has ended, with this exit code. To the feeder: its leases are over."""

    exitcode: int | None


@dataclass(frozen=True, slots=True)
class Cancelled(_OfJob):
    """A call is cancelled. To the collector: end its result. To the feeder: do no more of it."""

    #: Its result from then on; None for `CancelledError`.
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """To a thread: end. With `drain`, once every worker has ended; else at once."""

    drain: bool


class Handlers(dict[type, Callable[..., None]]):
    """What a thread does with each type of event or message. Looking up another type raises TypeError."""

    def __init__(self, owner: str, handlers: Mapping[type, Callable[..., None]]):
        super().__init__(handlers)
        self._owner = owner

    def __missing__(self, kind: type) -> Callable[..., None]:
        raise TypeError(f"the {self._owner} has no handler for {kind.__qualname__}")


class Releases:
    """Tells the feeder, for every so many bytes, that the caller has let go of results.

    Called in finalizers, in any thread and inside each other, so it takes no lock.

    A caller appends what it lets go of, takes all amounts there are, and appends their sum again if that is not enough for an
    event. Each amount is taken by one caller alone, since `append` and `popleft` are atomic: none is lost or counted twice. An
    event may come late while two callers hold a part each; the next call finds both parts.
    """

    def __init__(self, feeder_inbox: queue.SimpleQueue[Any]):
        self._inbox = feeder_inbox
        #: Bytes that no event has told of. Any thread appends and takes.
        self._amounts: deque[int] = deque()

    def __call__(self, nbytes: int) -> None:
        amounts = self._amounts
        amounts.append(nbytes)
        total = 0
        try:
            while True:
                total += amounts.popleft()
        except IndexError:
            pass
        if total >= HEADROOM_STEP:
            self._inbox.put(Released())
        elif total:
            amounts.append(total)
