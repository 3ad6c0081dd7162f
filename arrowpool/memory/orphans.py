"""Arenas whose owners have ended and of which results are still read: they keep a descriptor each, so only some may.

Called by the receiver. With a descriptor, results can be lent to the next pool without a copy. But a program that keeps results of
thousands of workers, one after the other, would run out of descriptors.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque

from arrowpool.memory.mapping import Mapping

#: So many keep their descriptors, those that ended last.
KEPT = 64

#: Those with a descriptor, the one that ended first at the head. Read and changed with `_lock` held, which no finalizer takes.
_with_file: deque[weakref.ref[Mapping]] = deque()
_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: _forget_in_child())


def add(mapping: Mapping) -> None:
    """The owner of this arena has ended. Any thread may call this."""
    if not mapping.is_leased:
        return
    with _lock:
        alive = [reference for reference in _with_file if reference() is not None]
        _with_file.clear()
        _with_file.extend((*alive, weakref.ref(mapping)))
        for _ in range(len(_with_file) - KEPT):
            oldest = _with_file.popleft()
            found = oldest()
            if found is not None and not found.close_file():
                _with_file.append(oldest)  # a thread uses it now; another time


def _forget_in_child() -> None:
    """The parent's threads are not there, one of which may have held the lock; and the results are the parent's."""
    global _lock
    _lock = threading.Lock()
    _with_file.clear()
