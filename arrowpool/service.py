"""A thread with a name and a loop of its own. Not a `Thread` subclass: that class's private names change between versions."""

from __future__ import annotations

import threading

from arrowpool.waiting import slices

#: Held while a worker is forked, and while another thread of a pool pickles or unpickles: that may import modules, and a
#: child forked in the middle of an import could never import that module. Reentrant, since what is unpickled may well
#: make a pool of its own.
forking = threading.RLock()


class Service:
    """Runs `run` in a daemon thread between `start` and `join`."""

    def __init__(self, name: str):
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)

    def run(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the loop; whether it has ended. Nothing to wait for when it never started, or from within."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            for seconds in slices(timeout):
                self._thread.join(seconds)
                if not self._thread.is_alive():
                    break
        return not self._thread.is_alive()
