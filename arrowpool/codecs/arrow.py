"""Arrow tables, batches, arrays and buffers: their visible values are written once into the room.

Found by :func:`arrowpool.codecs.encoder_for`. An array without children is copied buffer by buffer (`buffers`). A small table or
batch is the bytes of its schema (`schemas`) and a message of Arrow IPC. All other objects become an Arrow IPC stream. The IPC writer
writes only the visible slice (pickle sends all buffers of the parent), and takes a tenth of pickle's time for wide tables. The
receiver's buffers lie inside the room: nothing is copied again.

Guarantees the type, the values, the schema with all metadata, and the chunk layout that pickle delivers. Arrays arrive at offset zero
and over read-only memory. Types that IPC does not deliver exactly are pickled, buffer by buffer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.codecs import windows
from arrowpool.codecs.buffers import encode_plain, immutable
from arrowpool.codecs.outbox import ByteArray, Encode, Outbox, Reduced
from arrowpool.codecs.schemas import Carried, carried, schema_of
from arrowpool.codecs.visible import bytes_behind_views, visible_bytes
from arrowpool.codecs.windows import extents, windows_of

__all__ = ["encoder_for", "extents"]

#: Arrays may be longer than 2**31 - 1: both ends are Arrow C++.
_OPTIONS = pa.ipc.IpcWriteOptions(allow_64bit=True)
#: Longer batches have no size without these options.
_MOST_ROWS = 2**31 - 1
#: Bytes of the end of a stream.
_END = 8
#: Upper bound for the bytes that a stream needs per column in addition to its values.
_METADATA_ALLOWANCE = 4096


def encoder_for(cls: type) -> Encode | None:
    """The encoder of objects of the pyarrow type `cls`; None for plain pickle (schemas, types, scalars)."""
    if cls is pa.Table:
        return _encode_table
    if cls is pa.RecordBatch:
        return _encode_batch
    if cls is pa.ChunkedArray:
        return _encode_chunked_array
    if issubclass(cls, pa.Array):
        return _encode_array
    if issubclass(cls, pa.Buffer):
        return _encode_buffer
    return None


# ---------------------------------------------------------------------------------------------- tables and batches


def _encode_table(table: pa.Table, out: Outbox) -> Reduced:
    is_small = table.get_total_buffer_size() < out.inline_limit
    if not is_small:
        found = windows_of(table.itercolumns(), out)
        if found is not None:
            return windows.rebuild_table, (table.schema, found)
    schema = carried(table.schema)
    if not schema.exactly or not table.num_columns:
        return table.__reduce__()
    batches = table.to_batches()
    if not batches or not _cut_alike(table, [batch.num_rows for batch in batches]):
        return table.__reduce__()
    if is_small:
        return _as_messages(_rebuild_table, batches, schema, out)
    return _as_stream(_rebuild_table, table, batches, schema, out)


def _cut_alike(table: pa.Table, lengths: list[int]) -> bool:
    """Whether the chunks of every column have these lengths. (A batch ends where a chunk of any column ends, and is never empty.)"""
    if len(lengths) == 1:
        return all(column.num_chunks == 1 for column in table.itercolumns())
    return all([len(chunk) for chunk in column.chunks] == lengths for column in table.itercolumns())


def _rebuild_table(stream: Any, *messages: bytes) -> pa.Table:
    if messages:
        return pa.Table.from_batches(_batches(stream, messages), schema_of(stream))
    return _open(stream).read_all()


def _encode_batch(batch: pa.RecordBatch, out: Outbox) -> Reduced:
    is_small = batch.get_total_buffer_size() < out.inline_limit
    if not is_small:
        found = windows_of(batch.columns, out)
        if found is not None:
            return windows.rebuild_batch, (batch.schema, found)
    schema = carried(batch.schema)
    if batch.num_columns == 0 or not schema.exactly:
        return batch.__reduce__()
    if is_small:
        return _as_messages(_rebuild_batch, [batch], schema, out)
    return _as_stream(_rebuild_batch, batch, [batch], schema, out)


def _rebuild_batch(stream: ByteArray | bytes, *messages: bytes) -> pa.RecordBatch:
    return _batches(stream, messages)[0] if messages else _open(stream).read_next_batch()


# --------------------------------------------------------------------------------------------------------- arrays


def _encode_chunked_array(array: pa.ChunkedArray, out: Outbox) -> Reduced:
    if array.num_chunks == 0:
        return NotImplemented
    is_small = array.get_total_buffer_size() < out.inline_limit
    if not is_small:
        found = windows_of([array], out)
        if found is not None:
            return windows.rebuild_chunked_array, (array.type, found[0])
    batches = _as_batches(array.chunks)
    schema = carried(batches[0].schema)
    if not schema.exactly:
        return array.__reduce__()
    if is_small:
        return _as_messages(_rebuild_chunked_array, batches, schema, out)
    return _as_stream(_rebuild_chunked_array, array, batches, schema, out)


def _rebuild_chunked_array(stream: ByteArray | bytes, *messages: bytes) -> pa.ChunkedArray:
    if messages:
        return pa.chunked_array([batch.column(0) for batch in _batches(stream, messages)])
    return _open(stream).read_all().column(0)


def _encode_array(array: pa.Array, out: Outbox) -> Reduced:
    if array.get_total_buffer_size() < out.inline_limit:
        return encode_plain(array, out) or _encode_small_array(array, out)
    if isinstance(array.type, pa.BaseExtensionType):
        # The type is pickled; the storage is encoded by this codec.
        return _rebuild_extension_array, (array.type, array.storage)
    found = windows_of([array], out)
    if found is not None:
        return windows.rebuild_array, (array.type, found[0][0])
    plain = encode_plain(array, out)
    if plain is not None:
        return plain
    batches = _as_batches([array])
    schema = carried(batches[0].schema)
    if not schema.exactly:
        return _compacted(array).__reduce__()
    return _as_stream(_rebuild_array, array, batches, schema, out)


def _encode_small_array(array: pa.Array, out: Outbox) -> Reduced:
    """An array with children, for which buffers are not enough."""
    if not array.type.num_fields or isinstance(array.type, pa.BaseExtensionType):
        return NotImplemented
    batches = _as_batches([array])
    return _as_messages(_rebuild_array, batches, carried(batches[0].schema), out)


def _rebuild_array(stream: ByteArray | bytes, *messages: bytes) -> pa.Array:
    if messages:
        return _batches(stream, messages)[0].column(0)
    return _open(stream).read_next_batch().column(0)


def _rebuild_extension_array(type_: pa.ExtensionType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(type_, storage)


def _as_batches(chunks: Sequence[pa.Array]) -> list[pa.RecordBatch]:
    schema = pa.schema([pa.field("", chunks[0].type)])
    return [pa.RecordBatch.from_arrays([chunk], schema=schema) for chunk in chunks]


# -------------------------------------------------------------------------------------------------------- buffers


def _encode_buffer(buffer: pa.Buffer, out: Outbox) -> Reduced:
    # Pickle delivers small buffers correctly, and raises for memory that only a device can read.
    if not buffer.size or buffer.size < out.inline_limit or not buffer.is_cpu:
        return NotImplemented
    return _rebuild_buffer, (out.place(np.frombuffer(buffer, dtype=np.uint8)), buffer.is_mutable)


def _rebuild_buffer(room: ByteArray, is_mutable: bool) -> pa.Buffer:
    return pa.py_buffer(room) if is_mutable else immutable(room)


# ---------------------------------------------------------------------------------------------- small: IPC messages


def _as_messages(rebuild: Callable[..., Any], batches: list[pa.RecordBatch], schema: Carried, out: Outbox) -> Reduced:
    """Reduce batches over little memory to the bytes of their schema and of themselves; left to pickle if these are not few."""
    if schema.token is None or not all(batch.num_rows for batch in batches):
        return NotImplemented
    # Slices may show the same memory again and again.
    if sum(map(pa.ipc.get_record_batch_size, batches)) >= out.inline_limit + _METADATA_ALLOWANCE:
        return NotImplemented
    return rebuild, _messages(batches, schema.token)


def _messages(batches: list[pa.RecordBatch], token: bytes) -> tuple[bytes, ...]:
    return token, *(batch.serialize().to_pybytes() for batch in batches)


def _batches(token: Any, messages: Iterable[bytes]) -> list[pa.RecordBatch]:
    schema = schema_of(token)
    return [pa.ipc.read_record_batch(pa.py_buffer(message), schema) for message in messages]


# ------------------------------------------------------------------------------------------------------ IPC streams


def _as_stream(
    rebuild: Callable[..., Any], obj: Any, batches: list[pa.RecordBatch], schema: Carried, out: Outbox
) -> Reduced:
    try:
        return rebuild, _stream(batches, schema, out)
    except pa.ArrowNotImplementedError:  # types that this version of Arrow has, but not in IPC
        return obj.__reduce__()


def _stream(batches: list[pa.RecordBatch], schema: Carried, out: Outbox) -> tuple[Any, ...]:
    """The token of the IPC stream of these batches; if it is so small that it belongs in the message, its messages, or itself."""
    types = batches[0].schema.types
    if any(type_.id in _UNVIEWED for type_ in types):
        batches = [_map_columns(_without_hidden_bytes, batch) for batch in batches]
    size = _size(batches, schema)
    # IPC writes all memory behind a string array of length zero, at any depth. (The visible size takes long to compute, so it is
    # computed only where such an array is possible.)
    may_hide = any(type_.num_fields for type_ in types) or not all(batch.num_rows for batch in batches)
    if may_hide and size > 2 * _visible(batches) + _METADATA_ALLOWANCE * (1 + len(types)):
        batches = [_map_columns(_copied, batch) for batch in batches]
        size = _size(batches, schema)
    if size >= out.inline_limit:
        return (out.place_with(size, functools.partial(_write_into, batches)),)
    if schema.token is not None:
        return _messages(batches, schema.token)
    sink = pa.BufferOutputStream()
    _write(batches, sink)
    return (sink.getvalue().to_pybytes(),)


def _visible(batches: list[pa.RecordBatch]) -> int:
    return sum(visible_bytes(column) for batch in batches for column in batch.columns)


def _size(batches: list[pa.RecordBatch], schema: Carried) -> int:
    """Bytes of the stream. They are those of its messages, unless there are dictionaries or schemas that are not known."""
    if schema.token is not None and all(batch.num_rows <= _MOST_ROWS for batch in batches):
        return len(schema.token) + sum(int(pa.ipc.get_record_batch_size(batch)) for batch in batches) + _END
    counter = pa.MockOutputStream()
    _write(batches, counter)
    return int(counter.size())


def _write_into(batches: list[pa.RecordBatch], room: ByteArray) -> None:
    _write(batches, pa.FixedSizeBufferWriter(pa.py_buffer(room)))


def _write(batches: list[pa.RecordBatch], sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, batches[0].schema, options=_OPTIONS) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _open(stream: ByteArray | bytes) -> pa.ipc.RecordBatchStreamReader:
    return pa.ipc.open_stream(immutable(stream))


# ----------------------------------------------------------------------------------------- what IPC does not carry


def _map_columns(change: Callable[[pa.Array], pa.Array], batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = batch.columns
    changed = [change(column) for column in columns]
    if all(a is b for a, b in zip(columns, changed, strict=True)):
        return batch
    return pa.RecordBatch.from_arrays(changed, schema=batch.schema)


def _without_hidden_bytes(array: pa.Array) -> pa.Array:
    """A string or binary view over much more memory than it shows, rewritten: IPC writes all memory behind views."""
    if array.type.id not in _UNVIEWED:
        return array
    if sum(buffer.size for buffer in array.buffers()[2:]) <= 2 * bytes_behind_views(array):
        return array
    try:
        return array.cast(_UNVIEWED[array.type.id]).cast(array.type)
    except pa.ArrowNotImplementedError:  # older versions make views only from Python's strings
        return pa.array(array.to_pylist(), array.type)


_UNVIEWED = {pa.string_view().id: pa.large_string(), pa.binary_view().id: pa.large_binary()}


def _compacted(array: pa.Array) -> pa.Array:
    """A slice of a much larger array, copied: pickle sends all memory behind it."""
    return array if array.get_total_buffer_size() <= 2 * visible_bytes(array) else _copied(array)


def _copied(array: pa.Array) -> pa.Array:
    try:
        return pa.concat_arrays([array, array.slice(0, 0)])
    except pa.ArrowNotImplementedError:
        return array
