"""`split`: a frame cut into parts, for `pool.map`."""

from __future__ import annotations

from typing import Any, TypeVar

from arrowpool.arguments import checked_integer
from arrowpool.frames.cuts import Cut, even_parts, even_runs, parts_of_size, runs_of_size
from arrowpool.frames.keys import bounds_of, codes_of, order_of
from arrowpool.frames.libraries import is_of, kind_of

_F = TypeVar("_F")


def split(frame: _F, n: int | None = None, *, rows: int | None = None, by: Any = None) -> list[_F]:
    """Cut a frame, table or array into parts along its rows. Parts are views: no data is copied.

    Parameters
    ----------
    frame : DataFrame, Series, Index, Table, RecordBatch or array
        Of pandas, polars, pyarrow or NumPy.
    n : int, optional
        Number of parts, which differ by at most one row. There are fewer if the frame has fewer rows.
    rows : int, optional
        Number of rows of each part, instead of `n`. The last part may have fewer.
    by : str, list of str, or array, optional
        Keeps rows with equal keys in one part: names of columns, or the keys themselves, one for each row. Parts have as equal
        numbers of rows as whole groups allow; with `rows`, at most so many, except for a group that is larger. Without `n` and
        `rows`, each group is a part. Missing keys are a group. If the rows of a group are not next to each other, the frame is
        sorted once, which copies it: groups are in the order of their first rows, and rows keep their order.

    Returns
    -------
    list
        Parts of the frame's type, none of them empty; one empty part for an empty frame.

    Raises
    ------
    TypeError
        For other objects, and when neither `n` nor `rows` nor `by` is given, or both `n` and `rows`.
    ValueError
        For an `n` or `rows` below 1.
    KeyError
        For a column that the frame does not have.

    Examples
    --------
    >>> import pandas as pd
    >>> import arrowpool
    >>> frame = pd.DataFrame({"ticker": ["A", "B", "B", "C"], "close": [1.0, 2.0, 3.0, 4.0]})
    >>> [len(part) for part in arrowpool.split(frame, 3)]
    [2, 1, 1]
    >>> [list(part["ticker"]) for part in arrowpool.split(frame, 2, by="ticker")]
    [['A'], ['B', 'B', 'C']]
    """
    if not kind_of(frame) or getattr(frame, "ndim", 1) == 0:
        raise TypeError(f"split takes frames, tables and arrays, not {type(frame).__name__}")
    if n is not None and rows is not None:
        raise TypeError("split takes n or rows=, not both")
    if n is None and rows is None and by is None:
        raise TypeError("split needs a number of parts, rows= or by=")
    n, rows = _positive(n, "n"), _positive(rows, "rows")
    length = len(frame)  # type: ignore[arg-type]
    if by is not None and length:
        return _split_groups(frame, n, rows, by)
    cuts = parts_of_size(length, rows) if rows is not None else even_parts(length, n or 1)
    return [_part(frame, cut) for cut in cuts]


def _split_groups(frame: _F, n: int | None, rows: int | None, by: Any) -> list[_F]:
    codes = codes_of(frame, by)
    order = order_of(codes)
    if order is not None:
        frame, codes = _taken(frame, order), codes[order]
    groups = int(codes[-1]) + 1
    bounds = bounds_of(codes, groups)
    if rows is not None:
        runs = runs_of_size(bounds, rows)
    elif n is not None:
        runs = even_runs(bounds, n)
    else:
        runs = [(group, group + 1) for group in range(groups)]
    return [_part(frame, (int(bounds[first]), int(bounds[end]))) for first, end in runs]


def _positive(number: Any, name: str) -> int | None:
    if number is None:
        return None
    value = checked_integer(number, name)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def _part(frame: Any, cut: Cut) -> Any:
    start, end = cut
    if is_of(frame, "pandas", "DataFrame", "Series"):
        return frame.iloc[start:end]
    if kind_of(frame) in ("polars", "arrow"):
        return frame.slice(start, end - start)
    return frame[start:end]


def _taken(frame: Any, order: Any) -> Any:
    """A copy of the frame with its rows in another order."""
    if is_of(frame, "polars", "DataFrame", "Series"):
        return frame[order]
    return frame.take(order, axis=0) if kind_of(frame) in ("pandas", "numpy") else frame.take(order)
