"""A thread with a name and a loop of its own. Not a `Thread` subclass: that class's private names change between versions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from arrowpool.waiting import slices


def tell(log: Callable[..., None], text: str, *args: object) -> None:
    """Log it from a thread that all calls depend on, whatever the user's handlers and filters make of it."""
    with contextlib.suppress(Exception):
        log(text, *args)


class Service:
    """Runs `run` in a daemon thread between `start` and `join`."""

    def __init__(self, name: str):
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Before Python 3.13, a thread whose `join` was interrupted once counts as ended.
        self._over = threading.Event()
        #: Whether the loop has ended; and what is to be done once it has. Both are this thread's own.
        self._is_through = False
        self._finally: Callable[[], None] | None = None

    def run(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self.run()
        finally:
            self._is_through = True
            try:
                if self._finally is not None:
                    self._finally()
            finally:
                self._over.set()

    def start(self) -> None:
        self._thread.start()

    def is_here(self) -> bool:
        """Whether it is this thread's loop that calls this."""
        return self._thread.ident == threading.get_ident() and not self._is_through

    def leave_to_end(self, what: Callable[[], None]) -> bool:
        """Have `what` called at the end of the loop, if it is this one that asks: it cannot wait for itself. Whether it will.

        For finalizers too, which run in any thread: it takes no lock.
        """
        if not self.is_here():
            return False
        self._finally = what
        return True

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the loop; whether it has ended. Nothing to wait for when it never started, or from within."""
        if self._thread.ident is None or self._thread.ident == threading.get_ident():
            return self._is_through or not self._thread.is_alive()
        for seconds in slices(timeout):
            if self._over.wait(seconds) or not self._thread.is_alive():  # in a forked child it never was
                self._thread.join()
                return True
        return False
