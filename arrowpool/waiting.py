"""Waiting for descriptors: `wait_readable`, and `SelfPipe`, by which other threads end a wait.

With `select.poll`: `select.select` refuses descriptors above 1,023, which a process with many workers has. A loop that waits for
the same descriptors again and again, or needs more than their readability, keeps a poll object of its own (the collector, the
shelf's owner, the books of forked children).
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from multiprocessing import util

#: For loops that keep a poll object. No other module imports these from `select`.
poll = select.poll
POLLIN, POLLHUP, POLLERR, POLLNVAL = select.POLLIN, select.POLLHUP, select.POLLERR, select.POLLNVAL


def wait_readable(fds: Iterable[int], timeout: float | None = 0) -> list[int]:
    """Wait until at least one descriptor is readable.

    Parameters
    ----------
    fds : iterable of int
        Descriptors.
    timeout : float or None
        Maximum number of seconds to wait; None for no limit, 0 to return at once.

    Returns
    -------
    list of int
        The descriptors that have data, are at their end, or are closed. Empty after `timeout`.

    Raises
    ------
    OverflowError
        When `timeout` is above the kernel's limit of 2**31 milliseconds.
    """
    poller = poll()
    for fd in fds:
        poller.register(fd, POLLIN)
    return [fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)]


def has_reader(fd: int) -> bool:
    """Whether a pipe that this process writes to still has a reader: the kernel reports an error for a pipe that has none."""
    poller = poll()
    poller.register(fd, 0)
    return not any(event & POLLERR for _, event in poller.poll(0))


class SelfPipe:
    """Wakes the one thread that waits for `reader`, alone or among other descriptors.

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
        """Make `reader` unreadable until the next `wake`. For the waiting thread, when `reader` is readable."""
        os.read(self.reader, 1 << 16)

    def close(self) -> None:
        """Release the descriptors, after the waiting thread has ended."""
        reader, writer = self.reader, self._writer
        # The attributes first: a later `wake` must not write to another file that gets the same number.
        self.reader = self._writer = -1
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)
