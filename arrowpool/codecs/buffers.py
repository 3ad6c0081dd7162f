"""Arrow arrays without children, buffer by buffer: the visible part of each buffer, from the first element on.

Called by the Arrow codec and by templates. For one array this costs a fraction of an IPC stream, which has a schema, and which is
written twice: once to learn its size.

Guarantees the type and the values, at offset zero, over read-only memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.codecs.outbox import ByteArray, Outbox, Reduced
from arrowpool.tuning import ALIGNMENT

__all__ = ["OFFSETS", "PLAIN", "encode_plain", "immutable", "visible_buffers"]

Bytes = np.ndarray[Any, Any]
_BYTE = np.dtype("u1")
#: The types of offsets, by the ids of types that have them.
OFFSETS: dict[int, np.dtype[Any]] = {
    **{type_.id: np.dtype("i4") for type_ in (pa.string(), pa.binary())},
    **{type_.id: np.dtype("i8") for type_ in (pa.large_string(), pa.large_binary())},
}
_BOOL = pa.bool_().id
#: Types without parameters: in the stream, their ids stand for them.
_SIMPLE = [
    *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
]
_TYPES = {type_.id: type_ for type_ in _SIMPLE}
#: Other types whose elements all have the same width.
_WIDE = frozenset(
    {
        *(pa.timestamp("ns").id, pa.duration("ns").id, pa.time32("s").id, pa.time64("ns").id),
        *(pa.decimal128(1).id, pa.decimal256(1).id, pa.binary(1).id),
    }
)
#: The ids of all these types. They have no metadata, so types that compare equal are equal.
PLAIN = frozenset({*OFFSETS, *_TYPES, *_WIDE})


def visible_buffers(array: pa.Array) -> list[Bytes | None] | None:
    """Validity (None without nulls), offsets if the type has them, and values. None for other types."""
    type_ = array.type
    rows, first = len(array), array.offset
    dtype = OFFSETS.get(type_.id)
    if not rows or type_.id not in PLAIN:
        return None
    validity, *rest = array.buffers()
    bits = _bits(validity, first, rows) if array.null_count else None
    if dtype is None:
        (values,) = rest
        if type_.id == _BOOL:
            return [bits, _bits(values, first, rows)]
        width = type_.bit_width // 8
        return [bits, np.frombuffer(values, _BYTE, rows * width, first * width) if width else np.empty(0, _BYTE)]
    offsets, characters = rest
    ends = np.frombuffer(offsets, dtype, rows + 1, first * dtype.itemsize)
    start, stop = int(ends[0]), int(ends[-1])
    shown = np.frombuffer(characters, _BYTE, stop - start, start) if stop > start else np.empty(0, _BYTE)
    return [bits, ends - start if start else ends, shown]


def _bits(buffer: pa.Buffer, first: int, rows: int) -> Bytes:
    """The bits of these rows, beginning with the first bit."""
    skipped, shift = divmod(first, 8)
    packed = np.frombuffer(buffer, _BYTE, (shift + rows + 7) // 8, skipped)
    if not shift:
        return packed
    bits = np.unpackbits(packed, bitorder="little")[shift : shift + rows]
    return np.packbits(bits, bitorder="little")


def encode_plain(array: pa.Array, out: Outbox) -> Reduced:
    """Reduce an array to the bytes of its buffers; None for types for which that is not enough."""
    buffers = visible_buffers(array)
    if buffers is None:
        return None
    spans: list[tuple[int, int] | None] = []
    total = 0
    for buffer in buffers:
        if buffer is None:
            spans.append(None)
            continue
        total += -total % ALIGNMENT
        spans.append((total, buffer.nbytes))
        total += buffer.nbytes
    type_ = array.type
    token: Any
    if total < out.inline_limit or not total:
        token = np.empty(total, _BYTE)
        _write(buffers, spans, token)
        token = token.tobytes()
    else:
        token = out.place_with(total, partial(_write, buffers, spans))
    return _rebuild, (token, type_.id if type_.id in _TYPES else type_, len(array), array.null_count, spans)


def _write(buffers: list[Bytes | None], spans: list[tuple[int, int] | None], room: ByteArray) -> None:
    end = 0
    for buffer, span in zip(buffers, spans, strict=True):
        if buffer is not None and span is not None:
            start, nbytes = span
            room[end:start] = 0
            end = start + nbytes
            room[start:end] = buffer.view(_BYTE)


def _rebuild(
    room: ByteArray | bytes, kind: Any, rows: int, nulls: int, spans: list[tuple[int, int] | None]
) -> pa.Array:
    whole = immutable(room)
    buffers = [None if span is None else whole.slice(*span) for span in spans]
    return pa.Array.from_buffers(_TYPES[kind] if type(kind) is int else kind, rows, buffers, nulls)


def immutable(memory: ByteArray | bytes) -> pa.Buffer:
    """A read-only buffer over this memory: Arrow values are immutable. Users rely on that, and so do tasks that share one."""
    if isinstance(memory, np.ndarray):
        memory = memory.view()
        memory.flags.writeable = False
    return pa.py_buffer(memory)
