"""Waiting for descriptors: one call for the wait, one pipe by which other threads end it.

`select.poll`, not `select.select`: a process with many workers has descriptors above 1,023, which the latter refuses. A loop
that waits for the same descriptors again and again, or wants to know more than that they are readable, keeps a poll object
of its own (the collector, the shelf's owner, the books of forked children).
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from multiprocessing import util


def wait_readable(fds: Iterable[int], timeout: float | None = 0) -> list[int]:
    """Wait until at least one descriptor can be read from without waiting.

    Parameters
    ----------
    fds : iterable of int
        Descriptors.
    timeout : float or None
        Seconds to wait at most; None waits without a limit, 0 only looks.

    Returns
    -------
    list of int
        The descriptors that have data, are at their end, or are closed. Empty when the time is over.

    Raises
    ------
    OverflowError
        When `timeout` is more than the kernel takes: 2**31 milliseconds.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)]


class SelfPipe:
    """Wakes the one thread that waits for `reader` among other descriptors.

    `wake` is safe in any thread, in a signal handler and in a finalizer: it takes no lock and never waits.
    """

    def __init__(self) -> None:
        #: Written by `close` alone. Read by the waiting thread.
        self.reader = -1
        #: Written by `close` alone. Read by every thread that wakes the waiting one.
        self._writer = -1
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def wake(self) -> None:
        """End the current wait, or the next one."""
        try:
            os.write(self._writer, b"\0")
        except OSError:  # the pipe is full, so the thread will wake; or it is closed, so the thread has ended
            util.debug("waiting thread not woken")

    def drain(self) -> None:
        """Forget all wake-ups until now. Only in the waiting thread, after `reader` was found readable."""
        os.read(self.reader, 1 << 16)

    def close(self) -> None:
        """Release the descriptors, once the waiting thread has ended."""
        reader, writer = self.reader, self._writer
        # Forgotten first: a thread that wakes this one from now on does not write to what gets these numbers next.
        self.reader = self._writer = -1
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)
