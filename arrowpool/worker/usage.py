"""How much a worker computes, and how long it waits for a processor: noted in its control page for `pool.stats()`."""

from __future__ import annotations

import os
import time

from arrowpool.memory import facilities
from arrowpool.memory.control_page import ControlPage

#: The kernel's figure for waits is read this often at most: that takes a few microseconds.
_READ_SECONDS = 0.02


class Usage:
    """Counts from its construction on. For the worker's main thread only."""

    def __init__(self, control: ControlPage):
        self._control = control
        self._cpu_before = time.process_time()
        #: Descriptor of the kernel's figures for this thread; -1 where there are none.
        self._stat = -1
        self._read_at = 0.0
        self._waited_before = 0.0
        try:
            self._stat = os.open(facilities.proc("thread-self/schedstat"), os.O_RDONLY | os.O_CLOEXEC)
            self._waited_before = self._waited()
        except (OSError, ValueError, IndexError):
            self._close()

    def note(self) -> None:
        """Note the seconds so far. Called before the last reply of a message, which may end a call."""
        self._control.cpu = time.process_time() - self._cpu_before
        now = time.monotonic()
        if self._stat >= 0 and now >= self._read_at:
            self._read_at = now + _READ_SECONDS
            try:
                self._control.delayed = self._waited() - self._waited_before
            except (OSError, ValueError, IndexError):
                self._close()

    def _waited(self) -> float:
        """Seconds for which this thread was ready to run, and had no processor."""
        return int(os.pread(self._stat, 200, 0).split()[1]) / 1e9

    def _close(self) -> None:
        if self._stat >= 0:
            os.close(self._stat)
        self._stat = -1
