"""The executor: `concurrent.futures.ProcessPoolExecutor` on the engine of `ArrowPool`.

`submit` and `map` become calls of a pool, with futures in place of result objects (see `jobs`). The first call makes the pool.
It ends with `shutdown`, the executor's garbage collection, or Python's exit.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from arrowpool.arguments import default_size
from arrowpool.chunks import ahead, applied_to, batched, check_sizes, flattened
from arrowpool.engine.calls import Call
from arrowpool.engine.item_names import ItemNames
from arrowpool.errors import again
from arrowpool.executor.arguments import checked_context
from arrowpool.executor.jobs import Job, PoolCloser, is_exiting
from arrowpool.health import Health
from arrowpool.interrupts import check_process
from arrowpool.pool import ArrowPool
from arrowpool.stats import Stats
from arrowpool.timeline import Trace
from arrowpool.tuning import MAX_EVENTS

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Workers(ArrowPool):
    """The pool of an executor."""

    _workers_may_have_children = True


class ProcessPoolExecutor(futures.ProcessPoolExecutor):
    """The standard library's `ProcessPoolExecutor`; frames, tables and arrays travel through shared memory.

    Signature, methods, results, cancellation, `shutdown`, and the ends by garbage collection and at Python's exit are the
    standard library's. A future is running once its task is prepared for a worker; at most `max_workers` tasks are prepared
    in addition to those that workers have. The differences:

    - A worker that is killed or crashes loses only the task that it ran: the exception of that future is `WorkerLostError`,
      a `BrokenProcessPool`. The worker is replaced and the executor stays usable. Only a failing initializer breaks the
      executor, with `WorkerInitError`, also a `BrokenProcessPool`.
    - A task that calls `sys.exit` raises `TaskExitError`.
    - `map` sends its function, and an object that occurs several times in its iterables, once. `submit`, and `map` with
      `buffersize`, send them with each task, unless `share` is used.
    - `map` takes `buffersize` in every version of Python.
    - Ctrl-C in the ``with`` block ends it at once: waiting tasks are cancelled, running tasks are interrupted.

    Parameters
    ----------
    max_workers, mp_context, initializer, initargs, max_tasks_per_child
        As for `concurrent.futures.ProcessPoolExecutor`.
    max_bytes, spill_dir, retries, task_timeout
        As for `ArrowPool`.

    Raises
    ------
    ValueError, TypeError
        As for `concurrent.futures.ProcessPoolExecutor`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrowpool import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(2) as executor:
    ...     future = executor.submit(np.sum, np.ones(100_000))
    ...     float(future.result())
    100000.0
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_bytes: SupportsIndex | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        retries: int = 0,
        task_timeout: float | None = None,
    ):
        # Not the standard library's constructor, which makes queues.
        mp_context = checked_context(mp_context, max_workers, initializer, max_tasks_per_child)
        # dask, adaptive and others read these two.
        self._mp_context = mp_context
        self._max_workers: int = max_workers or default_size()
        # Without a reference to this executor: in a cycle, it would end at a later garbage collection, not with its last user.
        self._make_pool = functools.partial(
            _Workers,
            self._max_workers,
            initializer,
            initargs,
            max_tasks_per_child,
            mp_context,
            max_bytes=max_bytes,
            spill_dir=spill_dir,
            retries=retries,
            task_timeout=task_timeout,
        )
        #: Held while the two below change. Other threads read them without it, and get the old value or the new one.
        self._changing = threading.Lock()
        self._closer: PoolCloser | None = None
        self._is_shut = False

    def __repr__(self) -> str:
        state = "SHUT" if self._is_shut else "RUN" if self._closer else "NEW"
        return f"<ProcessPoolExecutor state={state} max_workers={self._max_workers}>"

    @property
    def _processes(self) -> dict[int, BaseProcess]:  # type: ignore[override]
        closer = self._closer
        return {} if closer is None else {worker.pid or 0: worker for worker in list(closer.pool._pool)}

    @property
    def _broken(self) -> str | bool:  # type: ignore[override]
        closer = self._closer
        return str(closer.pool._broken) if closer is not None and closer.pool._broken is not None else False

    # Calls

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Start ``fn(*args, **kwargs)`` in a worker. Does not block.

        Returns
        -------
        concurrent.futures.Future
            Of the value.

        Raises
        ------
        BrokenProcessPool
            After the initializer has failed.
        RuntimeError
            After `shutdown`, and when Python exits.

        Examples
        --------
        >>> from arrowpool import ProcessPoolExecutor
        >>> with ProcessPoolExecutor(2) as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
        """
        return self._call([(fn, args, kwargs)])[0]

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Return an iterator over the results of `fn`, called with one item of each iterable, in the order of the items.

        The iterator raises the exception of a task in place of its result, and ends there. Dropping the iterator cancels the
        futures that do not run.

        Parameters
        ----------
        fn : callable
            Called with as many arguments as there are iterables.
        *iterables : iterable
            The shortest one ends the call.
        timeout : float, optional
            Seconds from now after which the iterator raises TimeoutError.
        chunksize : int
            Number of items that a worker gets in one task.
        buffersize : int, optional
            Maximum number of tasks submitted whose results are not yielded yet; the iterables are read no further. By
            default they are read to their end at once.

        Raises
        ------
        ValueError, TypeError
            For a chunksize or buffersize that is not a positive integer.

        Examples
        --------
        >>> from arrowpool import ProcessPoolExecutor
        >>> with ProcessPoolExecutor(2) as executor:
        ...     list(executor.map(pow, [2, 3], [10, 2]))
        [1024, 9]
        """
        check_sizes(chunksize, buffersize)
        until = None if timeout is None else time.monotonic() + timeout
        apply, rest = applied_to(iterables)

        def work(chunk: tuple[Any, ...]) -> tuple[Any, ...]:
            return apply, ((fn, chunk),), {}

        if buffersize is None:
            items = list(rest)
            works, names = [work(chunk) for chunk in batched(items, chunksize)], ItemNames(chunksize, len(items))
            return flattened(deque(self._call(works, items, names)), lambda: None, until)
        numbered = zip(itertools.count(0, chunksize), batched(rest, chunksize))

        def calls(executor: ProcessPoolExecutor, count: int | None) -> Iterator[Future[Any]]:
            for first, chunk in itertools.islice(numbered, count):
                yield executor._call([work(chunk)], names=ItemNames(chunksize, first=first))[0]

        return ahead(self, calls, buffersize, until)

    def share(self, obj: _T) -> AbstractContextManager[_T]:
        """Copy an object once for all tasks submitted in the ``with`` block; see `ArrowPool.share`.

        Examples
        --------
        >>> import numpy as np
        >>> from arrowpool import ProcessPoolExecutor
        >>> prices = np.arange(100_000.0)
        >>> with ProcessPoolExecutor(2) as executor, executor.share(prices):
        ...     [float(quantile) for quantile in executor.map(np.quantile, [prices] * 2, [0.25, 0.75])]
        [24999.75, 74999.25]
        """
        return self._open_pool().share(obj)

    def trace(self, path: str | os.PathLike[str] | None = None, *, max_events: SupportsIndex = MAX_EVENTS) -> Trace:
        """Record what this process's threads and the workers do in the ``with`` block; see `ArrowPool.trace`."""
        return self._open_pool().trace(path, max_events=max_events)

    def stats(self) -> Stats:
        """Return what this executor has done so far; see `ArrowPool.stats`. All figures are 0 before the first call.

        Examples
        --------
        >>> from arrowpool import ProcessPoolExecutor
        >>> with ProcessPoolExecutor(2) as executor:
        ...     values = list(executor.map(abs, [-1, -2, -3]))
        ...     executor.stats().tasks
        3
        """
        closer = self._closer
        return Stats() if closer is None else closer.pool.stats()

    def health(self) -> Health:
        """Return whether this executor takes calls, and what it does now; see `ArrowPool.health`.

        Examples
        --------
        >>> from arrowpool import ProcessPoolExecutor
        >>> with ProcessPoolExecutor(2) as executor:
        ...     executor.health().state
        'new'
        """
        closer = self._closer
        if closer is None:
            return Health(state="closed" if self._is_shut else "new", size=self._max_workers)
        return closer.pool.health()

    def _check_process(self) -> None:
        # Before the lock is taken: another thread may have held it at the fork.
        if self._closer is not None:
            check_process(self._closer.pid)

    def _call(
        self, works: list[tuple[Any, ...]], items: list[Any] | None = None, names: ItemNames | None = None
    ) -> list[Future[Any]]:
        """Make one call of the pool with these tasks, each ``(function, args, kwds)``; return their futures.

        `items` are the items in the tasks, for calls whose tasks may contain the same object several times.
        """
        if not works:
            return []
        is_first = self._closer is None
        pool = self._open_pool()
        shares = pool._shared_now()
        # Outside the lock: pickling may run any code, and use this executor.
        snapshot = None
        if items is None:
            function, args, kwds = works[0]
            snapshot = pool._snapshot(function, args, kwds, shares)
        with self._changing:
            pool = self._running()
            if pool._broken is not None and not is_first:  # the futures of the first call have the initializer's error
                raise again(pool._broken)
            job = Job(pool, works)
            made = job.futures
            pool._submit(
                Call(
                    job.tasks(),
                    None,
                    items,
                    job=job._job,
                    length=len(works),
                    names=names,
                    snapshot=snapshot,
                    shares=shares,
                )
            )
        return made

    def _open_pool(self) -> ArrowPool:
        self._check_process()
        with self._changing:
            return self._running()

    def _running(self) -> ArrowPool:
        """The pool, made at the first call. The caller holds the lock."""
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if is_exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closer is None:
            self._closer = PoolCloser(self._make_pool)
            weakref.finalize(self, self._closer.end).atexit = False
        return self._closer.pool

    # Ends

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. The workers end when all calls are answered.

        Parameters
        ----------
        wait : bool
            Whether to wait until they have ended. In a done callback, and elsewhere in a thread of the pool, the method never
            waits: all answers would wait for it.
        cancel_futures : bool
            Whether to cancel the futures that do not run yet.
        """
        if self._closer is not None and self._closer.pid != os.getpid():
            return
        with self._changing:
            self._is_shut = True
            closer = self._closer
        if closer is None:
            return
        if cancel_futures:
            closer.cancel()
        closer.end()
        if wait and not closer.is_own_thread():
            closer.join()

    def terminate_workers(self) -> None:
        """End the workers with SIGTERM and shut down, without waiting. As in Python 3.14, in every version.

        Running futures raise `BrokenProcessPool`; waiting ones are cancelled.
        """
        self._end_workers(operator.methodcaller("terminate"))

    def kill_workers(self) -> None:
        """As `terminate_workers`, with SIGKILL."""
        self._end_workers(operator.methodcaller("kill"))

    def _end_workers(self, end: Callable[[BaseProcess], None]) -> None:
        self._check_process()
        workers = list(self._processes.values())
        self.shutdown(wait=False)
        if self._closer is not None:
            self._closer.end_workers(BrokenProcessPool("the workers of this executor were ended"))
        for worker in workers:
            end(worker)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._interrupt()
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._interrupt()
            self.shutdown(wait=True)
            raise

    def _interrupt(self) -> None:
        if self._closer is not None:
            self._closer.give_up(CancelledError("interrupted"))


__all__ = ["ProcessPoolExecutor"]
