"""Events: the messages between the parent's threads.

Who does what
-------------
The *supervisor* starts workers and notices their ends. The *feeder* encodes arguments, sends tasks, and keeps the books of the
arguments' arena. The *collector* reads replies, rebuilds results and sets them in the calls' result objects. Feeder and collector
have an inbox each. In addition to events they share `WorkerHandle` and `Call` objects, which say at each attribute who writes it.

    caller -> feeder -> worker -> collector -> caller

Events are equal when their classes and fields are equal.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from arrowpool.engine.calls import Call, Share, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.memory.descendants import Descendants
from arrowpool.transport.protocol import SOME_ITEM
from arrowpool.tuning import HEADROOM_STEP


@dataclass(frozen=True, slots=True)
class _Plain:
    """An event without fields."""


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
    """No event came while the feeder slept for its longest time. From its mailbox."""

    __slots__ = ()


class LookAgain(_Plain):
    """Something has changed that has no event of its own."""

    __slots__ = ()


class Hurry(_Plain):
    """The pool is closed: results may pile up."""

    __slots__ = ()


class Released(_Plain):
    """The user has released results: if memory is short, the workers give it back."""

    __slots__ = ()


class Drawn(_OfJob):
    """The source of this job has tasks."""

    __slots__ = ()


class Read(_OfJob):
    """Results of this job, which is held back, were read or dropped."""

    __slots__ = ()


class Short(_OfWorker):
    """This worker has no memory for a result: all other workers must give back memory that they keep warm."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unshare:
    """Later calls do not refer to this object."""

    share: Share


@dataclass(frozen=True, slots=True)
class Returned:
    """These tasks were sent to a worker, which has not begun them."""

    tasks: list[Task]


# To the collector


@dataclass(frozen=True, slots=True)
class Dropped(_OfJob):
    """The results of this imap will not be read. Its call ends, or (not `ends`) its tasks are run anyway."""

    ends: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The result of the task `index` of a call, which has `count` items, is this exception. `at`: as in `TaskFailed`."""

    call: Call
    index: int
    error: BaseException
    count: int = 1
    at: int = SOME_ITEM


@dataclass(frozen=True, slots=True)
class Broken:
    """The pool cannot run tasks any more, for this reason."""

    error: BaseException


# To both


class WorkerJoined(_OfWorker):
    """To the collector: read the worker's replies from now on. To the feeder: the worker is ready for tasks."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class WorkerExited(_OfWorker):
    """To the collector: the process has ended, with this exit code. To the feeder: the worker's leases are over.

    For the feeder, with the processes that the worker has forked, if there are any: they may still read what was leased.
    """

    exitcode: int | None
    descendants: Descendants | None = None


@dataclass(frozen=True, slots=True)
class Cancelled(_OfJob):
    """A call is cancelled. To the collector: end it. To the feeder: drop its waiting tasks, interrupt its running ones."""

    #: The call's result; None stands for `CancelledError`.
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """To a thread: end. With `drain`, the collector ends when all workers have ended; otherwise at once."""

    drain: bool


class Handlers(dict[type, Callable[..., None]]):
    """The function that handles each type of event or message in one thread. The lookup of another type raises TypeError."""

    def __init__(self, owner: str, handlers: Mapping[type, Callable[..., None]]):
        super().__init__(handlers)
        self._owner = owner

    def __missing__(self, kind: type) -> Callable[..., None]:
        raise TypeError(f"the {self._owner} has no handler for {kind.__qualname__}")


class Releases:
    """Counts the bytes of results that the user releases, and sends the feeder a `Released` for every `HEADROOM_STEP` of them.

    Called in finalizers, in any thread, also inside another call of itself: so it takes no lock.

    A call appends its bytes, takes all amounts, and appends their sum again if the sum is too small for an event. `append` and
    `popleft` are atomic, so one call takes each amount: none is lost or counted twice. While two calls hold a part each, the
    event may be late; the next call finds both parts.
    """

    def __init__(self, feeder_inbox: queue.SimpleQueue[Any]):
        self._inbox = feeder_inbox
        #: Bytes that are not reported. Any thread appends and takes; both are atomic.
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
