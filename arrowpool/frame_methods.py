"""The methods of a pool that take a whole frame: `map_groups`, `imap_groups` and `map_frame`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.pool import mapstar  # type: ignore[attr-defined]
from typing import Any, TypeVar

from arrowpool.call_methods import CallMethods
from arrowpool.frames.groups import Groups
from arrowpool.frames.join import joined
from arrowpool.frames.split import split
from arrowpool.frames.work import Answer, ApplyToRun, Run
from arrowpool.iterables import checked_chunksize

_T = TypeVar("_T")

#: Messages for each worker, as of `map`: workers that are faster get more of them.
_PARTS_FOR_A_WORKER = 4


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
            The first exception of `func`. From Python 3.11 it has a note that names the group. Errors of the pool, as of `map`.
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
        self._check_running()
        groups, runs = self._runs(frame, by, chunksize, options)
        answers: list[Answer] = self._wait_for(self._map_async(ApplyToRun(func), runs, mapstar, 1))
        return groups.joined(answers)

    def imap_groups(
        self,
        func: Callable[[Any], _T],
        frame: Any,
        by: Any = None,
        chunksize: int | None = None,
        **options: Any,
    ) -> Iterator[tuple[Any, _T]]:
        """Return an iterator over pairs of a group's key and its result, in the order of the groups. Does not block.

        Parameters
        ----------
        func, frame, by, chunksize, options
            As for `map_groups`.

        Returns
        -------
        iterator
            Ends with the first exception. Closing or dropping it ends the call, as for `imap`.

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
        self._check_running()
        _, runs = self._runs(frame, by, chunksize, options)
        return _pairs(runs, self.imap(ApplyToRun(func), runs))

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
        parts = split(frame, rows=rows) if rows is not None else split(frame, self._parts())
        return joined(self.map(func, parts, 1))

    def _parts(self) -> int:
        return self._processes * _PARTS_FOR_A_WORKER

    def _runs(self, frame: Any, by: Any, chunksize: Any, options: dict[str, Any]) -> tuple[Groups, list[Run]]:
        size = None if chunksize is None else checked_chunksize(chunksize)
        groups = Groups(frame, by, options)
        return groups, groups.runs(self._parts(), size)


def _pairs(runs: list[Run], answers: Iterator[Answer]) -> Iterator[tuple[Any, Any]]:
    for run, answer in zip(runs, answers, strict=True):
        yield from zip(run.keys, answer.values, strict=True)
