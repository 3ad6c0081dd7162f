"""Calls of a pool whose results are `concurrent.futures.Future` objects, and the end of a pool that has such calls.

Called by `executor`. In the pool's cache, a `Job` takes the place of the pool's own result objects:

    Job -> feeder (its futures run) -> worker -> collector (its futures are set) -> done callbacks

Each `PoolCloser` has one thread. It waits for the end of the executor, then closes the pool and waits for the last answer.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from multiprocessing.pool import job_counter  # type: ignore[attr-defined]
from typing import Any

from arrowpool.interrupts import InterruptibleFuture
from arrowpool.pool import ArrowPool
from arrowpool.threads import Service, tell
from arrowpool.transport.error_packing import refusal_of

_log = logging.getLogger(__name__)

#: The closers of this process and, after a fork, those of its parent. Any thread adds, the exit hook reads.
_closers: weakref.WeakSet[PoolCloser] = weakref.WeakSet()
#: Whether Python is about to exit; None until the exit hook is registered. Set to True by the hook; any thread reads it.
_exiting: bool | None = None


class Job:
    """One call with its futures, one for each task: ``(function, args, kwds)``.

    The feeder draws the tasks, which sets their futures running. The collector sets their results. Both find the job in the pool's
    cache, under `_job`.
    """

    def __init__(self, pool: ArrowPool, works: Sequence[tuple[Any, ...]]):
        self._pool: ArrowPool | None = pool
        self._cache = pool._cache
        self._job = next(job_counter)
        self.futures: list[Future[Any]] = [InterruptibleFuture() for _ in works]
        self._works = deque(works)
        #: The futures that wait or run, by index. The thread that takes one out, with `_taking` held, sets it. The job is over when
        #: this is empty.
        self._open = dict(enumerate(self.futures))
        self._taking = threading.Lock()
        self._cache[self._job] = self

    def tasks(self) -> Iterator[tuple[Any, ...]]:
        """The tasks that are not cancelled. The feeder draws each one when it is ready to encode it."""
        for index in range(len(self._works)):
            with self._taking:
                future = self._open.get(index)
                if future is None:  # the call has failed as a whole, see `fail`
                    return
                runs = _begins(future)
                if not runs:
                    del self._open[index]
            del future
            if runs:
                yield self._job, index, *self._works.popleft()
            else:
                self._works.popleft()
                self._end_if_over()

    def _set(self, index: int, outcome: tuple[bool, Any]) -> None:
        success, value = outcome
        with self._taking:
            future = self._open.pop(index, None)
        if future is not None:
            _set(future, success, value)
            self._end_if_over()

    def fail(self, error: BaseException) -> None:
        """Set `error` in all futures that are not set. The call gets no more answers."""
        with self._taking:
            failed = list(self._open.values())
            self._open.clear()
        for future in failed:
            _set(future, False, error)
        self._end_if_over()

    def cancel(self) -> None:
        """Cancel the futures that do not run, from the end."""
        for future in reversed(list(self._open.values())):
            future.cancel()

    def _end_if_over(self) -> None:
        if not self._open:
            self._pool = None
            self.futures = []
            with suppress(KeyError):
                del self._cache[self._job]


class PoolCloser(Service):
    """The pool of one executor, and the thread that closes the pool and waits for its end."""

    def __init__(self, make_pool: Callable[[], ArrowPool]):
        super().__init__("arrowpool-executor")
        _hook_exit()
        self.pool = make_pool()
        self.pid = os.getpid()
        self._inbox: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.start()
        _closers.add(self)

    def run(self) -> None:
        self._inbox.get()
        self.pool.close()
        self.pool.join()

    def end(self) -> None:
        """Close the pool after the last call. Any thread may call this, also in a finalizer, so it takes no lock."""
        self._inbox.put(None)

    def cancel(self) -> None:
        """Cancel the futures that do not run. From the end, since the feeder takes from the front: none starts meanwhile."""
        for job in reversed(list(self.pool._cache.values())):
            job.cancel()

    def give_up(self, error: BaseException) -> None:
        """Cancel the futures that do not run. Interrupt those that run: they end with this error."""
        # Cancel all of them first: an interrupted task makes its worker free for another one.
        self.cancel()
        for job in list(self.pool._cache.values()):
            self.pool._cancel(job._job, error)

    def end_workers(self, error: Exception) -> None:
        """As `give_up`, when the user is about to end the workers: none is replaced."""
        self.pool._give_up(error)
        self.give_up(error)

    def is_own_thread(self) -> bool:
        """Whether this is one of the pool's threads, such as the one that sets the futures."""
        return self.pool._is_own_thread()


def _set(future: Future[Any], success: bool, value: Any) -> None:
    try:
        if success:
            future.set_result(value)
        else:
            future.set_exception(refusal_of(value))
    except InvalidStateError:
        # The future was cancelled, and the feeder will not draw its task: notify the threads that wait for it. Or user code has
        # set it.
        _begins(future)
    except BaseException:
        # Logged, since it would end the thread that sets all futures. As text: a traceback keeps the results in its frames.
        tell(_log.error, "a done callback raised\n%s", traceback.format_exc())


def _begins(future: Future[Any]) -> bool:
    """Set a waiting future running. Return False if it was cancelled, or if user code has set it."""
    if future.done() and not future.cancelled():
        return False
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:  # it was set, or cancelled and notified, just now
        return False


def is_exiting() -> bool:
    """Whether Python is about to exit, and all closers are ending."""
    return bool(_exiting)


def _hook_exit() -> None:
    """Make Python answer all calls before it exits: with the same hook as `concurrent.futures`."""
    global _exiting
    if _exiting is None:
        try:
            # `atexit` would be too late: no thread can be started then, and pools are terminated.
            threading._register_atexit(_end_all)  # type: ignore[attr-defined]
        except RuntimeError:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown") from None
        _exiting = False


def _end_all() -> None:
    global _exiting
    _exiting = True
    # A forked child has inherited its parent's closers.
    closers = [closer for closer in _closers if closer.pid == os.getpid()]
    for closer in closers:
        closer.end()
    for closer in closers:
        closer.join()
