"""What a call returns: the standard library's result objects, which here can also be ended before all tasks are answered."""

from __future__ import annotations

import contextlib
from multiprocessing.pool import (
    ApplyResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
)
from typing import Any

# Untyped, since it is their private parts that are used.
_MapBase: Any = MapResult


class Imap:
    """Mixed into an imap iterator: takes nothing any more once it was ended; an interrupt while waiting ends its call."""

    _ended = False

    def next(self: Any, timeout: float | None = None) -> Any:
        """The next result.

        Raises
        ------
        StopIteration
            When there are no more.
        multiprocessing.TimeoutError
            When none comes within `timeout` seconds.
        KeyboardInterrupt
            When interrupted; the call is cancelled then.
        """
        pool = self._pool
        try:
            return super().next(timeout)  # type: ignore[misc]
        except KeyboardInterrupt:
            if pool is not None:
                pool._cancel(self._job)
            raise

    __next__ = next

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        if not self._ended:
            super()._set(index, outcome)  # type: ignore[misc]

    def _set_length(self: Any, length: int) -> None:
        # As in the standard library, but for the condition: the feeder may come to this after the end.
        with self._cond:
            if not self._ended:
                self._length = length
                if self._index == length:
                    self._end()

    def _end(self: Any) -> None:
        self._cond.notify_all()
        self._pool = None
        with contextlib.suppress(KeyError):
            del self._cache[self._job]

    def unread(self: Any) -> int:
        """How many results are here that nobody has taken."""
        return len(self._items) + len(self._unsorted)

    def fail(self: Any, error: BaseException) -> None:
        """End it: `error` is the last thing that comes."""
        with self._cond:
            if self._index != self._length:
                self._ended = True
                self._items.append((False, error))
                self._index += 1
                self._length = self._index
                self._end()


class ImapResults(Imap, IMapIterator):  # type: ignore[type-arg]
    """Results in the order of the items."""


class UnorderedImapResults(Imap, IMapUnorderedIterator):  # type: ignore[type-arg]
    """Results in the order in which they come."""


def fail(result: Any, error: BaseException) -> None:
    """End a call with `error`, whatever is missing of it; its callbacks are not called."""
    if isinstance(result, Imap):
        result.fail(error)
    else:
        result._error_callback = None
        if isinstance(result, _MapBase):
            result._number_left = 1
        result._set(0, (False, error))


__all__ = ["ApplyResult", "Imap", "ImapResults", "MapResult", "UnorderedImapResults", "fail"]
