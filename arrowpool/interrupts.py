"""Waits that an interrupt ends, and that a forked child does not begin.

A signal does not end a wait for a lock in two cases: when it comes at the moment when Python begins to wait; and when a library
has installed its own handler, after which the kernel resumes the wait (polars does:
https://github.com/pola-rs/polars/issues/21739). Python's handler then runs when the main thread executes Python code again. So
waits for the user are split into slices.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures._base import PENDING, RUNNING
from typing import Any

from arrowpool.errors import ForkedPoolError

#: Longest time until an interrupt is handled.
_SLICE_SECONDS = 0.25


def slices(timeout: float | None) -> Iterator[float]:
    """Split a wait into short ones.

    Parameters
    ----------
    timeout : float or None
        Maximum number of seconds in all; None for no limit. There is always a first slice, which may have 0 seconds.

    Yields
    ------
    float
        Seconds to wait next.
    """
    until = float("inf") if timeout is None else time.monotonic() + timeout
    left = until - time.monotonic()
    while True:
        yield max(0.0, min(left, _SLICE_SECONDS))
        left = until - time.monotonic()
        if not left > 0:
            return


def check_process(pid: int) -> None:
    """Raise `ForkedPoolError` in every process but `pid`: the others have no thread that sets results or releases locks."""
    if os.getpid() != pid:
        raise ForkedPoolError(pid)


class InterruptibleFuture(Future[Any]):
    """A future whose waits end with an interrupt, whichever library handles the signal. In a forked child they raise at once."""

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
