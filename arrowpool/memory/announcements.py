"""Announcements: a part of the control page in which the parent writes what it sends to the worker, in words for `top`.

A ring of places, one for each of the last frames of tasks. The acting thread of the parent (see `engine.mailbox`) writes; processes that
show the page read. A place is written in three steps: its number of tasks becomes 0, the rest is written, the number is written. A reader
looks at the number before and after it has read the rest, so it shows no half of a change; it may show an older announcement.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

#: In the control page, behind its words.
_OFFSET = 1024
_PLACES = 8
_WORDS = 5
_NAME_BYTES = 88
_PLACE_BYTES = 8 * _WORDS + _NAME_BYTES
_PLACE = struct.Struct(f"QQqqq{_NAME_BYTES}s")
END = _OFFSET + _PLACES * _PLACE_BYTES


class Announced(NamedTuple):
    """Tasks of one frame.

    Attributes
    ----------
    tasks : int
        Number of tasks.
    first : int
        Number of the first task, counted from the worker's start.
    item : int
        Index of the first item in the call; -1 when the items are not known.
    size, items : int
        Number of items in a task, the last of which may have fewer; and in all tasks.
    name : bytes
        The function, in UTF-8, shortened.
    """

    tasks: int
    first: int
    item: int
    size: int
    items: int
    name: bytes

    def items_of(self, number: int) -> range:
        """The items of the task with this number; empty when they are not known."""
        if self.item < 0:
            return range(0)
        start = (number - self.first) * self.size
        return range(self.item + start, self.item + min(start + self.size, self.items))


class Announcements:
    """The ring.

    Parameters
    ----------
    page : memoryview
        The bytes of the control page.
    """

    def __init__(self, page: memoryview):
        self._page = page
        self._words = page.cast("Q")
        #: Number of announcements. For the acting thread only.
        self._written = 0

    def write(self, tasks: int, first: int, item: int, size: int, items: int, name: bytes) -> None:
        """Announce a frame, before it is sent: see `Announced`."""
        at = _OFFSET + self._written % _PLACES * _PLACE_BYTES
        self._written += 1
        self._words[at // 8] = 0
        _PLACE.pack_into(self._page, at, 0, first, item, size, items, name)
        self._words[at // 8] = tasks

    def read(self, number: int) -> Announced | None:
        """The announcement of the task with this number; None when there is none, or it is overwritten."""
        for at in range(_OFFSET, END, _PLACE_BYTES):
            tasks = self._words[at // 8]
            place = Announced(*_PLACE.unpack_from(self._page, at))
            if tasks and tasks == self._words[at // 8] and place.first <= number < place.first + tasks:
                return place._replace(tasks=tasks, name=place.name.rstrip(b"\0"))
        return None
