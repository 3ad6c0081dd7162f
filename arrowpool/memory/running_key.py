"""The key of the group that a worker runs now: a part of the control page that the worker writes, for `top`.

Written in three steps: its mark becomes 0, the text is written, the mark is written. A reader looks at the mark before and after it has
read the text. The mark has the task and the position of the group in it, so a text that was written for another one is not shown.
"""

from __future__ import annotations

import datetime
import struct

from arrowpool.memory.announcements import END

_TEXT_BYTES = 120
_PLACE = struct.Struct(f"QQ{_TEXT_BYTES}s")
_MARK = END // 8
#: Added to the size of a text that is the key itself: most keys are strings, and to write them costs less than their `repr`.
_IS_KEY = 1 << 16
_MASK = (1 << 32) - 1
#: Keys whose `repr` is short and runs no code of the user, and libraries of such types.
_PLAIN = frozenset({int, float, bool, type(None), datetime.date, datetime.datetime, datetime.timedelta})
_LIBRARIES = frozenset({"numpy", "pandas"})
_MOST_PARTS = 4
RUNNING_KEY_END = END + _PLACE.size


class RunningKey:
    """The key of the running group.

    Parameters
    ----------
    page : memoryview
        The bytes of the control page.
    """

    def __init__(self, page: memoryview):
        self._page = page
        self._words = page.cast("Q")

    def write(self, task: int, position: int, key: object) -> None:
        """Note the key of the group at a position of a task. For the worker's main thread."""
        is_key = type(key) is str
        text: str = key if is_key else text_of(key)  # type: ignore[assignment]
        data = text[:_TEXT_BYTES].encode(errors="backslashreplace")[:_TEXT_BYTES]
        words = self._words
        words[_MARK] = 0
        _PLACE.pack_into(self._page, END, 0, len(data) + _IS_KEY if is_key else len(data), data)
        words[_MARK] = ((task + 1 & _MASK) << 32) | (position + 1 & _MASK)

    def read(self, task: int, position: int) -> str:
        """The key of the group at this position of a task; empty when it is not known."""
        mark, size, data = _PLACE.unpack_from(self._page, END)
        wanted = ((task + 1 & _MASK) << 32) | (position + 1 & _MASK)
        if mark != wanted or mark != self._words[_MARK]:
            return ""
        text = data[: size % _IS_KEY].decode(errors="ignore")
        return repr(text) if size >= _IS_KEY else text


def text_of(key: object) -> str:
    """A key in words; empty if that may take long or run code of the user's."""
    kind = type(key)
    if kind is str:
        return repr(key[:_TEXT_BYTES])  # type: ignore[index]
    if kind is tuple:
        parts: tuple[object, ...] = key  # type: ignore[assignment]
        texts = [text_of(part) for part in parts[:_MOST_PARTS]]
        return f"({', '.join(texts)}{', ...' if len(parts) > _MOST_PARTS else ''})" if all(texts) else ""
    if kind in _PLAIN or kind.__module__.partition(".")[0] in _LIBRARIES:
        try:
            return repr(key)
        except ValueError:  # a number with too many digits
            return ""
    return ""
