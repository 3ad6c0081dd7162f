"""Threads of the package: how they start, end and wait.

A signal does not end a wait for a lock when it comes in the instant in which Python begins to wait, nor when a library has
installed a handler of its own for it, after which the kernel resumes what was interrupted (polars does:
https://github.com/pola-rs/polars/issues/21739). Python's own handler runs when the main thread does something else; so
whoever waits on behalf of the user waits in slices.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
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


def tell(log: Callable[..., None], text: str, *args: object) -> None:
    """Log it from a thread that all calls depend on, whatever the user's handlers and filters make of it."""
    with contextlib.suppress(Exception):
        log(text, *args)


#: Of each thread of ours: the service that runs in it.
_here = threading.local()


def current() -> Service | None:
    """The service in whose thread this is."""
    return getattr(_here, "service", None)


class Service:
    """Runs `run` in a daemon thread between `start` and `join`.

    Parameters
    ----------
    name : str
        Name of the thread.
    part_of : Service, optional
        What this one works for: it may have to wait for this thread.
    """

    def __init__(self, name: str, part_of: Service | None = None):
        self._part_of = part_of
        #: Done once the loop has ended, each by the thread that takes it out.
        self._last_acts: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Before Python 3.13, a thread whose `join` was interrupted once counts as ended.
        self._over = threading.Event()

    def run(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        _here.service = self
        try:
            self.run()
        finally:
            self._over.set()
            self._act_for_the_last_time()

    def do_last(self, act: Callable[[], None]) -> None:
        """Do this once the loop has ended: in its thread, or here if that is too late for it."""
        self._last_acts.append(act)
        if self._over.is_set():
            self._act_for_the_last_time()

    def _act_for_the_last_time(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._last_acts.popleft()()

    def start(self) -> None:
        self._thread.start()

    def is_here(self) -> bool:
        """Whether this is its thread, or the thread of a part of it."""
        service = current()
        while service is not None:
            if service is self:
                return True
            service = service._part_of
        return False

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the loop; whether it has ended. Nothing to wait for when it never started, or from within."""
        if self._thread.ident is None or self._thread is threading.current_thread():
            return self._over.is_set() or not self._thread.is_alive()
        for seconds in slices(timeout):
            if self._over.wait(seconds) or not self._thread.is_alive():  # in a forked child it never was
                self._thread.join()
                return True
        return False
