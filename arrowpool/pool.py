"""The pool: `multiprocessing.Pool`, with frames, tables and arrays travelling through shared memory.

`ArrowPool` is made and ended here, shares objects, and reports figures. The methods that make calls are in `call_methods` and
`frame_methods`; the
threads and processes behind a pool are in `engine`.
"""

from __future__ import annotations

import html
import multiprocessing
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from multiprocessing import pool as stdlib
from multiprocessing import util
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from arrowpool import explaining
from arrowpool.arguments import check, default_size, integer
from arrowpool.engine.engine import Engine, Options
from arrowpool.engine.imap import IMapIterator, IMapUnorderedIterator
from arrowpool.engine.results import ApplyResult, AsyncResult, MapResult
from arrowpool.errors import ForkedPoolError
from arrowpool.frame_methods import FrameMethods, GroupIterator
from arrowpool.guard import leave_if_unguarded
from arrowpool.health import Health
from arrowpool.interrupts import check_process
from arrowpool.sharing import Sharing
from arrowpool.stats import Stats
from arrowpool.timeline import Trace
from arrowpool.tuning import COPY_THREADS, MAX_EVENTS
from arrowpool.worker.signals import handlers_put_off

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ApplyResult",
    "ArrowPool",
    "AsyncResult",
    "GroupIterator",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
]

_S = TypeVar("_S")
_T = TypeVar("_T")


class ArrowPool(FrameMethods):
    """A pool of worker processes: the standard library's, except for how data travels.

    DataFrames, Series, Tables and arrays, anywhere in arguments, functions and results, are copied once into shared memory and
    read there. A task can write to its arguments as to a private copy: no other task or process sees the change.

    Parameters
    ----------
    processes, initializer, initargs, maxtasksperchild, context
        As for `multiprocessing.pool.Pool`.
    max_bytes : int, optional
        Bytes of shared memory in flight to the workers at a time. The default is half of the memory that is available when
        the pool is made. Further data waits; an object that is larger travels alone, or raises `ArenaFullError` when there is
        no memory for it.
    spill_dir : path, optional
        Directory on a disk for segments, in files without a name, so that they may exceed the memory. By default segments
        are in memory.
    retries : int
        How many times a task is run again after its worker was lost; for tasks that may run twice. After that, and by
        default at once, its call raises `WorkerLostError`.
    task_timeout : float, optional
        Seconds that a task may run; each item of a chunk, and each group of `map_groups`, has as many. They are counted from
        when the worker starts to rebuild the arguments and, the first time, to import the function. After that, its worker is killed and replaced, and its call
        raises `TaskTimeoutError`, without a retry. By default there is no limit. With a limit, short tasks are sent one by
        one, which costs about 0.1 ms for each task.

    Raises
    ------
    ValueError, TypeError
        As for `multiprocessing.pool.Pool`, and for the other arguments when they are out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from arrowpool import Pool
    >>> with Pool(2) as pool:
    ...     [float(total) for total in pool.map(np.sum, [np.ones(100_000), np.zeros(100_000)])]
    [100000.0, 0.0]
    """

    # A class attribute, so that __del__ and __repr__ find it even if the arguments do not fit __init__.
    #: The standard library's attribute: set by the user's calls of `close` and `terminate`. The engine's threads use a `PoolState`.
    _state = INIT
    #: Whether tasks may start processes with `multiprocessing`. In the standard library, those of its executor may, those of its pool not.
    _workers_may_have_children = False

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        max_bytes: SupportsIndex | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        retries: int = 0,
        task_timeout: float | None = None,
    ):
        # First, so that __del__ finds them if anything below fails.
        self._pool: list[BaseProcess] = []
        self._state = INIT
        self._pid = os.getpid()
        self._ctx = context or multiprocessing.get_context()
        leave_if_unguarded(self._ctx.get_start_method())
        self._processes = default_size() if processes is None else processes
        nbytes = integer(max_bytes)
        check(self._processes, initializer, maxtasksperchild, nbytes, retries, task_timeout)
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._shares = {}
        options = Options(
            context=self._ctx,
            method=self._ctx.get_start_method(),
            process=self.Process,
            processes=self._processes,
            initializer=self._initializer,
            initargs=self._initargs,
            maxtasksperchild=self._maxtasksperchild,
            max_bytes=nbytes,
            spill_dir=None if spill_dir is None else os.path.abspath(spill_dir),
            retries=retries,
            task_timeout=task_timeout,
            copy_threads=min(COPY_THREADS, default_size()),
            may_have_children=self._workers_may_have_children,
        )
        try:
            # An exception of a signal handler in here would leave descriptors, processes and threads without an owner.
            with handlers_put_off():
                self._begin(options)
        except BaseException:
            if self._state == RUN:  # a handler raised at the very end: the caller does not get this pool
                self.terminate()
            raise

    def _begin(self, options: Options) -> None:
        """Assemble the engine and start it. If that fails, end all its parts."""
        self._engine = engine = Engine(options)
        self._recorder = engine.recorder
        # The standard library, CPython's tests and dask use these names.
        self._pool = engine.workers
        self._taskqueue = engine.inbox
        self._cache = engine.cache
        self._change_notifier = engine.notifier
        self._worker_handler = engine.supervisor
        self._task_handler = engine.feeder
        self._result_handler = engine.collector
        self._terminate = util.Finalize(self, _end, (engine.terminate, explaining.opened(engine)), exitpriority=15)
        try:
            self._repopulate_pool()
            engine.start()
        except BaseException:
            self._terminate()
            raise
        self._state = RUN

    def _repopulate_pool(self) -> None:
        """Start workers until there are as many as the pool was made with."""
        self._engine.repopulate()

    def __enter__(self) -> Self:
        # A broken pool can be entered: the end of the block terminates it, and its calls say why it is broken.
        check_process(self._pid)
        stdlib.Pool._check_running(self)  # type: ignore[attr-defined]
        return self

    def _is_own_thread(self) -> bool:
        return self._engine.is_own_thread()

    # Ends

    def close(self) -> None:
        """Take no more calls. The workers end when all calls are answered. Can be called again."""
        if self._state == RUN:
            self._state = CLOSE
        if self._pid == os.getpid():
            self._engine.close()

    def terminate(self) -> None:
        """End the pool at once, and its workers with it. Can be called again; the end of a ``with`` block calls it.

        Calls that are not answered raise `PoolTerminatedError`. Results that were received stay valid. In a forked child,
        where the pool has no workers, only the child's copy of the pool ends.
        """
        self._state = TERMINATE
        if self._pid == os.getpid():
            self._terminate()

    def join(self) -> None:
        """Wait until all workers have ended. Call `close` or `terminate` first.

        Raises
        ------
        ValueError
            When the pool still takes calls.
        RuntimeError
            In a callback, and elsewhere in the pool's own threads: a thread cannot wait for its own end.
        ForkedPoolError
            In a forked child.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> pool = Pool(2)
        >>> result = pool.map_async(abs, [-1, -2, -3])
        >>> pool.close()
        >>> pool.join()
        >>> result.get()
        [1, 2, 3]
        """
        check_process(self._pid)
        if self._is_own_thread():
            raise RuntimeError(
                "a pool cannot be joined in a callback, or elsewhere in its own threads: a thread cannot wait for its own end"
            )
        super().join()
        self._terminate()
        self._engine.wait()  # another thread may have begun the end

    def share(self, obj: _T) -> AbstractContextManager[_T]:
        """Copy an object once for all calls in the ``with`` block.

        Wherever the object occurs in these calls, as an argument or captured by a function, workers read the one copy. Each
        task still gets the object itself, private and writable, in the state it has now: later changes in the block do not
        reach the tasks. A slice or a column of the object is another object, and is not shared by this.

        Parameters
        ----------
        obj : object
            A frame, table or array, or an object that holds some. Not a list, tuple or dict: share the objects in it.

        Returns
        -------
        context manager
            Gives `obj`. It shares nothing without a ``with`` block, and warns of that.

        Raises
        ------
        TypeError
            For objects that a call could not recognize: containers, strings, numbers, functions, classes.
        ArenaFullError
            When there is no memory for the object. `max_bytes` does not limit it, since it is not in flight.
        Exception
            The exception of pickling it.

        Examples
        --------
        >>> import numpy as np
        >>> from arrowpool import Pool
        >>> prices = np.arange(1_000_000.0)
        >>> with Pool(2) as pool, pool.share(prices):
        ...     [float(price) for price in pool.starmap(np.quantile, [(prices, 0.25), (prices, 0.75)])]
        ...     float(pool.apply(np.sum, (prices,)))
        [249999.75, 749999.25]
        499999500000.0
        """
        return Sharing(obj, self._engine, self._shares, self._check_running)

    def trace(self, path: str | os.PathLike[str] | None = None, *, max_events: SupportsIndex = MAX_EVENTS) -> Trace:
        """Record what this process's threads and the workers do in the ``with`` block: who computes, who moves data, who waits.

        Costs nothing outside the block; in it, a few microseconds for each task. Tasks that were sent before the block are not shown,
        unless they still run at its end. A pool has one trace at a time.

        Parameters
        ----------
        path : path, optional
            File to write at the end of the block, in one step: https://ui.perfetto.dev and chrome://tracing open it. It shows one row
            for each thread and each worker, with functions, items and bytes.
        max_events : int
            Maximum number of events. Later ones are dropped and counted.

        Returns
        -------
        Trace
            After the block: `Trace.plot` draws it, and printing it gives a table.

        Raises
        ------
        OSError
            At the beginning of the block, when the file cannot be written.
        RuntimeError
            When a trace of this pool is open.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     with pool.trace("trace.json") as trace:
        ...         values = pool.map(abs, range(100), chunksize=10)
        >>> [row.name for row in trace.rows if not row.is_worker]
        ['MainThread', 'feeder', 'collector']
        """
        return Trace(self._engine, path, max_events, self._check_running)

    def stats(self) -> Stats:
        """Return the figures of this pool so far: data moved, copies saved, time of each worker, objects pickled and why.

        Returns
        -------
        Stats
            The figures of this moment. Printed as text, and as tables in a notebook.

        Examples
        --------
        >>> import numpy as np
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     sums = pool.map(np.sum, [np.ones(100_000)] * 4, chunksize=1)
        ...     stats = pool.stats()
        >>> stats.tasks, stats.shared_bytes, stats.copies_saved
        (4, 800000, 3)
        """
        return self._engine.stats()

    def health(self) -> Health:
        """Return whether the pool takes calls, and what it does now. Never waits; also for a broken pool, and after its end.

        Returns
        -------
        Health
            In a forked child, the pool is broken: its threads are in its parent.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     health = pool.health()
        >>> health.ok, health.broken, health.size, health.waiting
        (True, None, 2, 0)
        >>> pool.health().state
        'terminated'
        """
        if self._pid != os.getpid():
            return Health(state="terminated", broken=str(ForkedPoolError(self._pid)), size=self._processes)
        return self._engine.health()

    def __repr__(self) -> str:
        if self._state == INIT:
            return super().__repr__()
        kind = type(self)
        return (
            f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={len(self._pool)} | "
            f"{self._engine.usage()}>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>" + ("" if self._state == INIT else self.stats()._repr_html_())


def _end(terminate: Callable[[], None], leave: Callable[[], None]) -> None:
    try:
        terminate()
    finally:
        leave()


Pool = ArrowPool
