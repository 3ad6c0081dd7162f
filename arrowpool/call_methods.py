"""The methods of a pool that make calls: `apply`, `map`, `starmap`, `imap` and their asynchronous versions.

They differ from the standard library's in three points: each call carries its own copy of the list and the objects that were shared
when it was made; an interrupt ends the call that waits; and results can be awaited. The other methods of a pool are in `pool`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import pool as stdlib
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, TypeVar

from arrowpool.engine.calls import Call, Share, Snapshot
from arrowpool.engine.engine import Engine
from arrowpool.engine.imap import IMapIterator, IMapUnorderedIterator
from arrowpool.engine.results import ApplyResult, MapResult
from arrowpool.engine.source import runs_code, tasks_of
from arrowpool.errors import add_note, again
from arrowpool.interrupts import check_process
from arrowpool.iterables import batches_of, checked_chunksize, expect_no_more, is_grouped, refuse_frame

_S = TypeVar("_S")
_T = TypeVar("_T")


class CallMethods(stdlib.Pool):
    """Base class of `ArrowPool`, which sets the attributes below."""

    #: Process that made the pool. A forked child does not have the pool's threads, and cannot make calls.
    _pid: int
    _processes: int
    _engine: Engine
    #: Objects that are shared now, oldest first. Any thread adds, removes and reads, with one atomic operation each.
    _shares: dict[Share, None]

    def _check_running(self) -> None:
        check_process(self._pid)
        super()._check_running()  # type: ignore[misc]
        if self._broken is not None:
            raise again(self._broken)

    @property
    def _broken(self) -> BaseException | None:
        """The error for all calls when no worker of this pool can run a task; None otherwise."""
        return self._engine.error

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
        TypeError, ValueError
            For a frame as `iterable`, for a chunksize that is not an integer or is below 1, and for an iterable that has fewer or
            more items than its length says.
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
        try:
            return self._wait_for(self._map_async(func, iterable, mapstar, chunksize))
        except Exception as error:
            if is_grouped(iterable):
                add_note(error, "each item of a GroupBy is a pair: pool.starmap(f, groups) calls f(key, frame)")
            raise

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
        refuse_frame(iterable, "map" if mapper is mapstar else "starmap")
        # Copied also when it is a list: the caller may change that while tasks wait.
        if type(iterable) is list or not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        lazy, count = runs_code(iterable), len(iterable)
        if count == 0:
            chunksize = 0
            if lazy:
                expect_no_more(iter(iterable), 0)
        elif chunksize is None:
            chunksize = -(-count // (self._processes * 4))
        else:
            chunksize = checked_chunksize(chunksize)
        batches = batches_of(func, iterable, chunksize, count, lazy)
        result: Any = MapResult(self, chunksize, count, callback, error_callback=error_callback)
        length = result._number_left
        tasks = tasks_of(result._job, mapper, batches, length)
        items = iterable if type(iterable) in (list, tuple) else None
        shares = self._shared_now()
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
        TypeError, ValueError
            For a frame as `iterable`, and for a chunksize that is not an integer or is below 1.

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
        refuse_frame(iterable, "imap")
        chunksize = checked_chunksize(chunksize)
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

    def _shared_now(self) -> tuple[Share, ...]:
        """The objects that a call made now refers to, newest last."""
        return tuple(self._shares) if self._shares else ()
