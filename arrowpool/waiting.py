"""Waiting that Ctrl-C ends.

A signal does not end a wait for a lock when it comes in the instant in which Python begins to wait, nor when a library has
installed a handler of its own for it, after which the kernel resumes what was interrupted (polars does:
https://github.com/pola-rs/polars/issues/21739). Python's own handler runs when the main thread does something else; so
whoever waits on behalf of the user waits in slices.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures._base import PENDING, RUNNING
from typing import Any

from arrowpool.errors import ForkedPoolError

#: An interrupt is noticed after this time at the latest.
_SLICE_SECONDS = 0.25


def slices(timeout: float | None) -> Iterator[float]:
    """For how long to wait at once, again and again, until `timeout` seconds are over; for ever when it is None.

    Parameters
    ----------
    timeout : float or None
        Seconds. The first slice always comes, 0 long where there is no time.

    Yields
    ------
    float
        Seconds.
    """
    until = float("inf") if timeout is None else time.monotonic() + timeout
    left = until - time.monotonic()
    while True:
        yield max(0.0, min(left, _SLICE_SECONDS))
        left = until - time.monotonic()
        if not left > 0:
            return


def check_process(pid: int) -> None:
    """Raise `ForkedPoolError` in every process but `pid`: nobody there brings what is waited for, or ever releases a lock."""
    if os.getpid() != pid:
        raise ForkedPoolError(pid)


class InterruptibleFuture(Future[Any]):
    """A future whose waiters can be interrupted, whoever handles the signal, and that a forked child does not wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def result(self, timeout: float | None = None) -> Any:
        try:
            self._await(timeout)
            return super().result(0)
        finally:
            del self  # its exception refers to this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        return super().exception(0)

    def _await(self, timeout: float | None) -> None:
        if self._state in (PENDING, RUNNING):
            check_process(self._pid)
        with self._condition:
            for seconds in slices(timeout):
                if self.done():
                    return
                self._condition.wait(seconds)
