"""The threads of the package: each service runs in one of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from arrowpool.interrupts import slices


def tell(log: Callable[..., None], text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
    """Log from a thread that serves all calls: an error in the user's handlers or filters does not end the thread.

    `extra` has fields for the record.
    """
    with contextlib.suppress(Exception):
        log(text, *args, extra=extra, stacklevel=2)


#: For each thread of the package, the service that runs in it. Thread-local: no other thread reads or writes it.
_here = threading.local()


def current() -> Service | None:
    """The service that runs in the current thread; None in any other thread."""
    return getattr(_here, "service", None)


class Service:
    """Runs `run` in a daemon thread between `start` and `join`.

    Parameters
    ----------
    name : str
        Name of the thread.
    part_of : Service, optional
        The service that this one works for, and that may wait for this thread.
    """

    def __init__(self, name: str, part_of: Service | None = None):
        self._part_of = part_of
        #: Run after `run` has returned. Any thread appends; a thread that takes one out runs it. Both are atomic operations,
        #: so each act runs once.
        self._last_acts: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        #: Set by the thread at the end of `run`; any thread waits for it. Not `Thread.join` alone: before Python 3.13, a thread
        #: whose `join` was interrupted once counts as ended.
        self._over = threading.Event()
        #: Seconds that the thread has computed. Written by it at the end of `run`; read by any thread. None until then.
        self._cpu_seconds: float | None = None

    def run(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        _here.service = self
        try:
            self.run()
        finally:
            self._cpu_seconds = time.thread_time()
            self._over.set()
            self._act_for_the_last_time()

    def do_last(self, act: Callable[[], None]) -> None:
        """Run `act` after `run` has returned: in the service's thread, or in the calling thread if the service has ended.

        1. This thread appends the act.
        2. The service's thread sets `_over`, then runs all acts that it finds.
        3. This thread reads `_over`.

        If 1 comes before 2, the service's thread finds the act. If 2 comes before 1, this thread sees `_over` at 3 and
        runs the act. If both look, the one that takes the act out runs it: once in each case.
        """
        self._last_acts.append(act)
        if self._over.is_set():
            self._act_for_the_last_time()

    def _act_for_the_last_time(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._last_acts.popleft()()

    def start(self) -> None:
        self._thread.start()

    def try_start(self) -> bool:
        """Start; return False if Python cannot start a thread: late in its exit, or at the system's limit of threads.

        The caller then does the work itself.
        """
        try:
            self.start()
        except RuntimeError:
            return False
        return True

    def cpu_seconds(self) -> float:
        """Seconds that the thread has computed so far. Any thread may call this."""
        number = self._thread.native_id
        if self._cpu_seconds is None and number is not None:
            # The kernel's number for the clock of a thread, which `pthread_getcpuclockid` computes as well. Unlike that function,
            # it can be asked about a thread that ends meanwhile.
            with contextlib.suppress(OSError, AttributeError):  # not every system has clocks of threads
                seconds: float = getattr(time, "clock_gettime")((~number << 3) | 6)  # noqa: B009 (mypy knows Linux only)
                return seconds
        return self._cpu_seconds or 0.0

    def is_here(self) -> bool:
        """Whether the current thread belongs to this service, or to a service that works for it."""
        service = current()
        while service is not None:
            if service is self:
                return True
            service = service._part_of
        return False

    def join(self, timeout: float | None = None) -> bool:
        """Wait until `run` has returned; return whether it has.

        Does not wait for a service that was never started, nor in the service's own thread.
        """
        if self._thread.ident is None or self._thread is threading.current_thread():
            return self._over.is_set() or not self._thread.is_alive()
        for seconds in slices(timeout):
            if self._over.wait(seconds) or not self._thread.is_alive():  # in a forked child no thread is alive
                self._thread.join()
                return True
        return False
