"""The pool: `multiprocessing.Pool`, with frames, tables and arrays travelling through shared memory."""

from __future__ import annotations

import contextlib
import html
import logging
import math
import multiprocessing
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing import pool as stdlib
from multiprocessing import util
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE, mapstar, starmapstar  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from arrowpool.engine.calls import Call, Share, Snapshot
from arrowpool.engine.engine import Engine, Options
from arrowpool.engine.imap import IMapIterator, IMapUnorderedIterator
from arrowpool.engine.results import ApplyResult, AsyncResult, MapResult
from arrowpool.engine.source import runs_code, tasks_of
from arrowpool.errors import again
from arrowpool.interrupts import check_process
from arrowpool.stats import Stats
from arrowpool.tuning import COPY_THREADS
from arrowpool.worker.signals import handlers_put_off

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ApplyResult",
    "ArrowPool",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
]

_log = logging.getLogger(__name__)
_S = TypeVar("_S")
_T = TypeVar("_T")
#: Pickle writes these without asking us.
_NOT_SHARED = frozenset(
    (
        *(NoneType, bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset),
        *(FunctionType, BuiltinFunctionType),
    )
)


class ArrowPool(stdlib.Pool):
    """A pool of worker processes: the standard library's, except for how data travels.

    DataFrames, Series, Tables, arrays and whatever is made of them, anywhere in arguments, functions and results, are
    copied once into shared memory and read there; each task still has its own private, writable copy as far as it can tell.

    Parameters
    ----------
    processes, initializer, initargs, maxtasksperchild, context
        As for `multiprocessing.pool.Pool`.
    max_bytes : int, optional
        Bytes of shared memory in flight to the workers at a time; the default is half of the memory that is available
        when the pool is made. What exceeds it waits; an object that exceeds it alone travels alone, or raises
        `ArenaFullError` when there is no memory for it.
    spill_dir : path, optional
        Directory on a disk where segments lie, in files without a name, so that they may exceed the memory. By default they
        lie in memory.

    retries : int
        How many times a task is run again whose worker was lost while it ran; for tasks that may run twice. After that,
        and by default at once, its call raises `WorkerLostError`.
    task_timeout : float, optional
        Seconds that a task may run (for `map`, a task is a chunk), from when the worker rebuilds its arguments and, the
        first time, imports its function. Then its worker is killed and replaced, and its call
        raises `TaskTimeoutError`; it is not tried again. By default there is no limit. With a limit, short tasks are sent
        to their workers one by one, which costs some 0.1 ms each.

    Raises
    ------
    ValueError, TypeError
        As for `multiprocessing.pool.Pool`, and for extras that are out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from arrowpool import Pool
    >>> with Pool(2) as pool:
    ...     pool.map(np.sum, [np.ones(100_000), np.zeros(100_000)])
    [np.float64(100000.0), np.float64(0.0)]
    """

    # Class attributes, so that __del__ and __repr__ find them even if the arguments do not fit __init__.
    #: What the user has done with the pool: the standard library's attribute. The engine's threads go by its `PoolState`.
    _state = INIT
    #: The process that has this pool's threads. A child forked from it can use none of it.
    _pid = -1

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
        # First of all, so that __del__ finds them whatever happens here.
        self._pool: list[BaseProcess] = []
        self._state = INIT
        self._pid = os.getpid()
        self._ctx = context or multiprocessing.get_context()
        self._processes = default_size() if processes is None else processes
        nbytes = _integer(max_bytes)
        _check(self._processes, initializer, maxtasksperchild, nbytes, retries, task_timeout)
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = tuple(initargs)
        #: Objects that are shared now, oldest first. Any thread adds, removes and reads, with one atomic operation each.
        self._shares: dict[Share, None] = {}
        options = Options(
            context=self._ctx,
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
        )
        try:
            # An exception of a signal handler in here would leave descriptors, processes and threads without an owner.
            with handlers_put_off():
                self._begin(options)
        except BaseException:
            if self._state == RUN:  # a handler raised after all: the caller does not get this pool
                self.terminate()
            raise

    def _begin(self, options: Options) -> None:
        """Assemble the engine and start it; nothing is left of it when that fails."""
        self._engine = engine = Engine(options)
        # By these names the standard library, CPython's tests and dask know the parts of a pool.
        self._pool = engine.workers
        self._taskqueue = engine.inbox
        self._cache = engine.cache
        self._change_notifier = engine.notifier
        self._worker_handler = engine.supervisor
        self._task_handler = engine.feeder
        self._result_handler = engine.collector
        self._terminate = util.Finalize(self, engine.terminate, exitpriority=15)
        try:
            self._repopulate_pool()
            engine.start()
        except BaseException:
            self._terminate()
            raise
        self._state = RUN

    def _repopulate_pool(self) -> None:
        """Start workers until there are as many as the pool was made with."""
        self._engine.supervisor.repopulate()

    def __del__(self, *args: Any, **kwargs: Any) -> None:
        if self._pid == os.getpid():
            super().__del__(*args, **kwargs)

    def __enter__(self) -> Self:
        # A pool that is broken already is entered: nobody ends what a block was not entered with. Its calls say why.
        check_process(self._pid)
        super()._check_running()  # type: ignore[misc]
        return self

    def _check_running(self) -> None:
        check_process(self._pid)
        super()._check_running()  # type: ignore[misc]
        if self._broken is not None:
            raise again(self._broken)

    @property
    def _broken(self) -> BaseException | None:
        """Why no worker of this pool can run a task; None while they can."""
        return self._engine.state.error

    def _is_own_thread(self) -> bool:
        return self._engine.is_own_thread()

    # Calls: as in the standard library, but that the feeder is told what it can rely on, and that an interrupt ends a call.

    def apply(self, func: Callable[..., _T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> _T:
        """Return ``func(*args, **kwds)``, computed in a worker. Blocks until the result is there.

        Parameters
        ----------
        func, args, kwds
            The function and its arguments.

        Raises
        ------
        Exception
            The exception of `func`; errors of the pool, such as `WorkerLostError`.
        KeyboardInterrupt
            On Ctrl-C. It ends the call: the task is interrupted.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.apply(pow, (2, 10))
        1024
        """
        return self._wait_for(self.apply_async(func, args, kwds))

    def map(self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = None) -> list[_T]:
        """Return ``[func(item) for item in iterable]``, computed in the workers. Blocks until all results are there.

        Parameters
        ----------
        func : callable
            Called with one item. It is sent once, with everything that it has captured.
        iterable : iterable
            Read to its end before the first task is sent, unless it has a length.
        chunksize : int, optional
            Number of items that a worker gets in one task. By default each worker gets about four tasks. Large chunks suit
            many small items; 1 suits few large ones.

        Returns
        -------
        list
            The results, in the order of the items.

        Raises
        ------
        Exception
            The first exception that a task raises, once all tasks are answered; errors of the pool, such as
            `WorkerLostError`.
        KeyboardInterrupt
            On Ctrl-C. It ends the call: running tasks are interrupted, waiting tasks are dropped.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.map(abs, [-1, -2, -3])
        [1, 2, 3]
        """
        return self._wait_for(self._map_async(func, iterable, mapstar, chunksize))

    def starmap(
        self, func: Callable[..., _T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[_T]:
        """Return ``[func(*item) for item in iterable]``: as `map`, but each item holds the arguments of one call.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.starmap(pow, [(2, 3), (2, 4)])
        [8, 16]
        """
        return self._wait_for(self._map_async(func, iterable, starmapstar, chunksize))

    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult[_T]:
        """Start ``func(*args, **kwds)`` in a worker. Does not block.

        Parameters
        ----------
        func, args, kwds
            The function and its arguments. Small objects are taken as they are now; large arrays are read when the task is
            sent, so leave them unchanged until then.
        callback, error_callback : callable, optional
            Called with the result, or with the exception, in a thread of the pool. A callback should return at once, since
            other results wait for it; its exceptions are logged.

        Returns
        -------
        ApplyResult
            Of the value: call ``get(timeout=None)``, or ``await`` it.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     result = pool.apply_async(pow, (2, 10))
        ...     result.get()
        1024
        """
        self._check_running()
        shares = self._shared_now()
        snapshot = self._snapshot(func, args, kwds, shares)
        result: Any = ApplyResult(self, callback, error_callback)
        tasks = iter([(result._job, 0, func, args, kwds)])
        self._submit(Call(tasks, None, job=result._job, length=1, snapshot=snapshot, shares=shares))
        return result  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """Start a `map`. Does not block, except to read an iterable without a length.

        Parameters
        ----------
        func, iterable, chunksize
            As for `map`.
        callback, error_callback : callable, optional
            As for `apply_async`; called once, with the list of results or with the first exception.

        Returns
        -------
        MapResult
            Of the list of results, in the order of the items: call ``get(timeout=None)``, or ``await`` it.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.map_async(abs, [-1, -2, -3]).get()
        [1, 2, 3]
        """
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """Start a `starmap`: as `map_async`, but each item holds the arguments of one call.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.starmap_async(pow, [(2, 3), (2, 4)]).get()
        [8, 16]
        """
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Any,
        mapper: Any,
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> MapResult[Any]:
        self._check_running()
        # Copied also when it is a list: the caller may change that while tasks wait.
        if type(iterable) is list or not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            chunksize, extra = divmod(len(iterable), self._processes * 4)
            if extra:
                chunksize += 1
        if len(iterable) == 0:
            chunksize = 0
        batches = stdlib.Pool._get_tasks(func, iterable, chunksize)  # type: ignore[attr-defined]
        result: Any = MapResult(self, chunksize, len(iterable), callback, error_callback=error_callback)
        length = result._number_left
        tasks = tasks_of(result._job, mapper, batches, length)
        items = iterable if type(iterable) in (list, tuple) else None
        lazy, shares = runs_code(iterable), self._shared_now()
        self._submit(Call(tasks, None, items, job=result._job, length=length, lazy=lazy, shares=shares))
        return result  # type: ignore[no-any-return]

    def imap(self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1) -> IMapIterator[_T]:
        """Return an iterator over the results of ``func(item)``, in the order of the items. Does not block.

        Parameters
        ----------
        func : callable
            Called with one item.
        iterable : iterable
            Read as workers make room, at most `max_bytes` ahead; read in a thread of its own if it runs Python code, so it
            may wait for results of its own items.
        chunksize : int
            Number of items that a worker gets in one task.

        Returns
        -------
        IMapIterator
            For ``for`` and ``async for``; ``next(timeout)`` waits for one result at most so long. An exception of a task is
            raised in place of its result, and the iterator goes on; with a chunksize above 1 it ends there. Closing or
            dropping the iterator ends the call: running tasks are interrupted, waiting tasks are dropped. Ctrl-C while
            waiting for a result does the same.

        Raises
        ------
        ValueError
            For a chunksize below 1.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     for value in pool.imap(abs, [-1, -2, -3]):
        ...         print(value)
        1
        2
        3
        """
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1
    ) -> IMapIterator[_T]:
        """As `imap`, with the results in the order in which they arrive.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     sorted(pool.imap_unordered(abs, [-1, -2, -3]))
        [1, 2, 3]
        """
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(
        self, kind: type[IMapIterator[_T]], func: Any, iterable: Iterable[Any], chunksize: Any
    ) -> IMapIterator[_T]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        chunked = chunksize != 1
        batches = stdlib.Pool._get_tasks(func, iterable, chunksize) if chunked else iterable  # type: ignore[attr-defined]
        result = kind(self, chunked)
        tasks = tasks_of(result._job, mapstar if chunked else func, batches)
        lazy, shares = runs_code(iterable), self._shared_now()
        self._submit(Call(tasks, result.results._set_length, job=result._job, lazy=lazy, shares=shares))
        return result

    def _snapshot(
        self, func: Callable[..., Any], args: Any, kwds: Mapping[str, Any], shares: tuple[Share, ...]
    ) -> Snapshot | None:
        return self._engine.snapshot(func, args, kwds, shares)

    def _submit(self, call: Call) -> None:
        self._engine.submit(call)

    def _wait_for(self, result: ApplyResult[_T]) -> _T:
        """Wait for a call and return its value. An interrupt, or another exception of a signal handler, ends the call."""
        try:
            return result.get()
        except BaseException:
            if not result.ready():
                self._cancel(result._job)  # type: ignore[attr-defined]
            raise

    def _cancel(self, job: int, error: BaseException | None = None) -> None:
        """End a call: interrupt its running tasks, drop its waiting ones. Its result is `error`, or `CancelledError`."""
        if self._pid == os.getpid():
            self._engine.cancel(job, error)

    def _drop(self, job: int, ends: bool) -> None:
        """Note that the results of an imap will not be read. Called in finalizers, so it takes no lock."""
        if self._pid == os.getpid():
            self._engine.drop(job, ends)

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
            In a callback, and elsewhere in the pool's own threads, which could not end then.
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
                "a pool cannot be joined in a callback, nor elsewhere in its own threads: these would not end"
            )
        super().join()
        self._terminate()
        self._engine.wait()  # another thread may have begun the end

    @contextlib.contextmanager
    def share(self, obj: _T) -> Iterator[_T]:
        """Copy an object once, for all calls in the ``with`` block.

        Wherever it occurs in these calls, in arguments or captured by functions, the workers read that one copy; each task
        still gets the object itself, private and writable. They see the state that it has now: changes made to it inside
        the block do not reach them. What is made of it (a slice, a column) is another object.

        Parameters
        ----------
        obj : object
            A frame, table or array, or an object with such inside. Not a list, tuple or dict: share what is in them.

        Returns
        -------
        context manager
            For the ``with`` block; gives `obj`.

        Raises
        ------
        TypeError
            For what could not be recognized in a call: containers, strings, numbers, functions, classes.
        ArenaFullError
            When there is no room. It is not limited by `max_bytes`, which is for what is in flight.
        Exception
            Whatever pickling it raises.

        Examples
        --------
        >>> import numpy as np
        >>> from arrowpool import Pool
        >>> prices = np.arange(1_000_000.0)
        >>> with Pool(2) as pool, pool.share(prices):
        ...     pool.starmap(np.quantile, [(prices, 0.25), (prices, 0.75)])
        ...     pool.apply(np.sum, (prices,))
        [np.float64(249999.75), np.float64(749999.25)]
        np.float64(499999500000.0)
        """
        self._check_running()
        if isinstance(obj, type) or type(obj) in _NOT_SHARED:
            raise TypeError(
                f"a {type(obj).__name__} cannot be shared as such, since a call would not recognize it; "
                "share the frames, tables and arrays in it"
            )
        share = Share(obj)
        self._engine.share(share)
        try:
            share.placed.result()
            self._shares[share] = None
            yield obj
        finally:
            self._shares.pop(share, None)
            self._engine.unshare(share)

    def _shared_now(self) -> tuple[Share, ...]:
        """What a call that is made now refers to, the newest last."""
        return tuple(self._shares) if self._shares else ()

    def stats(self) -> Stats:
        """What this pool has done so far: what moved, what did not have to, where the time went, and what took the slow path.

        Returns
        -------
        Stats
            The figures as of now; shows itself as text, and as tables in a notebook.

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


def _check(
    processes: int,
    initializer: Callable[..., Any] | None,
    maxtasksperchild: int | None,
    max_bytes: int | None,
    retries: int,
    task_timeout: float | None,
) -> None:
    """Refuse what a pool cannot be made with."""
    if processes < 1:
        raise ValueError("Number of processes must be at least 1")
    operator.index(processes)
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes <= 0):
        raise ValueError("max_bytes must be a positive int (bytes) or None")
    if not isinstance(retries, int) or retries < 0:
        raise ValueError("retries must be an int, 0 or more")
    if task_timeout is not None and not (isinstance(task_timeout, (int, float)) and 0 < task_timeout < math.inf):
        raise ValueError("task_timeout must be a positive number (seconds) or None")


def _integer(number: Any) -> Any:
    """Any integer, NumPy's too, as an int; everything else as it is, for `_check` to refuse."""
    try:
        return operator.index(number)
    except TypeError:
        return number


def default_size() -> int:
    """Default number of workers."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        with contextlib.suppress(OSError):  # a sandbox may refuse
            return os.process_cpu_count() or 1
    return os.cpu_count() or 1


Pool = ArrowPool
