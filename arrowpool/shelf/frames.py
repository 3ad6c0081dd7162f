"""A pandas frame as an Arrow table that any Arrow implementation reads, and references from the frame's arrays to that table.

Called by `layout`. A column of the table is made over the frame's own memory where Arrow has the same representation: numbers,
datetimes and timedeltas without nulls, and Arrow-backed columns. Such a column is *exact*: the frame can be rebuilt over it without
a copy. Every other column is converted for other readers, and its original is stored in addition (see `layout`).
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.core.internals.managers import BlockManager  # type: ignore[import-not-found]  # no stubs

#: Identifies a one-dimensional array of a frame: address, stride, length, dtype.
_Key = tuple[int, int, int, Any]

_EXACT_KINDS = "iufmM"
#: Arrow has these units. It would convert NumPy's others, such as days.
_EXACT_UNITS = ("s", "ms", "us", "ns")


class FrameTable:
    """A frame and its table.

    Attributes
    ----------
    frame : DataFrame
        Equal to the given frame, and over the same memory. Each of its blocks holds neighbouring columns.
    table : pyarrow.Table
        With one chunk in each column, and with pandas' metadata.

    Raises
    ------
    pyarrow.ArrowException, TypeError, ValueError
        When Arrow cannot express the frame: duplicate names, columns of mixed objects.
    """

    def __init__(self, frame: pd.DataFrame):
        self.frame = _split(frame)
        #: Numbers of the exact columns of NumPy arrays. Two arrays over the same memory are two columns, and stay separate.
        self._exact: dict[_Key, list[int]] = {}
        #: Numbers of the exact columns of Arrow arrays, by their buffers, offset, length and type.
        self._arrow: dict[tuple[Any, ...], int] = {}
        # A few rows give pandas' metadata, and the names and the order of the table's columns.
        rows = frame.iloc[:100].copy(deep=False)
        rows.attrs = {}  # pandas would store them as JSON, and warn where it cannot; `layout` stores them exactly
        _name_in_text(rows)
        head = pa.Table.from_pandas(rows)
        metadata = json.loads(head.schema.metadata[b"pandas"])
        for number, level in enumerate(metadata["index_columns"]):
            if isinstance(level, dict):
                index: Any = frame.index
                metadata["index_columns"][number] = level | {
                    "start": index.start,
                    "stop": index.stop,
                    "step": index.step,
                }
        kept = [level for level in metadata["index_columns"] if isinstance(level, str)]
        sources = [*self._columns(), *(frame.index.get_level_values(i) for i in range(frame.index.nlevels))][
            : len(frame.columns) + len(kept)
        ]
        columns = [self._column(number, source) for number, source in enumerate(sources)]
        self.table = pa.table(columns, names=head.column_names).replace_schema_metadata(
            {**head.schema.metadata, b"pandas": json.dumps(metadata).encode()}
        )

    def _columns(self) -> list[Any]:
        """The values of each column, as views of the blocks where possible."""
        columns: list[Any] = [None] * self.frame.shape[1]
        for block in self.frame._mgr.blocks:
            for row, place in enumerate(block.mgr_locs.as_array):
                columns[place] = block.values[row] if block.values.ndim == 2 else block.values
        return columns

    def _column(self, number: int, values: Any) -> pa.Array:
        """Column `number` of the table, over the memory of `values` if it is exact."""
        plain = _plain(values)
        if plain is not None:
            array = pa.array(plain, from_pandas=False)
            if array.null_count == 0:
                self._exact.setdefault(_key(plain), []).append(number)
            zone = getattr(values, "tz", None)
            if zone is None:
                return array
            zoned = pa.timestamp(values.unit, pa.lib.tzinfo_to_string(zone))
            return pa.Array.from_buffers(zoned, len(array), array.buffers(), array.null_count, array.offset)
        backed = getattr(values, "_pa_array", None)
        if isinstance(backed, pa.ChunkedArray):
            whole = backed.chunk(0) if backed.num_chunks == 1 else backed.combine_chunks()
            if isinstance(whole, pa.ChunkedArray):
                whole = whole.chunk(0)
            if backed.num_chunks == 1:
                self._arrow[_arrow_key(whole)] = number
            return whole
        array = pa.array(values, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    def reference(self, obj: Any) -> Any:
        """A reference to the exact columns that hold an array of the frame, for `resolve`; None when there are none.

        Returns
        -------
        int
            For an Arrow array: the number of its column.
        (list of int, str)
            For a two-dimensional NumPy array: the numbers of the columns that are its rows, and its dtype.
        (tuple of int, str)
            For a one-dimensional NumPy array: the number of its column, in a tuple, and its dtype.
        """
        if isinstance(obj, pa.Array):
            return self._arrow.get(_arrow_key(obj)) if len(obj) else None
        if type(obj) is not np.ndarray or obj.dtype.kind not in _EXACT_KINDS or obj.ndim not in (1, 2) or not obj.size:
            return None
        found = [self._exact.get(_key(row)) for row in (obj if obj.ndim == 2 else [obj])]
        if not all(found):
            return None
        # Each column of the table is used for one array only: what a reader writes to that array must not show in another.
        columns = [numbers.pop(0) for numbers in found if numbers]
        if len(columns) < len(found):
            return None
        return columns if obj.ndim == 2 else tuple(columns), obj.dtype.str


def resolve(reference: Any, table: pa.Table, memory: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """The array for a reference of `FrameTable.reference`, over the table's memory.

    Parameters
    ----------
    memory : ndarray of uint8
        The memory that the table was opened over. The result is writeable if this memory is.
    """
    if isinstance(reference, int):
        return table.column(reference).chunk(0)
    columns, name = reference
    dtype = np.dtype(name)
    nbytes = table.num_rows * dtype.itemsize
    base = memory.__array_interface__["data"][0]
    starts = []
    for number in columns:
        column = table.column(number).chunk(0)
        starts.append(column.buffers()[1].address - base + column.offset * dtype.itemsize)
    if isinstance(columns, tuple):
        return memory[starts[0] : starts[0] + nbytes].view(dtype)
    steps = {after - before for before, after in itertools.pairwise(starts)}
    if len(steps) > 1:
        return np.stack([memory[start : start + nbytes].view(dtype) for start in starts])
    # Equal distances: one strided array over all columns, which skips the padding between them.
    step = steps.pop() if steps else nbytes
    end = starts[0] + step * (len(starts) - 1) + nbytes
    rows = np.lib.stride_tricks.as_strided(memory[starts[0] : end], (len(starts), nbytes), (step, 1))
    return rows.view(dtype)


def _name_in_text(rows: pd.DataFrame) -> None:
    """Turn the names of index and columns into text, as pyarrow does. pyarrow would warn that names of other types are lost;
    `layout` stores them exactly.
    """
    if any(name is not None and not isinstance(name, str) for name in rows.index.names):
        rows.index = rows.index.set_names([_in_text(name) for name in rows.index.names])
    columns = rows.columns
    if isinstance(columns, pd.MultiIndex):
        mixed = [number for number, level in enumerate(columns.levels) if _is_mixed(level)]
        if mixed:
            rows.columns = columns.set_levels([_texts(columns.levels[number]) for number in mixed], level=mixed)
    elif _is_mixed(columns):
        rows.columns = pd.Index(_texts(columns), dtype=object, name=columns.name)


def _is_mixed(names: pd.Index) -> bool:
    return names.dtype == object and "mixed" in pd.api.types.infer_dtype(names)


def _texts(names: pd.Index) -> list[str | None]:
    return [_in_text(name) for name in names]


def _in_text(name: Any) -> str | None:
    if name is None or isinstance(name, str):
        return name
    if isinstance(name, bytes):
        return name.decode()
    return str(tuple(map(_in_text, name))) if isinstance(name, tuple) else str(name)


def _split(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame over the same memory, with blocks that hold neighbouring columns only."""
    manager = frame._mgr
    blocks = []
    for block in manager.blocks:
        places = block.mgr_locs.as_array
        if block.values.ndim != 2 or len(places) < 2:
            blocks.append(block)
            continue
        cuts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        if len(cuts) == 2:
            blocks.append(block)
        else:
            blocks += [block.slice_block_columns(slice(a, b)) for a, b in itertools.pairwise(cuts)]
    if len(blocks) == len(manager.blocks):
        return frame
    split = BlockManager(tuple(blocks), manager.axes, verify_integrity=False)
    build: Any = frame._constructor_from_mgr
    same: pd.DataFrame = build(split, axes=split.axes).__finalize__(frame)
    return same


def _plain(values: Any) -> Any:
    """The NumPy array behind `values`, if Arrow represents it by the same bytes; else None."""
    array = values
    if isinstance(values, pd.Index):
        array = values._values  # type: ignore[attr-defined]
    if not isinstance(array, np.ndarray):
        array = (
            getattr(array, "_ndarray", None) if type(array).__name__ in ("DatetimeArray", "TimedeltaArray") else None
        )
    if array is None or type(array) is not np.ndarray or array.dtype.kind not in _EXACT_KINDS:
        return None
    if array.dtype.kind in "mM" and np.datetime_data(array.dtype) not in [(unit, 1) for unit in _EXACT_UNITS]:
        return None
    if not array.dtype.isnative or array.dtype.itemsize > 8:
        return None
    return array


def _key(array: np.ndarray[Any, Any]) -> _Key:
    return array.__array_interface__["data"][0], array.strides[0] if array.size else 0, array.size, array.dtype


def _arrow_key(array: pa.Array) -> tuple[Any, ...]:
    buffers = tuple(None if buffer is None else buffer.address for buffer in array.buffers())
    return buffers, array.offset, len(array), array.type
