"""The methods of a pool that take a whole frame: `map_groups`, `imap_groups` and `map_frame`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from multiprocessing.pool import mapstar  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from arrowpool.call_methods import CallMethods
from arrowpool.engine.calls import name_of_function
from arrowpool.engine.imap import IMapIterator
from arrowpool.engine.item_names import ItemNames
from arrowpool.engine.outcomes import one_for_each, rebuilt
from arrowpool.engine.recorder import Activity, now
from arrowpool.engine.results import MapResult
from arrowpool.errors import TransferError, name_item
from arrowpool.frames.groups import GroupNames, Groups
from arrowpool.frames.join import joined
from arrowpool.frames.split import split
from arrowpool.frames.work import Answer, ApplyToPart, ApplyToRun, Run
from arrowpool.iterables import checked_chunksize, returns_errors
from arrowpool.transport.sent_errors import SentError

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")


class FrameMethods(CallMethods):
    """Base class of `ArrowPool`."""

    def map_groups(
        self,
        func: Callable[[Any], Any],
        frame: Any,
        by: Any = None,
        chunksize: int | None = None,
        **options: Any,
    ) -> Any:
        """Return ``frame.groupby(by, **options).apply(func)``, computed in the workers. Blocks until all results are there.

        The frame is sorted at most once. Many groups travel in one message, as one slice of the sorted frame.

        Parameters
        ----------
        func : callable
            Called with the rows of each group, without the key columns. The group's attribute `name` is its key.
        frame : DataFrame, Series or GroupBy
            Of pandas. A GroupBy (``frame.groupby("ticker")["close"]``) has its keys and options, so neither is given then.
        by
            As for `DataFrame.groupby`: a column, a list of columns, or the keys.
        chunksize : int, optional
            Number of groups that a worker gets in one message. By default each worker gets about four messages of about as much
            work. 1 suits few groups that take long.
        **options
            For `DataFrame.groupby`: ``level``, ``sort``, ``dropna``, ``observed``, ``group_keys``, ``as_index``.

        Returns
        -------
        DataFrame or Series
            The results, joined as `groupby.apply` of pandas 3 joins them: order, keys and index.

        Raises
        ------
        TypeError
            For other objects than pandas'; for a GroupBy together with `by` or options.
        Exception
            The first exception of `func`, with a note that names the group; a `RuntimeError` for a `StopIteration`, as in a
            generator. Errors of the pool, as of `map`.
        KeyboardInterrupt
            On Ctrl-C. It ends the call.

        Examples
        --------
        >>> import pandas as pd
        >>> from arrowpool import Pool
        >>> prices = pd.DataFrame({"ticker": ["A", "B", "A", "B"], "close": [1.0, 2.0, 3.0, 5.0]})
        >>> with Pool(2) as pool:
        ...     pool.map_groups(pd.DataFrame.max, prices, by="ticker")["close"].to_dict()
        {'A': 3.0, 'B': 5.0}
        """
        call = self._call_of_groups(func, frame, by, chunksize, options)
        return call.joined(self._wait_for(call.start()))

    @overload
    def imap_groups(
        self,
        func: Callable[[Any], _T],
        frame: Any,
        by: Any = None,
        chunksize: int | None = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Any,
    ) -> GroupIterator[_T]: ...

    @overload
    def imap_groups(
        self,
        func: Callable[[Any], _T],
        frame: Any,
        by: Any = None,
        chunksize: int | None = None,
        *,
        on_error: Literal["return"],
        **options: Any,
    ) -> GroupIterator[_T | BaseException]: ...

    def imap_groups(
        self,
        func: Callable[[Any], Any],
        frame: Any,
        by: Any = None,
        chunksize: int | None = None,
        *,
        on_error: str = "raise",
        **options: Any,
    ) -> GroupIterator[Any]:
        """Return an iterator over pairs of a group's key and its result, in the order of the groups. Does not block.

        The keys are those of ``for key, group in frame.groupby(by)``: tuples if `by` is a list.

        Parameters
        ----------
        func, frame, by, chunksize, options
            As for `map_groups`.
        on_error : {"raise", "return"}
            With "return", an exception is the result of its group; `WorkerLostError` and `TaskTimeoutError` are the results of all
            groups of the lost message.

        Returns
        -------
        iterator
            Also for ``async for``. Ends with the first exception, unless it is returned. Closing or dropping it ends the call, as
            for `imap`.

        Raises
        ------
        TypeError
            As for `map_groups`.

        Examples
        --------
        >>> import pandas as pd
        >>> from arrowpool import Pool
        >>> prices = pd.DataFrame({"ticker": ["A", "B", "A"], "close": [1.0, 2.0, 3.0]})
        >>> with Pool(2) as pool:
        ...     for ticker, rows in pool.imap_groups(len, prices, by="ticker"):
        ...         print(ticker, rows)
        A 2
        B 1
        """
        return self._call_of_groups(func, frame, by, chunksize, options).pairs(on_error)

    def map_frame(self, func: Callable[[Any], Any], frame: Any, *, rows: int | None = None) -> Any:
        """Return ``func(frame)`` for a function that works row by row, computed in the workers on parts of the rows.

        Parameters
        ----------
        func : callable
            Called with parts of the frame. It returns a frame, series, table or array for each.
        frame : DataFrame, Series, Table, RecordBatch or array
            Of pandas, polars, pyarrow or NumPy.
        rows : int, optional
            Number of rows of a part. By default each worker gets about four parts.

        Returns
        -------
        DataFrame, Series, Table, ChunkedArray or array
            The results of the parts, one below the other.

        Raises
        ------
        TypeError
            For other objects, and for results that are not frames or arrays.
        Exception
            As for `map`.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> from arrowpool import Pool
        >>> prices = pd.DataFrame({"open": [1.0, 2.0, 4.0], "close": [2.0, 4.0, 1.0]})
        >>> with Pool(2) as pool:
        ...     pool.map_frame(np.log2, prices)["close"].tolist()
        [1.0, 2.0, 0.0]
        """
        self._check_running()
        began = now()
        parts = split(frame, rows=rows) if rows is not None else split(frame, self._parts())
        self._framed(Activity.CUT, began)
        names = ItemNames(count=len(parts), noun="part")
        answers = self._wait_for(self._map_async(ApplyToPart(func), parts, mapstar, 1, names=names))
        began = now()
        answer = joined(answers)
        self._framed(Activity.JOIN, began)
        return answer

    def _call_of_groups(
        self, func: Callable[[Any], Any], frame: Any, by: Any, chunksize: Any, options: dict[str, Any], parts: int = 0
    ) -> CallOfGroups:
        """A call for each group, not begun: without a `chunksize`, in at least so many parts. Also used by `progress`."""
        self._check_running()
        size = None if chunksize is None else checked_chunksize(chunksize)
        if not callable(func):
            raise TypeError(f"the function is {func!r}, which cannot be called; pandas does {func!r} itself, fast")
        if "on_error" in options:
            raise TypeError("map_groups joins results, so it has no on_error: use imap_groups(..., on_error='return')")
        began = now()
        groups = Groups(frame, by, options)
        runs = groups.runs(max(parts, self._parts()), size)
        self._framed(Activity.CUT, began)
        return CallOfGroups(self, func, groups, runs)


class CallOfGroups:
    """A call for each group of a frame.

    Parameters
    ----------
    pool : FrameMethods
        Runs it.
    func : callable
        The user's function.
    groups : Groups
        The groups.
    runs : list of Run
        What travels together.

    Attributes
    ----------
    sizes : list of int
        Number of groups in each run, which is a task.
    """

    def __init__(self, pool: FrameMethods, func: Callable[[Any], Any], groups: Groups, runs: list[Run]):
        self._pool = pool
        self._func = func
        self._groups = groups
        self._runs = runs
        self.sizes = [len(run.keys) for run in runs]

    def start(self) -> MapResult[Answer]:
        """Start it as a `map`. The results are for `joined`."""
        names = GroupNames(self._runs)
        return self._pool._map_async(ApplyToRun(self._func, stacks=True), self._runs, mapstar, 1, names=names)

    def joined(self, answers: list[Answer]) -> Any:
        """The results of all groups as one object."""
        began = now()
        answer = self._groups.joined(answers)
        self._pool._framed(Activity.JOIN, began)
        return answer

    def pairs(self, on_error: str = "raise") -> GroupIterator[Any]:
        """Start it as an `imap`; pairs of a group's key and its result."""
        function, runs = ApplyToRun(self._func, returns_errors(on_error)), self._runs
        names = GroupNames(runs)
        answers = self._pool._imap(IMapIterator, function, runs, 1, names, on_error)
        return GroupIterator(function, runs, names, answers, self._groups.as_iterated)


class GroupIterator(Iterator[tuple[Any, _T]], AsyncIterator[tuple[Any, _T]], Generic[_T]):
    """Pairs of a group's key and its result, as `imap_groups` returns them. For ``for`` and ``async for``.

    Parameters
    ----------
    function : ApplyToRun
        What the workers call.
    runs : list of Run
        The groups that travel together.
    names : GroupNames
        Names groups in errors.
    answers : iterator
        The answer of each run, in order: of an `imap`.
    as_iterated : callable
        Makes the keys of a run as the user gets them.
    """

    def __init__(
        self,
        function: ApplyToRun,
        runs: list[Run],
        names: GroupNames,
        answers: Any,
        as_iterated: Callable[[Any], Iterable[Any]],
    ):
        self._function = function
        self._as_iterated = as_iterated
        #: Held by the thread that takes an answer and its run, which belong together. Reentrant, for signal handlers.
        self._taking = threading.RLock()
        self._runs = iter(runs)
        self._names = names
        self._answers = answers
        #: The pairs of the last answer that are not taken yet.
        self._pairs: deque[tuple[Any, Any]] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, _T]:
        with self._taking:
            while True:
                if self._pairs:
                    return self._pairs.popleft()
                try:
                    answer = next(self._answers)
                except Exception as error:
                    self._end_with(error)
                    raise
                self._add(answer)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, _T]:
        while True:
            if self._pairs:
                return self._pairs.popleft()
            try:
                answer = await anext(self._answers)
            except Exception as error:
                self._end_with(error)
                raise
            self._add(answer)

    def close(self) -> None:
        """End the call. There are no more results."""
        self._answers.close()
        self._pairs.clear()

    def _end_with(self, error: Exception) -> None:
        if not isinstance(error, (StopIteration, StopAsyncIteration)):
            self.close()

    def _add(self, answer: Answer | BaseException) -> None:
        run = next(self._runs)
        if isinstance(answer, BaseException):  # of all groups: they are returned
            numbers = range(run.first, run.first + len(run.keys))
            errors = one_for_each(answer, self._answers._job, numbers)
            self._pairs.extend(zip(self._as_iterated(run.keys), errors, strict=True))
            return
        pairs = zip(self._as_iterated(run.keys), answer.values, strict=True)
        for number, (key, value) in enumerate(pairs, run.first):
            if type(value) is SentError:
                value = self._rebuilt(value, number)
            self._pairs.append((key, value))

    def _rebuilt(self, sent: SentError, number: int) -> BaseException:
        group = range(number, number + 1)
        error = rebuilt(sent, f"{name_of_function(self._function)} on {self._names.text(group)}")
        note = "" if isinstance(error, TransferError) else self._names.note(group)
        name_item(error, self._answers._job, number, note)
        return error
