"""The executor: `concurrent.futures.ProcessPoolExecutor`, on the engine of `ArrowPool`.

A user's `submit` and `map` become calls of a pool, with futures in place of result objects (see `futures`). The pool is made
with the first call, and ends with `shutdown`, the executor's garbage collection, or Python's exit.
"""

from __future__ import annotations

import functools
import itertools
import logging
import multiprocessing
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
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeVar

from arrowpool.engine.calls import Call
from arrowpool.errors import again
from arrowpool.executor.jobs import Job, PoolCloser, is_exiting
from arrowpool.interrupts import check_process
from arrowpool.pool import ArrowPool, default_size

_log = logging.getLogger(__name__)
_Shared = TypeVar("_Shared")


class ProcessPoolExecutor(futures.ProcessPoolExecutor):
    """The standard library's `ProcessPoolExecutor`; frames, tables and arrays travel through shared memory.

    Signature, methods, results, cancellation, `shutdown`, and the ends by garbage collection and by Python's exit are the
    standard library's. A future runs from when its task is prepared for a worker; at most `max_workers` are prepared
    beyond those that workers have. Different, and so documented:

    - A worker that is killed or crashes takes only the task with it that it ran: that future's exception is
      `WorkerLostError`, a `BrokenProcessPool`. The executor stays usable, the worker is replaced. Only an initializer that
      fails breaks it, with `WorkerInitError`, which is a `BrokenProcessPool` too.
    - A task that calls `sys.exit` has a `TaskExitError`.
    - `map` sends its function, and an object that occurs several times in its iterables, once. With `buffersize`, of which
      every Python has it here, and with `submit`, they go with each task; `share` changes that.
    - Ctrl-C in the ``with`` block ends it in a moment: what waits is cancelled, what runs is interrupted.
    - Workers are daemonic: they cannot have worker processes of their own.

    Parameters
    ----------
    max_workers, mp_context, initializer, initargs, max_tasks_per_child
        As for `concurrent.futures.ProcessPoolExecutor`, in every version of Python.
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
    ...     future.result()
    np.float64(100000.0)
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_bytes: int | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        retries: int = 0,
        task_timeout: float | None = None,
    ):
        # Not the standard library's constructor: that makes its queues.
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if mp_context is None:
            mp_context = multiprocessing.get_context(None if max_tasks_per_child is None else "spawn")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            if mp_context.get_start_method() == "fork":
                raise ValueError(
                    "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
                    "supply a different mp_context."
                )
        # What dask, adaptive and others read.
        self._mp_context = mp_context
        self._max_workers: int = max_workers or default_size()
        # No reference to this executor: its last user lets go of it at once, not at some garbage collection.
        self._make_pool = functools.partial(
            ArrowPool,
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
        #: Guards the two below.
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

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule ``fn(*args, **kwargs)``.

        Returns
        -------
        Future
            Of its value.

        Raises
        ------
        BrokenProcessPool
            When the initializer has failed.
        RuntimeError
            After `shutdown`, and when Python exits.
        """
        return self._call([(fn, args, kwargs)])[0]

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As the built-in `map`, in the workers.

        Parameters
        ----------
        timeout : float, optional
            Seconds from now after which the iterator raises TimeoutError.
        chunksize : int
            How many items go to a worker in one task.
        buffersize : int, optional
            How many tasks are submitted at most whose results were not yielded; the iterables are read no further than that.
            By default they are read at once, to their end.

        Raises
        ------
        ValueError, TypeError
            For a chunksize or a buffersize below 1, or one that is no number.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        until = None if timeout is None else time.monotonic() + timeout
        apply = mapstar if len(iterables) == 1 else starmapstar
        rest = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables)  # noqa: B905 (the shortest one ends it)

        def work(chunk: tuple[Any, ...]) -> tuple[Any, ...]:
            return apply, ((fn, chunk),), {}

        if buffersize is None:
            items = list(rest)
            pending = deque(self._call([work(chunk) for chunk in _batched(items, chunksize)], items))
            return _results(pending, lambda: None, until)
        chunks = _batched(rest, chunksize)
        pending = deque(self._call([work(chunk)])[0] for chunk in itertools.islice(chunks, buffersize))
        executor = weakref.ref(self)

        def refill() -> None:
            alive = executor()
            if alive is not None:
                pending.extend(alive._call([work(chunk)])[0] for chunk in itertools.islice(chunks, 1))

        return _results(pending, refill, until)

    def share(self, obj: _Shared) -> AbstractContextManager[_Shared]:
        """Copy an object once, for all tasks submitted in the ``with`` block; see `ArrowPool.share`."""
        self._check_process()
        with self._changing:
            return self._running().share(obj)

    def _check_process(self) -> None:
        # Before the lock, which another thread may have held at the fork.
        if self._closer is not None:
            check_process(self._closer.pid)

    def _call(self, works: list[tuple[Any, ...]], items: list[Any] | None = None) -> list[Future[Any]]:
        """Futures of these tasks, of one call of the pool: ``(function, args, kwds)`` each; `items` are what they are made of."""
        if not works:
            return []
        self._check_process()
        with self._changing:
            pool = self._running()
        shares = pool._shared_now()
        # Without the lock: pickling may call anything, this executor too.
        snapshot = None
        if items is None:
            function, args, kwds = works[0]
            snapshot = pool._snapshot(function, args, kwds, shares)
        with self._changing:
            pool = self._running()
            if pool._broken is not None:
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
                    snapshot=snapshot,
                    shares=shares,
                )
            )
        return made

    def _running(self) -> ArrowPool:
        """The pool, made when it is needed first. To be called with the lock."""
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
        """Take no more calls; the workers end once all that were made are answered.

        Parameters
        ----------
        wait : bool
            Whether to return only then. (A done callback never waits, nor does any code in a thread of the pool's: all answers would wait for it.)
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
        """Shut down without waiting, cancel what does not run, and end the workers; as in Python 3.14, in every version.

        Futures that run get a `BrokenProcessPool`.
        """
        self._end_workers(operator.methodcaller("terminate"))

    def kill_workers(self) -> None:
        """As `terminate_workers`, by SIGKILL."""
        self._end_workers(operator.methodcaller("kill"))

    def _end_workers(self, end: Callable[[BaseProcess], None]) -> None:
        self._check_process()
        workers = list(self._processes.values())
        self.shutdown(wait=False)
        if self._closer is not None:
            self._closer.give_up(BrokenProcessPool("the workers of this executor were ended"))
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


def _results(pending: deque[Future[Any]], refill: Callable[[], None], until: float | None) -> Iterator[Any]:
    """The results of futures whose values are lists, flat, in order; `refill` may append more of them."""
    try:
        while pending:
            chunk = _result(pending.popleft(), until)
            refill()
            # Nothing here holds on to what was yielded.
            chunk.reverse()
            while chunk:
                yield chunk.pop()
    finally:
        for future in pending:
            future.cancel()


def _result(future: Future[Any], until: float | None) -> Any:
    try:
        return future.result(None if until is None else until - time.monotonic())
    finally:
        future.cancel()
        del future  # its exception refers to this frame


def _batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    rest = iter(items)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())


__all__ = ["ProcessPoolExecutor"]
