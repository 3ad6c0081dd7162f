"""A thread with a name and a loop of its own. Not a `Thread` subclass: that class's private names change between versions."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from arrowpool.waiting import slices


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
