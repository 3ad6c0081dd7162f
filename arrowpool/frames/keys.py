"""Which rows have the same keys: a number for each row, for frames of all libraries."""

from __future__ import annotations

from typing import Any

import numpy as np

from arrowpool.frames.cuts import Ints
from arrowpool.frames.libraries import is_of, kind_of


def codes_of(frame: Any, by: Any) -> Ints:
    """Number the groups of a frame's rows in the order of their first rows.

    Parameters
    ----------
    frame : DataFrame, Series, Table, RecordBatch or array
        Of pandas, polars, pyarrow or NumPy.
    by : str, list of str, or array
        Names of key columns; or the keys themselves, one for each row. For pandas, all that `DataFrame.groupby` takes.

    Returns
    -------
    array of int
        The number of each row's group. Missing keys are a group.

    Raises
    ------
    KeyError
        For a column that the frame does not have.
    ValueError
        For keys of another length than the frame's.
    TypeError
        For keys that are lists or structs, and for names of columns if the frame has none.
    """
    if kind_of(frame) == "pandas" and not is_of(frame, "pandas", "Index"):
        codes = frame.groupby(by, sort=False, dropna=False, observed=True).ngroup().to_numpy()
        return np.asarray(codes, dtype=np.intp)
    import pandas as pd

    # Of frames without pandas only the keys become a pandas object.
    names = [by] if isinstance(by, str) else by
    if not all(isinstance(name, str) for name in names) or is_of(by, "numpy", "ndarray") or kind_of(by):
        keys = pd.DataFrame({"by": _as_keys(by)})
    elif is_of(frame, "polars", "DataFrame") or is_of(frame, "pyarrow", "Table", "RecordBatch"):
        present = frame.columns if kind_of(frame) == "polars" else frame.schema.names
        missing = [name for name in names if name not in present]
        if missing:
            raise KeyError(missing[0])
        keys = pd.DataFrame({name: _as_keys(frame[name]) for name in names})
    else:
        raise TypeError(f"a {type(frame).__name__} has no columns: give the keys themselves, one for each row")
    if len(keys) != len(frame):
        raise ValueError(f"{len(keys)} keys for {len(frame)} rows")
    return codes_of(keys, list(keys.columns))


def _as_keys(column: Any) -> Any:
    """Keys as pandas can number them: equal ones are equal there, and others are not.

    Raises
    ------
    TypeError
        For keys that are lists or structs.
    """
    if kind_of(column) == "polars":
        column = column.to_arrow()
    if kind_of(column) == "arrow":
        return _numbers_of(column)
    # Not as an array of one dtype: 1 and "1" would be the same, and integers next to None would be rounded.
    return np.fromiter(column, object, len(column)) if isinstance(column, (list, tuple)) else np.asarray(column)


def _numbers_of(column: Any) -> Any:
    """Keys of Arrow: a number for each value where pandas' type would be another one; -1 for a null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, type_ = pa.types, column.type
    if types.is_nested(type_):
        raise TypeError(f"rows cannot be grouped by keys of the type {type_}")
    if types.is_null(type_) or types.is_boolean(type_):
        return column.to_pandas()
    if types.is_dictionary(type_):
        return _numbers_of(column.cast(type_.value_type))  # the values may be null, too, or equal
    if types.is_floating(type_):
        # Arrow tells numbers apart by their bits: here each NaN is the same, and both zeros are.
        column = pc.add(column.cast(pa.float64()), 0.0)
        column = pc.if_else(pc.is_nan(column), float("nan"), column)
    try:
        encoded = column.dictionary_encode()
    except pa.ArrowNotImplementedError:  # as for views of strings, and for extension types
        return column.to_pandas()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    return np.concatenate([np.empty(0, np.int64), *(chunk.indices.fill_null(-1).to_numpy() for chunk in chunks)])


def order_of(codes: Ints) -> Ints | None:
    """The order that puts the rows of each group together; None if they are together.

    Groups stay in the order of their first rows, and rows in their order within the group.
    """
    if bool((codes[1:] >= codes[:-1]).all()):
        return None
    return np.argsort(codes, kind="stable")


def bounds_of(sorted_codes: Ints, groups: int) -> Ints:
    """The first row of each group, and the number of rows after all of them; rows with a code below 0 come first."""
    return np.searchsorted(sorted_codes, np.arange(groups + 1)).astype(np.intp)
