"""The methods of a pool that make calls: `apply`, `map`, `starmap`, `imap` and their asynchronous versions.

They differ from the standard library's in four points: each call carries its own copy of the list and the objects that were shared
when it was made; an interrupt ends the call that waits; results can be awaited; and errors can be returned. How a call is made is in
`calling`; the other methods of a pool are in `pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, Literal, TypeVar, overload

from arrowpool.calling import Calling
from arrowpool.engine.calls import Call
from arrowpool.engine.imap import IMapIterator, IMapUnorderedIterator
from arrowpool.engine.results import ApplyResult, MapResult
from arrowpool.errors import add_note
from arrowpool.iterables import is_grouped

_S = TypeVar("_S")
_T = TypeVar("_T")
_Raise = Literal["raise"]
_Return = Literal["return"]


class CallMethods(Calling):
    """Base class of `ArrowPool`."""

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

    @overload
    def map(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        *,
        on_error: _Raise = "raise",
    ) -> list[_T]: ...

    @overload
    def map(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = None, *, on_error: _Return
    ) -> list[_T | BaseException]: ...

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        on_error: str = "raise",
    ) -> list[Any]:
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
        on_error : {"raise", "return"}
            With "return", exceptions are in the places of their results, and the other items are computed; also `WorkerLostError`
            and `TaskTimeoutError`, for all items of the lost chunk. Errors of the call as a whole are raised: a function that
            cannot be pickled, an iterable that raises, the end of the pool.

        Returns
        -------
        list
            The results, in the order of the items.

        Raises
        ------
        TypeError, ValueError
            For a frame as `iterable`, for a chunksize that is not an integer or is below 1, for an iterable that has fewer or
            more items than its length says, and for another `on_error`.
        Exception
            The first exception that a task raises, once all tasks are answered, with a note that says for which item; errors
            of the pool, such as `WorkerLostError`.
        KeyboardInterrupt
            On Ctrl-C. It ends the call: running tasks are interrupted, waiting tasks are dropped.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.map(abs, [-1, -2, -3])
        ...     pool.map(int, ["1", "x", "3"], on_error="return")
        [1, 2, 3]
        [1, ValueError("invalid literal for int() with base 10: 'x'"), 3]
        """
        try:
            return self._wait_for(self._map_async(func, iterable, mapstar, chunksize, on_error=on_error))
        except Exception as error:
            if is_grouped(iterable):
                add_note(error, "each item of a GroupBy is a pair: pool.starmap(f, groups) calls f(key, frame)")
            raise

    @overload
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        on_error: _Raise = "raise",
    ) -> list[_T]: ...

    @overload
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        on_error: _Return,
    ) -> list[_T | BaseException]: ...

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        on_error: str = "raise",
    ) -> list[Any]:
        """Return ``[func(*item) for item in iterable]``: as `map`, but each item holds the arguments of one call.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.starmap(pow, [(2, 3), (2, 4)])
        [8, 16]
        """
        return self._wait_for(self._map_async(func, iterable, starmapstar, chunksize, on_error=on_error))

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

    @overload
    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: _Raise = "raise",
    ) -> MapResult[_T]: ...

    @overload
    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T | BaseException]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: _Return,
    ) -> MapResult[_T | BaseException]: ...

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: str = "raise",
    ) -> MapResult[Any]:
        """Start a `map`. Does not block, except to read an iterable without a length.

        Parameters
        ----------
        func, iterable, chunksize, on_error
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
        return self._map_async(func, iterable, mapstar, chunksize, callback, error_callback, on_error=on_error)

    @overload
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: _Raise = "raise",
    ) -> MapResult[_T]: ...

    @overload
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T | BaseException]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: _Return,
    ) -> MapResult[_T | BaseException]: ...

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: str = "raise",
    ) -> MapResult[Any]:
        """Start a `starmap`: as `map_async`, but each item holds the arguments of one call.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     pool.starmap_async(pow, [(2, 3), (2, 4)]).get()
        [8, 16]
        """
        return self._map_async(func, iterable, starmapstar, chunksize, callback, error_callback, on_error=on_error)

    @overload
    def imap(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1, *, on_error: _Raise = "raise"
    ) -> IMapIterator[_T]: ...

    @overload
    def imap(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1, *, on_error: _Return
    ) -> IMapIterator[_T | BaseException]: ...

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1, *, on_error: str = "raise"
    ) -> IMapIterator[Any]:
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
        on_error : {"raise", "return"}
            As for `map`: with "return", exceptions are yielded in the places of their results.

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
            For a frame as `iterable`, for a chunksize that is not an integer or is below 1, and for another `on_error`.

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
        return self._imap(IMapIterator, func, iterable, chunksize, on_error=on_error)

    @overload
    def imap_unordered(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1, *, on_error: _Raise = "raise"
    ) -> IMapIterator[_T]: ...

    @overload
    def imap_unordered(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = 1, *, on_error: _Return
    ) -> IMapIterator[_T | BaseException]: ...

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1, *, on_error: str = "raise"
    ) -> IMapIterator[Any]:
        """As `imap`, with the results in the order in which they arrive.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     sorted(pool.imap_unordered(abs, [-1, -2, -3]))
        [1, 2, 3]
        """
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, on_error=on_error)
