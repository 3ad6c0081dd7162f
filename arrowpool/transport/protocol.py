"""The layout of every message between the parent and a worker: how it is built, and how it is read.

A message is a plain tuple, since `marshal`, which the channel uses, knows no subclass of it. The functions with small
names build such tuples. `read_orders` and `read_replies` give them back as named tuples, whose fields are the layout; the first of
them says of what kind the tuple is. No other module knows the order of the fields. (`placements` has those of a message's parts.)

Parent to worker ("orders"): `Frame`, `Trim`.
Worker to parent ("replies"): `Hello`, `InitializerFailed`, `TaskDone`, `TaskFailed`, `TaskSkipped`, `TaskUnreadable`, `MemoryShort`,
`Traced`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from arrowpool.transport.placements import InSegment, Placement, read_placement

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Message: TypeAlias = tuple[Any, ...]

#: Makes a named tuple of a tuple, without a copy of the arguments as by `_make`.
_view = tuple.__new__


# ---------------------------------------------------------------------------------------------------------- bodies

#: An object that is a few plain values, which the channel carries as they are.
PlainBody: TypeAlias = tuple[Any]
#: An object as a pickle stream, and where the units lie that it refers to. The stream is None when it is the first unit.
EncodedBody: TypeAlias = tuple["bytes | None", tuple[Placement, ...]]
#: An object, without the rights to its segments.
Body: TypeAlias = PlainBody | EncodedBody

_PLAIN = frozenset((type(None), bool, int, float))
_PLAIN_ITEMS = 4
_PLAIN_LENGTH = 1000
#: About how many bytes of the pipe a plain body takes.
_PLAIN_BYTES = 16


def is_plain(items: Any) -> bool:
    """Whether these few items are numbers or short strings: immutable, and quicker without pickle."""
    if len(items) > _PLAIN_ITEMS:
        return False
    for item in items:
        kind = type(item)
        if kind not in _PLAIN and not ((kind is str or kind is bytes) and len(item) < _PLAIN_LENGTH):
            return False
    return True


def plain(obj: Any) -> PlainBody:
    """The body of an object that `is_plain`, or a list or tuple of such."""
    return (obj,)


def encoded(stream: bytes | None, placements: Iterable[Placement] = ()) -> EncodedBody:
    """The body of an object that was reduced to a stream and units."""
    return stream, tuple(placements)


def is_plain_body(body: Body) -> TypeIs[PlainBody]:
    """Whether the body is the object itself."""
    return len(body) == 1


def placements_of(body: Body) -> tuple[Placement, ...]:
    """Where the units of a body lie; empty when all of it goes through the pipe."""
    return () if len(body) == 1 else body[1]


def piped_bytes(body: Body) -> int:
    """About how many bytes of the pipe a body takes."""
    return _PLAIN_BYTES if len(body) == 1 else len(body[0] or b"")


def segment_bytes(body: Body) -> int:
    """How many bytes of a body lie in its own segments."""
    if len(body) == 1:
        return 0
    places = map(read_placement, body[1])
    return sum(place.nbytes for place in places if isinstance(place, InSegment))


def placed_stream_bytes(body: Body) -> int:
    """How many bytes the stream of a body has, where it is placed as a unit; else 0."""
    if len(body) == 1 or body[0] is not None:
        return 0
    place = read_placement(body[1][0])
    return place.nbytes if isinstance(place, InSegment) else 0


# ---------------------------------------------------------------------------------------------------------- grants

#: The right to one segment: slot, offset in the arena, bytes, and whose arena it is, if not the sender's: see
#: `arrowpool.memory.mapping.Mapping.source`.
GrantWire: TypeAlias = tuple[int, int, int, "tuple[int, int] | None"]
Grants: TypeAlias = tuple[GrantWire, ...]


def grant(slot: int, offset: int, nbytes: int, source: tuple[int, int] | None = None) -> GrantWire:
    """The right to the segment of `nbytes` at `offset`, to be given back by setting the flag of `slot`."""
    return slot, offset, nbytes, source


def slot_of(grant: GrantWire) -> int:
    """The slot of the right to a segment."""
    return grant[0]


# ---------------------------------------------------------------------------------------------------------- orders


class Star(enum.IntEnum):
    """How a task's payload is applied to its function."""

    CALL = 0  # payload (args, kwds): function(*args, **kwds)
    MAP = 1  # payload (x, ...): [function(x), ...]
    STARMAP = 2  # payload (args, ...): [function(*args), ...]
    # As these two, with exceptions in the places of their results. A payload may have some, for items that cannot be sent.
    MAP_ALL = 3
    STARMAP_ALL = 4


#: Ways that go on after an exception.
KEEPS_GOING = frozenset((Star.MAP_ALL, Star.STARMAP_ALL))


#: Function or shared object that the worker has not seen: number, whether it is a function without data, body.
BlobWire: TypeAlias = tuple[int, bool, Body]
#: One task of a frame: its payload, and the rights to that one's segments.
TaskWire: TypeAlias = tuple[Body, Grants]


class Frame(NamedTuple):
    """Tasks to run, one after the other: all of one function, and numbered from `first` on.

    Attributes
    ----------
    new_blobs : tuple of BlobWire
        Functions and shared objects that this worker has not seen.
    forgotten : tuple of int
        Numbers of blobs that will not be referred to again.
    function : int
        Number of the blob that is the function.
    star : int
        How payloads are applied to it: a `Star`.
    blob_grants : tuple of (int, Grants)
        Rights to the segments of the blobs that this frame refers to, by the blobs' numbers.
    first : int
        Number of the first task, counted from the worker's start.
    tasks : tuple of TaskWire
        The tasks.
    traced : bool
        Whether the replies are to be `Traced`.
    """

    kind: int
    new_blobs: tuple[BlobWire, ...]
    forgotten: tuple[int, ...]
    function: int
    star: int
    blob_grants: tuple[tuple[int, Grants], ...]
    first: int
    tasks: tuple[TaskWire, ...]
    traced: bool


class Trim(NamedTuple):
    """Give back all memory that is kept warm."""

    kind: int


Order: TypeAlias = Frame | Trim
_ORDERS: tuple[type[Frame], type[Trim]] = (Frame, Trim)
_FRAME, _TRIM = range(2)


def frame(
    *,
    new_blobs: Iterable[BlobWire],
    forgotten: Iterable[int],
    function: int,
    star: int,
    blob_grants: Iterable[tuple[int, Grants]],
    first: int,
    tasks: Iterable[TaskWire],
    traced: bool,
) -> Message:
    """See `Frame`."""
    return (
        _FRAME,
        tuple(new_blobs),
        tuple(forgotten),
        function,
        int(star),
        tuple(blob_grants),
        first,
        tuple(tasks),
        traced,
    )


def trim() -> Message:
    """See `Trim`."""
    return (_TRIM,)


def read_orders(messages: list[Message]) -> list[Order]:
    """Messages of the parent with named fields."""
    return [_view(_ORDERS[message[0]], message) for message in messages]


# --------------------------------------------------------------------------------------------------------- replies


class Times(NamedTuple):
    """Seconds that a task took: to rebuild its arguments, to run, to encode its result."""

    decode: float
    run: float
    encode: float


class Hello(NamedTuple):
    """The worker is ready for tasks.

    Attributes
    ----------
    names : dict
        What a spawned worker has in its ``__main__``.
    may_borrow : bool
        Whether it can read what the parent only lends.
    """

    kind: int
    names: dict[str, str | None]
    may_borrow: bool


class InitializerFailed(NamedTuple):
    """The initializer failed: its exception, and the traceback as text."""

    kind: int
    stream: bytes
    text: str


class TaskDone(NamedTuple):
    """The value of a task."""

    kind: int
    number: int
    times: tuple[float, float, float]
    body: Body
    grants: Grants


#: In place of an item's position in its task: it is not known which item an error belongs to; or to none of them.
SOME_ITEM, NO_ITEM = -1, -2


class TaskFailed(NamedTuple):
    """The exception of a task, its traceback as text, and the position of the item for which the function raised it."""

    kind: int
    number: int
    times: tuple[float, float, float]
    body: Body
    grants: Grants
    text: str
    at: int


class TaskSkipped(NamedTuple):
    """The parent had taken this task back."""

    kind: int
    number: int


class TaskUnreadable(NamedTuple):
    """The worker cannot read what the parent lent for this task."""

    kind: int
    number: int


class MemoryShort(NamedTuple):
    """There is no memory for a result; other processes may have some to give back."""

    kind: int


class Traced(NamedTuple):
    """A reply to a task, with moments for a trace, in seconds of the monotonic clock.

    Attributes
    ----------
    began : float
        When the worker began the task.
    apart : float
        Seconds in which the result was taken apart. The rest of its encoding was copying.
    sent : float
        When the worker had sent its reply to the task before this one; 0 when that is not known.
    reply : Message
        The reply.
    """

    kind: int
    began: float
    apart: float
    sent: float
    reply: Message


Reply: TypeAlias = (
    Hello | InitializerFailed | TaskDone | TaskFailed | TaskSkipped | TaskUnreadable | MemoryShort | Traced
)
_REPLIES: tuple[type[Reply], ...] = (
    Hello,
    InitializerFailed,
    TaskDone,
    TaskFailed,
    TaskSkipped,
    TaskUnreadable,
    MemoryShort,
    Traced,
)
_HELLO, _INITIALIZER_FAILED, _TASK_DONE, _TASK_FAILED, _TASK_SKIPPED, _TASK_UNREADABLE, _MEMORY_SHORT, _TRACED = range(
    8
)


def hello(names: dict[str, str | None], may_borrow: bool) -> Message:
    """See `Hello`."""
    return _HELLO, names, may_borrow


def initializer_failed(stream: bytes, text: str) -> Message:
    """See `InitializerFailed`."""
    return _INITIALIZER_FAILED, stream, text


def task_done(number: int, times: tuple[float, float, float], body: Body, grants: Grants = ()) -> Message:
    """See `TaskDone`."""
    return _TASK_DONE, number, times, body, grants


def task_failed(
    number: int, times: tuple[float, float, float], body: Body, grants: Grants, text: str, at: int = SOME_ITEM
) -> Message:
    """See `TaskFailed`."""
    return _TASK_FAILED, number, times, body, grants, text, at


def task_skipped(number: int) -> Message:
    """See `TaskSkipped`."""
    return _TASK_SKIPPED, number


def task_unreadable(number: int) -> Message:
    """See `TaskUnreadable`."""
    return _TASK_UNREADABLE, number


def memory_short() -> Message:
    """See `MemoryShort`."""
    return (_MEMORY_SHORT,)


def traced(began: float, apart: float, sent: float, reply: Message) -> Message:
    """See `Traced`."""
    return _TRACED, began, apart, sent, reply


def read_replies(messages: list[Message]) -> list[Reply]:
    """Messages of a worker with named fields."""
    # One call for all of them: there may be tens of thousands a second.
    return [_view(_REPLIES[message[0]], message) for message in messages]
