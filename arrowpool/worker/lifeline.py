"""The pipe by which the workers of a pool notice that their parent has ended, however it ended."""

from __future__ import annotations

import os

from arrowpool.forking import keep_from_children, no_forks
from arrowpool.memory import platform


class Lifeline:
    """A pipe that the parent never writes to: the kernel reports its end to the workers when the parent has ended.

    All workers of a pool share one. Each worker opens the reading end separately, so that the kernel can signal each of them.
    """

    def __init__(self) -> None:
        with no_forks():
            #: Both ends; -1 when closed. Written here and in `close`, and in a forked child, which has one thread. Read by the thread that
            #: launches a worker. Safe: the pool closes its lifeline after the last launch.
            self._reader, self._writer = os.pipe()
            keep_from_children(self)

    def end_for_worker(self) -> tuple[int, bool]:
        """A descriptor for one worker, and whether `platform.tie` may use it: whether it was opened for this worker only."""
        try:
            return platform.open_again(self._reader, os.O_RDONLY), True
        except OSError:
            return os.dup(self._reader), False

    def close(self) -> None:
        """Close both ends, after the last worker has ended."""
        reader, writer = self._reader, self._writer
        # Forgotten first: a child that is forked in between would close other files that have the numbers by then.
        self._reader = self._writer = -1
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)

    close_in_child = close
