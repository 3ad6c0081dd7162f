"""Calls, their tasks and what these share: the values that the parent's threads hand to each other."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import util
from typing import Any, NamedTuple

from arrowpool.engine.source import Source
from arrowpool.errors import said
from arrowpool.interrupts import InterruptibleFuture
from arrowpool.transport.overlaps import Stretch
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.protocol import PlainBody, plain
from arrowpool.transport.reducer import Seen


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


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """One call of a pool method on its way: where its tasks come from, and what is known of them.

    Its caller makes it and puts it into the feeder's inbox. From then on the feeder alone writes and reads an attribute that says
    nothing else.
    """

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
    #: Tasks encoded and not settled; and whether all tasks are taken. `mailbox` reads `exhausted` in the collector's thread, after
    #: it has left an answer there: the feeder sets it before it looks for the last answers.
    pending: int = 0
    exhausted: bool = False
    #: Its results are not wanted.
    cancelled: bool = False
    #: Moving average of a task's seconds, None until the first reply; replies; and bytes of their results. The collector writes, the
    #: feeder reads. Safe: these are figures for guesses, and each is read by itself.
    mean_seconds: float | None = None
    replies: int = 0
    result_bytes: int = 0
    #: Objects shared as a whole: id -> the object, which keeps the id its own, and its blob, None for one that is too small;
    #: and what occurs more than once in the items, once that has been counted: objects by id, and memory.
    shared: dict[int, tuple[Any, Blob | None]] = field(default_factory=dict)
    repeated: frozenset[int] | None = None
    stretches: list[Stretch] | None = None

    def __repr__(self) -> str:
        states = ("exhausted" if self.exhausted else "", "cancelled" if self.cancelled else "")
        return " | ".join((f"<Call {self.job} pending: {self.pending}", *filter(None, states))) + ">"

    def hold(self, blob: Blob) -> None:
        """Keep a blob until the call is over."""
        if blob not in self.held:
            blob.holds += 1
            self.held.add(blob)

    def took(self, seconds: float, nbytes: int) -> None:
        """A task has been answered: how long it ran, how many shared bytes its result has."""
        self.replies += 1
        self.result_bytes += nbytes
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean is None else mean + (seconds - mean) * 0.25


@dataclass(slots=True, eq=False, repr=False)
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
    #: Its body, if that is a few plain values; the parcel is then `PLAIN`, for the garbage collector walks over each object that
    #: lives for a moment, and there may be thousands of tasks.
    plain: PlainBody | None = None

    def __repr__(self) -> str:
        return f"<Task {self.index} of {self.call!r}>"


#: The parcel of all tasks whose body is plain.
PLAIN = Parcel(plain(None), (), 0)


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


def queued_call(tasks: Iterable[Any], set_length: Callable[[int], None] | None) -> Call:
    """A call in the form in which the standard library's pool puts calls into its queue, as other code does as well.

    (The well-known `istarmap` does, which adds the missing method to `multiprocessing.Pool`.)

    Parameters
    ----------
    tasks : iterable of tuple
        ``(job, index, function, args, kwds)``, at least one of them, or the call is over at once.
    set_length : callable or None
        Gets the number of tasks when all are taken.
    """
    rest = iter(tasks)
    first: deque[Any] = deque()
    try:
        first.extend(itertools.islice(rest, 1))
    except (
        BaseException
    ) as error:  # whatever a user's iterator raises; the job is not known, and so no result is failed
        util.debug("a queued call raised %r before its first task", said(error))
    return Call(_popped(first, rest), set_length, job=first[0][0] if first else -1)


def _popped(first: deque[Any], rest: Iterator[Any]) -> Iterator[Any]:
    """Both in turn; `first` is not kept alive."""
    while first:
        yield first.popleft()
    yield from rest


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
