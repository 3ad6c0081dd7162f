"""Calls, their tasks and the objects that tasks share: the values that the parent's threads pass to each other."""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import util
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from arrowpool.engine.item_names import Names
from arrowpool.engine.source import Source
from arrowpool.errors import said
from arrowpool.frames.work import ApplyToPart, ApplyToRun
from arrowpool.interrupts import InterruptibleFuture
from arrowpool.transport.overlaps import Stretch
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.protocol import PlainBody, Star, is_plain, plain

if TYPE_CHECKING:  # it needs shared memory, which not every system has
    from arrowpool.transport.reducer import Seen


@dataclass(slots=True, eq=False)
class Blob:
    """A function, or an object that several tasks share. Each worker gets it once, under a number. Pinned while in use.

    For the acting thread only (see `mailbox`).

    Attributes
    ----------
    stateless : bool
        Whether it is a function without data, so workers need not rebuild it for each task.
    holds : int
        Number of calls and other owners that may still refer to it.
    pinned : int
        Bytes of its memory that do not count as in flight.
    item_seconds : float or None
        Of a function: how long it took for an item in the last call that has ended.
    """

    number: int
    stateless: bool
    parcel: Parcel
    holds: int = 1
    pinned: int = 0
    item_seconds: float | None = None


class EncodedFunction(NamedTuple):
    """A call's function in its last encoded state.

    Attributes
    ----------
    reduced : Reduced or None
        Stream and memory, for comparison with the next state. None where no comparison is needed.
    nbytes : int
        Bytes of the memory.
    seen : Seen or None
        The function's objects, to which the streams of payloads refer. None for a function without data.
    constants : tuple or None
        All objects that the function carries, if none of them can change.
    may_change : bool
        Whether the function must be encoded again for the next task, since user code runs between the tasks.
    blobs : tuple of Blob
        Shared objects that the function refers to.
    """

    reduced: Reduced | None
    nbytes: int
    seen: Seen | None
    constants: tuple[Any, ...] | None
    may_change: bool
    blobs: tuple[Blob, ...]


class OnError(enum.Enum):
    """What becomes of the error of a task."""

    RAISE = enum.auto()
    #: It is the value of the task.
    RETURN = enum.auto()
    #: Values of tasks are lists: it is in the place of its item, or of all items of the task if it concerns all.
    RETURN_EACH = enum.auto()


class Snapshot(NamedTuple):
    """The state of a single call at the moment when it was made.

    Attributes
    ----------
    function : Reduced or None
        The function. None when it is encoded later.
    payload : Reduced or None
        The arguments. None for a few plain values, which cannot change, and when they are encoded later.
    failure : BaseException or None
        The error that pickling raised.
    nbytes : int
        Bytes of memory that the snapshot takes.
    """

    function: Reduced | None = None
    payload: Reduced | None = None
    failure: BaseException | None = None
    nbytes: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """One call of a pool method: the source of its tasks, and what is known about them.

    The caller makes it and puts it into the feeder's inbox. From then on, the acting thread alone (see `mailbox`) writes and reads
    all attributes, except where a comment names other threads.
    """

    tasks: Iterator[Any]
    set_length: Callable[[int], None] | None
    #: All items, in a list that the user cannot change any more; None when the call has no such list.
    items: list[Any] | tuple[Any, ...] | None = None
    #: Number of tasks, if it is known.
    length: int | None = None
    #: How messages name the items; None for a call without items. Not changed: the collector reads it, too.
    names: Names | None = None
    #: Name of the function for `top`; None until the first task is sent.
    title: bytes | None = None
    #: What becomes of errors of tasks. Not changed: the collector reads it, too.
    on_error: OnError = OnError.RAISE
    #: Whether user code makes the items one by one. It may block, wait for results of earlier items, and change earlier items.
    lazy: bool = False
    #: The thread in which user code makes the tasks; the same object as `tasks`. None without such a thread.
    source: Source | None = None
    #: Number of the call's result object; -1 until the first task of a queued call is known. The collector reads it: an encoded
    #: task has a job.
    job: int = -1
    #: The user's function. The collector reads it to name it in messages: any value will do.
    function: Any = None
    #: State of the call when it was made. None once the acting thread has used it, and for calls that are encoded later.
    snapshot: Snapshot | None = None
    #: Objects that users shared before the call was made. `adopt` adds their blobs by number, and their numbers by object id.
    shares: tuple[Share, ...] = ()
    pins: dict[int, Blob] = field(default_factory=dict)
    pinned: dict[int, int] = field(default_factory=dict)
    encoded: EncodedFunction | None = None
    #: Blobs that every task needs: the function, and the shared objects that it refers to.
    blobs: tuple[Blob, ...] = ()
    #: All blobs that the call's tasks refer to. The call holds each of them once.
    held: set[Blob] = field(default_factory=set)
    failure: BaseException | None = None
    last_index: int = -1
    #: Number of tasks that are encoded and not settled.
    pending: int = 0
    #: Whether all tasks are taken. The collector also reads it, after it has added an answer to the mailbox. Safe: the acting
    #: thread sets it before it looks for the last answers.
    exhausted: bool = False
    #: Whether the call's results are not wanted.
    cancelled: bool = False
    #: Number of items in a task.
    items_of_task: int = 1
    #: Moving average of a task's seconds, None until the first reply; number of replies; bytes of their results. The collector
    #: writes them, the acting thread reads them. Safe: they are estimates, and `replies` is not 0 when `result_bytes` is not. The
    #: average may begin with that of an earlier call, which the acting thread writes before it sends the first task.
    mean_seconds: float | None = None
    replies: int = 0
    result_bytes: int = 0
    #: Objects that are shared as a whole: object id -> the object, which keeps the id in use, and its blob. No blob for a small
    #: object.
    shared: dict[int, tuple[Any, Blob | None]] = field(default_factory=dict)
    #: Ids of objects that occur more than once in the items, and memory that several items refer to. None until they are counted.
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

    def release_items(self) -> None:
        """Release the user's objects: no task is taken from now on."""
        self.items, self.stretches = None, None
        self.shared.clear()

    def expect(self, count: int) -> None:
        """Expect that the tasks, of so many items, take as long as those of the last call of the same function. Before the first task.

        Not where an iterator gives the items: it is read further ahead only when the call's own tasks are known to be short.
        """
        self.items_of_task = count
        if self.blobs and not self.lazy and self.mean_seconds is None:
            known = self.blobs[0].item_seconds
            self.mean_seconds = None if known is None else known * count

    def note_item_seconds(self) -> None:
        """At the end: note with the function how long it took, for the next call."""
        if self.blobs and self.mean_seconds is not None:
            self.blobs[0].item_seconds = self.mean_seconds / self.items_of_task

    def took(self, seconds: float, nbytes: int) -> None:
        """Note a reply: the seconds that the task took, and the bytes of its result in segments. For the collector."""
        self.replies += 1  # before the bytes: others divide by it
        self.result_bytes += nbytes
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean is None else mean + (seconds - mean) * 0.25


@dataclass(slots=True, eq=False, repr=False)
class Task:
    """One encoded task, the call and index of its result, and the blobs that it needs."""

    call: Call
    index: int
    star: int
    parcel: Parcel
    blobs: tuple[Blob, ...]
    #: The function, held by this task itself. None unless other tasks of the call may have another state of the function.
    own: Blob | None = None
    #: Number of workers that were lost while they ran this task. For the collector only.
    losses: int = 0
    #: The body, if it is a few plain values; the parcel is `PLAIN` then. A parcel per task would be one more object for the garbage
    #: collector to visit, and there may be thousands of tasks.
    plain: PlainBody | None = None
    #: Number of items that the function is applied to.
    count: int = 1

    def __repr__(self) -> str:
        return f"<Task {self.index} of {self.call!r}>"


class Unplaced(NamedTuple):
    """A task whose large memory is not placed. With its function, if that has changed and has large memory that is not placed."""

    call: Call
    at: int
    star: int
    items: int
    payload: Reduced | Parcel
    blobs: tuple[Blob, ...]
    function: EncodedFunction | None

    @property
    def nbytes(self) -> int:
        """Bytes that the task needs in segments."""
        return self.payload.nbytes + (self.function.nbytes if self.function is not None else 0)

    @property
    def borrows(self) -> bool:
        """Whether the task refers to memory in segments of other processes, which is not copied."""
        return isinstance(self.payload, Reduced) and any(unit.leased is not None for unit in self.payload.units)


class TaskOfCall(Protocol):
    """A task of any pool, as messages name it: see `Task`."""

    call: Call
    index: int
    count: int
    losses: int


#: The parcel of all tasks whose body is plain.
PLAIN = Parcel(plain(None), (), 0)


@dataclass(eq=False, slots=True)
class Share:
    """To the feeder: place this object now. Later calls refer to it.

    Attributes
    ----------
    placed : InterruptibleFuture
        Set by the feeder: to None when the object is placed, or to an exception.
    blob : Blob or None
        The placed object. The feeder writes it once, before `placed` is set. Threads that make calls read its number after that.
    """

    obj: Any
    placed: InterruptibleFuture = field(default_factory=InterruptibleFuture)
    blob: Blob | None = None


def queued_call(tasks: Iterable[Any], set_length: Callable[[int], None] | None) -> Call:
    """A call in the form in which the standard library's pool puts calls into its queue.

    Other code does the same: for example the well-known `istarmap`, which adds a method to `multiprocessing.Pool`.

    Parameters
    ----------
    tasks : iterable of tuple
        ``(job, index, function, args, kwds)``. A call without tasks ends at once.
    set_length : callable or None
        Called with the number of tasks when all are taken.
    """
    rest = iter(tasks)
    first: deque[Any] = deque()
    try:
        first.extend(itertools.islice(rest, 1))
    except BaseException as error:  # from the user's iterator. The job is not known, so no result gets the error
        util.debug("a queued call raised %r before its first task", said(error))
    return Call(_popped(first, rest), set_length, job=first[0][0] if first else -1)


def _popped(first: deque[Any], rest: Iterator[Any]) -> Iterator[Any]:
    """First `first`, which is not kept alive, then `rest`."""
    while first:
        yield first.popleft()
    yield from rest


def parts_of(function: Any, args: Any, kwds: Any, on_error: OnError = OnError.RAISE) -> tuple[Star, Any, Any, bool]:
    """How a worker applies the function of a task, the function, its payload, and whether the payload is a few plain values."""
    if function is mapstar or function is starmapstar:
        star = Star.MAP if function is mapstar else Star.STARMAP
        if on_error is OnError.RETURN_EACH:
            star = Star.MAP_ALL if function is mapstar else Star.STARMAP_ALL
        function, payload = args[0]
        return star, function, payload, is_plain(payload)
    # Exact types only: marshal does not keep subclasses.
    plain = type(args) is tuple and type(kwds) is dict and not kwds and is_plain(args)
    return Star.CALL, function, (args, kwds), plain


def name_of(task: TaskOfCall) -> str:
    """The name of a task's function: of the user's, where a partial or one of this package is around it."""
    return name_of_function(task.call.function)


def name_of_function(function: Any) -> str:
    """As `name_of`, of a function."""
    while type(function) in (partial, ApplyToPart, ApplyToRun):
        function = function.func
    try:
        name = getattr(function, "__qualname__", None)
    except BaseException:  # user code must not end a thread that serves all calls
        name = None
    return name if type(name) is str and name else type(function).__qualname__
