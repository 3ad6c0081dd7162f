"""Turns: where memory is short, processes allocate it one after the other, so that two of them do not count on the same memory.

A turn is a file lock (`flock`), which the kernel releases when its process dies. The lock belongs to the open file, so each
process opens the file for itself. Where that is not possible (no ``/proc``), processes do not wait for each other.
"""

from __future__ import annotations

import time

from arrowpool.memory import platform
from arrowpool.tuning import RELIEF_SECONDS

_STEP_SECONDS = 0.002


class Turns:
    """A lock for a ``with`` block: shared, until `alone` is called in it.

    Used by one thread of each process. A wait lasts at most a second, and the block then runs without the lock: a killed worker may
    have left a child that holds its lock.
    """

    def __init__(self, fd: int):
        self._fd = fd

    def __enter__(self) -> None:
        self._lock(shared=True)

    def __exit__(self, *_: object) -> None:
        try:
            platform.unlock_file(self._fd)
        except OSError:
            return

    def alone(self) -> None:
        """Wait until no other process is in such a block, and keep others out."""
        self._lock(shared=False)

    def _lock(self, *, shared: bool) -> None:
        deadline = time.monotonic() + RELIEF_SECONDS
        while True:
            try:
                platform.lock_file(self._fd, shared=shared, wait=False)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(_STEP_SECONDS)  # a wait in the kernel has no time limit
            except OSError:
                return  # no file locks here
            else:
                return
