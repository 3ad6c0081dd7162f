"""Calls of a pool whose results are `concurrent.futures.Future` objects, and the end of a pool that has such calls.

Called by `executor`. A `Job` stands in a pool's cache where that has its own result objects:

    Job -> feeder (its futures run) -> worker -> collector (its futures are set) -> done callbacks

Each `PoolCloser` has one thread, which waits until there will be no more calls, then closes the pool and waits
for its last answer.
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

_log = logging.getLogger(__name__)

#: The closers of this process and, after a fork, those of its parent. Any thread adds, the exit hook reads.
_closers: weakref.WeakSet[PoolCloser] = weakref.WeakSet()
#: Whether Python is about to exit; `None` until the exit hook is there.
_exiting: bool | None = None


class Job:
    """One call with its futures, one for each task: ``(function, args, kwds)``.

    The feeder draws the tasks, which makes their futures running; the collector sets them. Both know it by `_job`.
    """

    def __init__(self, pool: ArrowPool, works: Sequence[tuple[Any, ...]]):
        self._pool: ArrowPool | None = pool
        self._cache = pool._cache
        self._job = next(job_counter)
        self.futures: list[Future[Any]] = [InterruptibleFuture() for _ in works]
        self._works = deque(works)
        #: Those that wait or run, by index. Who takes one out, with the lock, settles it; once empty, the job is over.
        self._open = dict(enumerate(self.futures))
        self._taking = threading.Lock()
        self._cache[self._job] = self

    def tasks(self) -> Iterator[tuple[Any, ...]]:
        """The tasks that are not cancelled, drawn by the feeder as late as it can encode them."""
        for index in range(len(self._works)):
            with self._taking:
                future = self._open.get(index)
                if future is None:  # nobody waits for any of it any more
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
        """Set `error` in all futures that are not set: the call will not be answered."""
        with self._taking:
            failed = list(self._open.values())
            self._open.clear()
        for future in failed:
            _set(future, False, error)
        self._end_if_over()

    def cancel(self) -> None:
        """Cancel what does not run, from the end."""
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
        """Close the pool: there will be no more calls. From any thread, also in a finalizer, so it takes no lock."""
        self._inbox.put(None)

    def cancel(self) -> None:
        """Cancel what does not run. From the end, since the feeder takes from the front: none begins behind a cancelled one."""
        for job in reversed(list(self.pool._cache.values())):
            job.cancel()

    def give_up(self, error: BaseException) -> None:
        """Cancel what does not run; what runs is interrupted, and ends with this error."""
        # All of it first: what is interrupted below makes room for others to begin.
        self.cancel()
        for job in list(self.pool._cache.values()):
            self.pool._cancel(job._job, error)

    def is_own_thread(self) -> bool:
        """Whether this is one of the pool's threads, such as the one that sets the futures."""
        return self.pool._is_own_thread()


def _set(future: Future[Any], success: bool, value: Any) -> None:
    try:
        if success:
            future.set_result(value)
        else:
            future.set_exception(value)
    except InvalidStateError:
        # It was cancelled, and the feeder will not get there: tell those who wait for it. Or its user has set it.
        _begins(future)
    except BaseException:
        # It would end the thread that sets all futures. As text: a traceback would keep the results in its frames.
        tell(_log.error, "a done callback raised\n%s", traceback.format_exc())


def _begins(future: Future[Any]) -> bool:
    """Whether a future that waits now runs; not one that was cancelled, nor one that its user has set."""
    if future.done() and not future.cancelled():
        return False
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:  # set, or cancelled and said so, just now
        return False


def is_exiting() -> bool:
    """Whether Python is about to exit, and all closers are ending."""
    return bool(_exiting)


def _hook_exit() -> None:
    """Have Python answer all calls before it exits, as `concurrent.futures` does, by the hook that it uses."""
    global _exiting
    if _exiting is None:
        # Later, at `atexit`, no thread can be started any more, and pools are terminated.
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]
        _exiting = False


def _end_all() -> None:
    global _exiting
    _exiting = True
    # Not those of the process that this one was forked from.
    closers = [closer for closer in _closers if closer.pid == os.getpid()]
    for closer in closers:
        closer.end()
    for closer in closers:
        closer.join()
