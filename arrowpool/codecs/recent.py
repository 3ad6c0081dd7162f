"""A dictionary that forgets: what templates are remembered in, on both sides.

Guarantees: at most twice `limit` entries, and twice so many bytes. What was looked up since half of them were forgotten is kept.

Threads: several may read and write at a time, without a lock. Each step is one operation on one dictionary. If two threads
interleave, an entry is forgotten too early or the limit is exceeded by one entry a thread; the entry is then made again. The
count of bytes may miss an entry.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The entries used most recently.

    Parameters
    ----------
    limit : int
        Half of the number of entries to keep.
    most_bytes : int
        Half of the number of bytes to keep.
    weigh : callable
        The bytes of an entry, given its key and its value. By default, entries are small, and only counted.
    """

    __slots__ = ("_bytes", "_limit", "_most_bytes", "_new", "_old", "_weigh")

    def __init__(self, limit: int, most_bytes: int = sys.maxsize, weigh: Callable[[Key, Value], int] = lambda *_: 0):
        self._limit = limit
        self._most_bytes = most_bytes
        self._weigh = weigh
        #: Of the entries in `_new`.
        self._bytes = 0
        #: Entries stored or looked up lately; becomes `_old` when it is full. Written by any thread.
        self._new: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def get(self, key: Key) -> Value | None:
        """The entry; None if there is none, or none any more."""
        found = self._new.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def of(self, key: Key, make: Callable[[Key], Value]) -> Value:
        """The entry; made of its key, and remembered, if there is none."""
        found = self._new.get(key)
        if found is None:
            found = self.get(key)
            if found is None:
                found = make(key)
                self.put(key, found)
        return found

    def put(self, key: Key, value: Value) -> None:
        """Remember an entry, which is not None."""
        nbytes = self._weigh(key, value)
        if len(self._new) >= self._limit or self._bytes + nbytes > self._most_bytes:
            self._old, self._new, self._bytes = self._new, {}, 0
        self._new[key] = value
        self._bytes += nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._old, self._new, self._bytes = {}, {}, 0


def template_of(key: Any) -> bytes:
    """The bytes of a template: its key, which has plain values only, for `pickle.loads`."""
    return pickle.dumps(key, 4)
