"""Waiting for a result from threads and from event loops.

Each result object of a call is `Watched`. Threads and coroutines that wait for it register themselves. The collector or the feeder,
which change the result, wake them. No thread waits on behalf of an event loop.

Cancelling the last coroutine that waits ends the call, as an interrupt does: running tasks are interrupted, waiting tasks are
dropped.

Only coroutines import `asyncio` (a fifth of the time that `import arrowpool` would take, in each worker that is not forked).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from arrowpool.engine.recorder import Recorder
from arrowpool.interrupts import check_process

if TYPE_CHECKING:
    import asyncio


#: For a call that has its answers.
_NO_RECORDER = Recorder()


class Watched:
    """Mixin for the result objects of a call: waits of threads and coroutines."""

    #: The process that made the call. Set once, before the pool knows the result.
    _pid: int
    #: For each waiter, by its token, a function that wakes it. Each waiter adds and removes its own token. The thread that changes
    #: the result reads a copy (`list`). These are single operations on a dict, which are atomic, with and without the GIL. A waiter
    #: adds itself before it looks at the result, and is woken after the result has changed: it misses no change.
    _watchers: dict[object, Callable[[], None]]

    def __init__(self, *args: Any, **kwargs: Any):
        self._pid = os.getpid()
        self._watchers = {}
        super().__init__(*args, **kwargs)

    def _cancel(self: Any) -> None:
        pool = self._pool  # None once the call has all its answers
        if pool is not None:
            pool._cancel(self._job)

    def _wake(self) -> None:
        if self._watchers:
            for wake in list(self._watchers.values()):
                wake()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[object]:
        """Count as a waiter in the ``with`` block; yield the waiter's token. A lock's own notification wakes the waiter."""
        token = object()
        self._watchers[token] = _do_nothing
        try:
            yield token
        finally:
            self._watchers.pop(token, None)

    @contextlib.contextmanager
    def _waiting(self: Any) -> Iterator[None]:
        """As `_watching`, for a thread that does nothing else: its wait is noted in a trace."""
        pool = self._pool
        recorder = pool._recorder if pool is not None else _NO_RECORDER
        wait = recorder.wait_begins("for results")
        try:
            with self._watching():
                yield
        finally:
            recorder.wait_ends(wait)

    @contextlib.contextmanager
    def _awaited(self) -> Iterator[object]:
        """As `_watching`, for a coroutine: its cancellation ends the call unless others wait."""
        import asyncio

        with self._watching() as token:
            try:
                yield token
            except asyncio.CancelledError:
                self._watchers.pop(token, None)
                if not self._watchers:
                    self._cancel()
                raise

    async def _changed(self, is_there: Callable[[], bool]) -> None:
        """Return when `is_there` returns True. From then on it must always return True."""
        if is_there():
            return
        import asyncio

        loop = asyncio.get_running_loop()
        with self._awaited() as token:
            while not is_there():
                future: asyncio.Future[None] = loop.create_future()
                self._watchers[token] = _waker(loop, future)
                if is_there():
                    return
                check_process(self._pid)
                await future

    async def pause(self) -> None:
        """Let the event loop run once. A cancellation at this point counts as the cancellation of a waiter."""
        import asyncio

        with self._awaited():
            await asyncio.sleep(0)


def _do_nothing() -> None:
    pass


def _waker(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], None]:
    def done() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no coroutine waits
            loop.call_soon_threadsafe(done)

    return wake
