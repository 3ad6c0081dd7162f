"""Arrow memory that many objects show: where it lies, and objects as windows of it.

Called by the Arrow codec. Slices of one table show the same buffers. Where the outbox has copied these as a whole for many messages, an
object is the places of its buffers in that copy.

Guarantees: what arrives is over read-only memory, with the offsets of the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from arrowpool.codecs.buffers import immutable
from arrowpool.codecs.outbox import Extent, Outbox
from arrowpool.codecs.visible import visible_bytes
from arrowpool.tuning import LEAST_WINDOW

__all__ = ["extents", "rebuild_array", "rebuild_batch", "rebuild_chunked_array", "rebuild_table", "windows_of"]


def extents(obj: Any) -> Iterator[Extent]:
    """The memory of all buffers of a table, batch or array: whole buffers, also those of which a slice shows little."""
    columns = obj.itercolumns() if isinstance(obj, (pa.Table, pa.RecordBatch)) else [obj]
    for array in _chunks(columns):
        buffers = _buffers(array)
        total = sum(buffer.size for buffer in buffers)
        if total < LEAST_WINDOW:
            continue
        shown = visible_bytes(array) / total
        for buffer in buffers:
            yield Extent(buffer.address, buffer.address + buffer.size, int(buffer.size * shown), buffer)


def _chunks(columns: Iterable[Any]) -> Iterator[pa.Array]:
    for column in columns:
        if isinstance(column, pa.ChunkedArray):
            yield from column.chunks
        elif isinstance(column, pa.Array):
            yield column


def _buffers(array: pa.Array) -> list[pa.Buffer]:
    return [buffer for buffer in array.buffers() if buffer is not None and buffer.size and buffer.is_cpu]


#: An array as buffers: length, offset, number of nulls, and a byte array or None for each buffer.
Window = tuple[int, int, int, list[Any]]


def windows_of(columns: Iterable[Any], out: Outbox) -> list[list[Window]] | None:
    """The chunks of each column as windows of memory that was copied as a whole; None unless all of them lie in such memory."""
    if not out.has_windows:
        return None
    found = []
    for column in columns:
        windows = []
        for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            window = _window(array, out)
            if window is None:
                return None
            windows.append(window)
        found.append(windows)
    return found or None


def _window(array: pa.Array, out: Outbox) -> Window | None:
    type_ = array.type
    if (
        type_.num_fields
        or type_.id in (pa.lib.Type_DICTIONARY, pa.lib.Type_NA)
        or isinstance(type_, pa.BaseExtensionType)
    ):
        return None  # their buffers are not all
    places: list[Any] = []
    found = False
    for buffer in array.buffers():
        if buffer is None:
            places.append(None)
        elif buffer.size < LEAST_WINDOW and buffer.is_cpu:
            places.append(buffer.to_pybytes())
        else:
            token = out.place_window(buffer.address, buffer.size, writable=False) if buffer.is_cpu else None
            if token is None:
                return None
            places.append(token)
            found = True
    return (len(array), array.offset, array.null_count, places) if found else None


def rebuild_array(type_: pa.DataType, window: Window) -> pa.Array:
    """Make an array of its window."""
    length, offset, nulls, places = window
    return pa.Array.from_buffers(
        type_, length, [None if place is None else immutable(place) for place in places], nulls, offset
    )


def rebuild_table(schema: pa.Schema, columns: list[list[Window]]) -> pa.Table:
    """Make a table of the windows of its columns."""
    arrays = [rebuild_chunked_array(type_, windows) for type_, windows in zip(schema.types, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def rebuild_batch(schema: pa.Schema, columns: list[list[Window]]) -> pa.RecordBatch:
    """Make a batch of the windows of its columns, one each."""
    arrays = [rebuild_array(type_, window) for type_, (window,) in zip(schema.types, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def rebuild_chunked_array(type_: pa.DataType, windows: list[Window]) -> pa.ChunkedArray:
    """Make a chunked array of the windows of its chunks."""
    return pa.chunked_array([rebuild_array(type_, window) for window in windows], type_)
