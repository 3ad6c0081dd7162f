"""The visible bytes of an Arrow array: its share of buffers that may be much larger.

Called by the Arrow codec, which compares it with the size of an IPC stream. `Array.nbytes` is the same number, but it raises for
views in pyarrow 16 to 23, and reads from address zero for a union without rows that came from IPC.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

__all__ = ["visible_bytes"]


def visible_bytes(array: pa.Array) -> int:
    """Bytes of the elements of `array`, with offsets, nulls, children and dictionaries."""
    length = len(array)
    if not length:
        return 0
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return visible_bytes(array.storage)
    if types.is_null(kind):
        return 0
    if types.is_union(kind):
        return length + _of_union(array)
    buffers = array.buffers()
    # Run-end encoded arrays have no validity bitmap.
    total = -(-length // 8) if buffers[0] is not None and not _is(kind, "is_run_end_encoded") else 0
    if types.is_dictionary(kind):
        return total + length * int(kind.index_type.bit_width) // 8 + visible_bytes(array.dictionary)
    if _is(kind, "is_run_end_encoded"):
        first, count = array.find_physical_offset(), array.find_physical_length()
        return visible_bytes(array.run_ends.slice(first, count)) + visible_bytes(array.values.slice(first, count))
    if types.is_struct(kind):
        return total + sum(visible_bytes(array.field(i)) for i in range(kind.num_fields))
    if _is(kind, "is_string_view") or _is(kind, "is_binary_view"):
        return total + 16 * length + bytes_behind_views(array)
    if _is(kind, "is_list_view") or _is(kind, "is_large_list_view"):
        return total + _of_list_views(array)
    if types.is_fixed_size_list(kind):
        size = kind.list_size
        return total + visible_bytes(array.values.slice(array.offset * size, length * size))
    if kind.num_fields:  # lists and maps
        width = 8 if types.is_large_list(kind) else 4
        start, stop = _bounds(buffers[1], array.offset, length, width)
        children = (array.keys, array.items) if types.is_map(kind) else (array.values,)
        return total + width * length + sum(visible_bytes(one.slice(start, stop - start)) for one in children)
    if len(buffers) == 3:  # strings and bytes
        width = 8 if types.is_large_string(kind) or types.is_large_binary(kind) else 4
        start, stop = _bounds(buffers[1], array.offset, length, width)
        return total + width * length + stop - start
    return total + -(-length * int(kind.bit_width) // 8)


def _is(kind: pa.DataType, test: str) -> bool:
    """Whether a type passes a test of `pyarrow.types`. False where this version of pyarrow has no such test, and no such types."""
    found = getattr(types, test, None)
    return found is not None and bool(found(kind))


def _bounds(offsets: pa.Buffer, first: int, length: int, width: int) -> tuple[int, int]:
    """Start and stop of the elements in their children or bytes."""
    numbers = np.frombuffer(offsets, np.int64 if width == 8 else np.int32)
    return int(numbers[first]), int(numbers[first + length])


def bytes_behind_views(array: pa.Array) -> int:
    """Bytes of a string or binary view that are not stored in the views themselves."""
    # A view has 16 bytes, its length first; up to 12 bytes are stored inside. The views of nulls may have any content.
    lengths = np.frombuffer(array.buffers()[1], np.int32)[4 * array.offset : 4 * (array.offset + len(array)) : 4]
    return int(lengths[lengths > 12].sum(dtype=np.int64))


def _of_list_views(array: pa.Array) -> int:
    width = np.int64 if types.is_large_list_view(array.type) else np.int32
    _, offsets, sizes, *_ = array.buffers()
    shown = slice(array.offset, array.offset + len(array))
    starts, lengths = np.frombuffer(offsets, width)[shown], np.frombuffer(sizes, width)[shown]
    used = np.greater(lengths, 0)
    own = 2 * starts.nbytes
    if not used.any():
        return own
    start = int(starts[used].min())
    stop = int((starts[used].astype(np.int64) + lengths[used]).max())
    return own + visible_bytes(array.values.slice(start, stop - start))


def _of_union(array: pa.Array) -> int:
    fields: list[Any] = [array.field(i) for i in range(array.type.num_fields)]
    if array.type.mode == "sparse":
        return sum(visible_bytes(field) for field in fields)
    codes, offsets = array.type_codes.to_numpy(), array.offsets.to_numpy()
    total = int(offsets.nbytes)
    for code, field in zip(array.type.type_codes, fields, strict=True):
        places = offsets[codes == code]
        if len(places):
            start = int(places.min())
            total += visible_bytes(field.slice(start, int(places.max()) + 1 - start))
    return total
