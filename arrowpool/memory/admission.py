"""Processes that take memory one after the other where there is little of it, so that no two are promised the same.

A file lock (`flock`), which the kernel takes back from who dies. It belongs to the open file: each process must have opened
the file for itself. Where that cannot be done (no ``/proc``), nobody waits for anybody.
"""

from __future__ import annotations

import fcntl
import time

from arrowpool.tuning import RELIEF_SECONDS

_STEP_SECONDS = 0.002


class Turns:
    """A lock for a ``with`` block: shared, until `alone` is called in it.

    Nobody waits for longer than a second: a killed worker may have left a child that holds its lock.
    """

    def __init__(self, fd: int):
        self._fd = fd

    def __enter__(self) -> None:
        self._lock(fcntl.LOCK_SH)

    def __exit__(self, *_: object) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            return

    def alone(self) -> None:
        """Wait until nobody else is in such a block."""
        self._lock(fcntl.LOCK_EX)

    def _lock(self, how: int) -> None:
        deadline = time.monotonic() + RELIEF_SECONDS
        while True:
            try:
                fcntl.flock(self._fd, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(_STEP_SECONDS)  # waiting in the kernel could not be limited
            except OSError:
                return  # no file locks here
            else:
                return
