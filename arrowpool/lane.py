"""One worker as the parent sees it, and what the parent's threads say of it to each other.

Who does what
-------------
The *supervisor* starts and buries workers. The *feeder* alone encodes, sends, and keeps the books of the arguments' arena.
The *collector* alone reads replies, rebuilds results and hands them to the caller's result objects. Each has an inbox;
nothing else is shared between them but `Lane.outstanding`, a dict of which every operation used is atomic, and counters.

    caller -> feeder -> worker -> collector -> caller
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import process
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from arrowpool.channel import Channel
from arrowpool.memory.control import ControlPage
from arrowpool.reducer import Seen
from arrowpool.settings import HEADROOM_STEP
from arrowpool.source import Source
from arrowpool.waiting import InterruptibleFuture
from arrowpool.windows import Stretch
from arrowpool.wire import Parcel, Receiver, Reduced


@dataclass(slots=True, eq=False)
class Blob:
    """A function, or an object shared by several tasks: sent to each worker once, by number, and pinned while in use.

    Attributes
    ----------
    stateless : bool
        Whether it is a function without data, which need not be new for each task.
    holds : int
        How many calls, and others, may refer to it yet.
    pinned : int
        Bytes of its memory that are not a part of what is in flight.
    """

    number: int
    stateless: bool
    parcel: Parcel
    holds: int = 1
    pinned: int = 0


class EncodedFunction(NamedTuple):
    """A call's function as it was encoded last.

    Attributes
    ----------
    reduced : Reduced or None
        Its stream and its memory, to compare with; None where that cannot be needed.
    nbytes : int
        Bytes of the memory.
    seen : Seen or None
        Its objects, to which the streams of payloads refer; None for a function without data.
    constants : tuple or None
        All that it carries, if nothing of that can change.
    may_change : bool
        Whether it must be encoded again for the next task, to see if it is still the same.
    blobs : tuple of Blob
        What it refers to.
    """

    reduced: Reduced | None
    nbytes: int
    seen: Seen | None
    constants: tuple[Any, ...] | None
    may_change: bool
    blobs: tuple[Blob, ...]


class Snapshot(NamedTuple):
    """A call of one task as it was when it was made: its function and what goes to that, or the error of pickling them.

    Attributes
    ----------
    payload : Reduced or None
        None for a few plain values, which cannot change.
    nbytes : int
        Bytes of memory that it takes.
    """

    function: Reduced | None = None
    payload: Reduced | None = None
    failure: BaseException | None = None
    nbytes: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """One call of a pool method on its way: where its tasks come from, and what is known of them."""

    tasks: Iterator[Any]
    set_length: Callable[[int], None] | None
    #: The items, when the call was given them all in a list that cannot change under it; else None.
    items: list[Any] | tuple[Any, ...] | None = None
    #: How many tasks there will be, when that is known.
    length: int | None = None
    #: Whether the user's own code makes them, one after the other: it may block, wait for results of what it has given, and
    #: change what it gave before.
    lazy: bool = False
    #: Where they are drawn in a thread of their own; the same as `tasks`.
    source: Source | None = None
    #: Result object of the call, once the first task is known.
    job: int = -1
    function: Any = None
    #: What was taken of it when it was made; None once the feeder has it, and where all is taken when its task is encoded.
    snapshot: Snapshot | None = None
    #: What users had shared when it was made. And once the feeder has it: the blobs of that by their numbers, and the numbers
    #: by the objects' ids.
    shares: tuple[Share, ...] = ()
    pins: dict[int, Blob] = field(default_factory=dict)
    pinned: dict[int, int] = field(default_factory=dict)
    encoded: EncodedFunction | None = None
    #: What a task needs that needs nothing else: the function, and what that refers to.
    blobs: tuple[Blob, ...] = ()
    #: All blobs that its tasks refer to; it holds each of them once.
    held: set[Blob] = field(default_factory=set)
    failure: BaseException | None = None
    last_index: int = -1
    #: Tasks encoded and not yet answered, and whether there are more to come.
    pending: int = 0
    exhausted: bool = False
    #: Nobody waits for it any more.
    cancelled: bool = False
    #: Moving average of a task's seconds; None until the first reply.
    mean_seconds: float | None = None
    replies: int = 0
    result_bytes: int = 0
    #: Objects shared as a whole: id -> the object, which keeps the id its own, and its blob, None for one that is too small;
    #: and what occurs more than once in the items, once that has been counted: objects by id, and memory.
    shared: dict[int, tuple[Any, Blob | None]] = field(default_factory=dict)
    repeated: frozenset[int] | None = None
    stretches: list[Stretch] | None = None

    def took(self, seconds: float, nbytes: int) -> None:
        """A task has been answered: how long it ran, how many shared bytes its result has."""
        self.replies += 1
        self.result_bytes += nbytes
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean is None else mean + (seconds - mean) * 0.25


@dataclass(slots=True, eq=False)
class Task:
    """One encoded task: the call and index its result belongs to, and what it needs."""

    call: Call
    index: int
    star: int
    parcel: Parcel
    blobs: tuple[Blob, ...]
    #: Its own hold on its function, where other tasks of the call may have another state of that.
    own: Blob | None = None
    #: How often it was begun by a worker that was then lost.
    losses: int = 0


@dataclass(slots=True, eq=False)
class Spent:
    """What a worker has answered, and the seconds it took it; the collector's."""

    since: float = field(default_factory=time.monotonic)
    until: float | None = None
    tasks: int = 0
    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0


@dataclass(eq=False, repr=False)
class Lane:
    """One worker process and the way to it.

    Attributes
    ----------
    outstanding : dict of int to Task
        Tasks sent and not answered, by number, in the order sent. Whoever pops a task settles it.
    """

    process: BaseProcess
    channel: Channel
    control: ControlPage
    receiver: Receiver
    #: Readable when the process has ended; -1 if there is none. And whether it is so at once, also when children live on.
    sentinel: int
    is_watched: bool = True
    quota: int | None = None
    ready: bool = False
    sent: int = 0
    last_frame: int = 0
    outstanding: dict[int, Task] = field(default_factory=dict)
    known_blobs: set[int] = field(default_factory=set)
    to_forget: list[int] = field(default_factory=list)
    #: When the feeder last saw this worker begin a task, and how many it had begun.
    progress: tuple[float, int] = (0.0, 0)
    #: Numbers taken back from the worker, not yet given to others.
    recalled: tuple[int, int] | None = None
    recalled_at: float = 0.0
    #: Set by the supervisor: about to be killed, so to be sent nothing; and that the reason was a task's time.
    doomed: bool = False
    overdue: bool = False
    #: Whether it can read what the parent lends, which lies in other processes' memory.
    may_borrow: bool = False
    spent: Spent = field(default_factory=Spent)

    def close_in_child(self) -> None:
        """A forked child is not the worker's parent; `multiprocessing` would end the worker when that child exits."""
        process._children.discard(self.process)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<Lane pid={self.process.pid} outstanding={len(self.outstanding)} sent={self.sent}>"


@dataclass(frozen=True, slots=True)
class LaneJoined:
    """To the collector: read from it from now on. To the feeder: it is ready for tasks."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class LaneExited:
    """To the collector: the process is gone, with this exit code. To the feeder: its leases are over."""

    lane: Lane
    exitcode: int | None


@dataclass(frozen=True, slots=True)
class Answered:
    """To the feeder: some tasks have their results; look at `Feeder.answered`."""


@dataclass(eq=False, slots=True)
class Share:
    """To the feeder: place this object now. Calls that are made from then on refer to it.

    Attributes
    ----------
    placed : InterruptibleFuture
        Done when that is done, with None or an exception.
    blob : Blob or None
        The feeder's.
    """

    obj: Any
    placed: InterruptibleFuture = field(default_factory=InterruptibleFuture)
    blob: Blob | None = None


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

    lane: Lane


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
    """To a thread: end. With `drain`, once every lane is gone; else at once."""

    drain: bool


def describe(task: Task) -> str:
    """A task in words: "task 3 of compute"."""
    return f"task {task.index} of {name_of(task)}"


def name_of(task: Task) -> str:
    """The name of a task's function."""
    function = task.call.function
    try:
        name = getattr(function, "__qualname__", None)
    except BaseException:  # the user's own code, in a thread that all calls depend on
        name = None
    return name if type(name) is str and name else type(function).__qualname__
