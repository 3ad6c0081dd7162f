"""What goes through the pipe: the layout of messages, and what their fields mean.

Parent to worker; one tuple a frame:

    (new_blobs, forgotten, function, star, blob_grants, first, tasks)

    new_blobs    ((number, stateless, body), ...)  functions and shared objects this worker has not seen yet
    forgotten    (number, ...)                     blobs that will not be referred to again
    function     number of the blob that is the function
    star         how the payload is applied: see `Star`
    blob_grants  ((number, grants), ...)           rights to the segments of the blobs that this frame refers to
    first        number of the first task, counted from the worker's start
    tasks        ((body, grants), ...)

Worker to parent:

    (HELLO, names, may_borrow)                     ready for tasks; what a spawned worker has in its ``__main__``; whether it
                                                   can read what the parent only lends
    (BROKEN, stream, text)                          the initializer failed with this exception
    (DONE, number, times, body, grants)            the task's value
    (FAILED, number, times, body, grants, text)    the task's exception, and its traceback as text
    (SKIPPED, number)                              the task had been taken back by the parent
    (UNREADABLE, number)                           what the parent lent for this task cannot be read
    (SHORT,)                                       there is no memory for a result; others may have some to give back

`times` are seconds: for rebuilding the arguments, for the task itself, for encoding its result.

A frame whose `first` is TRIM has no tasks: give back all memory that is kept warm.
"""

from __future__ import annotations

import enum
from typing import Any

#: Where a unit lies: ``(segment, offset, bytes)`` with the number of one of the parcel's segments. Or, with ``~number``, a
#: negative one, of a shared object: ``(~number,)`` for the object, ``(~number, offset, bytes, copy)`` for a window of it.
Room = tuple[int, ...]

#: The right to one segment, as it goes through the pipe: slot, offset in the arena, bytes; and whose arena it is, if not the
#: sender's: see `Mapping.source`.
GrantWire = tuple[Any, ...]

#: An encoded object without the rights to its segments: ``(stream, rooms)``, the stream None when it is the first room.
#: Or ``(object,)`` when that is a few plain values, which the channel carries as they are.
Body = tuple[Any, ...]


_PLAIN = frozenset((type(None), bool, int, float))

_PLAIN_ITEMS = 4

_PLAIN_LENGTH = 1000


def is_plain(items: Any) -> bool:
    """Whether these few items are numbers or short strings: immutable, and quicker without pickle."""
    if len(items) > _PLAIN_ITEMS:
        return False
    for item in items:
        kind = type(item)
        if kind not in _PLAIN and not ((kind is str or kind is bytes) and len(item) < _PLAIN_LENGTH):
            return False
    return True


def body_bytes(body: Body) -> int:
    """About how many bytes of the pipe a body takes."""
    return len(body[0] or b"") if len(body) == 2 else 16


HELLO, BROKEN, DONE, FAILED, SKIPPED, UNREADABLE, SHORT = range(7)

TRIM = -1


class Star(enum.IntEnum):
    """How a task's payload is applied to its function."""

    CALL = 0  # payload (args, kwds): function(*args, **kwds)
    MAP = 1  # payload (x, ...): [function(x), ...]
    STARMAP = 2  # payload (args, ...): [function(*args), ...]
