"""Arrays of an `ArrowDtype`: the validity and the one or two buffers of values are leaves.

Called by `values`. As with strings (`text`), the chunk of a column of `inline_limit` bytes or more is a part, which the Arrow codec puts
into the message. A column of several chunks, or of a type that is more than its buffers, is a part itself.

Guarantees: one chunk at offset zero, over read-only memory, with what is visible of the source.
"""

from __future__ import annotations

import pickle
from typing import Any

import pandas as pd
import pyarrow as pa
from pandas.arrays import ArrowExtensionArray

from arrowpool.codecs.buffers import OFFSETS, PLAIN, visible_buffers
from arrowpool.codecs.outbox import Outbox
from arrowpool.codecs.recent import Recent
from arrowpool.codecs.templates.leaves import INTEGERS, Build, Code, Key, Reader, Small, is_plain
from arrowpool.codecs.templates.text import NO_BYTES, STATE_OF_TEXT, chunk_builder, maker_of

__all__ = ["ArrowArray", "arrow_builder", "take_arrow"]

ArrowArray: Any = ArrowExtensionArray
_BYTE = "|u1"
#: In the place of the code of the validity.
_CHUNK_IS_PART = ""
_LIMIT = 256
#: The attributes of a dtype: its storage, its type, and what is computed from that.
_STATE = frozenset({"_storage", "storage", "pyarrow_dtype", "_cache"})
#: By the type of elements, which has no metadata: the bytes of the dtype.
_tokens: Recent[pa.DataType, bytes] = Recent(_LIMIT)


def _token_of(values: Any) -> bytes | None:
    """The bytes of the dtype of an array with one chunk; None for what is not as pandas makes it."""
    chunked, dtype = values._pa_array, values._dtype
    if (
        chunked.num_chunks != 1
        or not is_plain(values, STATE_OF_TEXT)
        or type(dtype) is not pd.ArrowDtype
        or not _STATE.issuperset(dtype.__dict__)
    ):
        return None
    type_ = dtype.pyarrow_dtype
    # Other types may have metadata, which the comparison of types leaves out.
    if type_.id not in PLAIN or not chunked.type.equals(type_):
        return None
    return _tokens.of(type_, _token)


def _token(type_: pa.DataType) -> bytes:
    return pickle.dumps(pd.ArrowDtype(type_), 4)


def take_arrow(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """Take such an array apart; return its key, or None for a part."""
    token = _token_of(values)
    if token is None:
        return None
    chunk = values._pa_array.chunk(0)
    buffers = visible_buffers(chunk)
    if buffers is not None:
        validity, first, *more = buffers
        assert first is not None
        nbytes = sum(buffer.nbytes for buffer in buffers if buffer is not None)
        # All of them lie in the heap: the reader has no codes for others.
        if first.nbytes and nbytes < out.inline_limit and small.nbytes + nbytes < out.heap_limit:
            for buffer in (first, *more, validity):
                if buffer is not None and buffer.nbytes:
                    small.add(buffer)
            return "A", token, None if validity is None else _BYTE
    parts.append(chunk)
    return "A", token, _CHUNK_IS_PART


def arrow_builder(token: bytes, codes: list[Code]) -> Build:
    """The function that makes arrays of this key."""
    (validity_code,) = codes
    dtype = pickle.loads(token)
    if validity_code == _CHUNK_IS_PART:
        return chunk_builder(_new, dtype)
    type_ = dtype.pyarrow_dtype
    offsets = OFFSETS.get(type_.id)
    number = None if offsets is None else INTEGERS[offsets.itemsize]
    width = 0 if number is not None else type_.bit_width

    def build(reader: Reader, columns: int | None, rows: int) -> Any:
        if number is not None:
            ends, nbytes = reader.last_of(rows + 1, number)
            values = [ends, reader.bytes_of(nbytes) if nbytes else NO_BYTES]
        else:
            values = [reader.bytes_of((rows * width + 7) // 8)]
        validity = None if validity_code is None else reader.bytes_of((rows + 7) // 8)
        chunk = pa.Array.from_buffers(type_, rows, [validity, *values], 0 if validity is None else -1)
        return _new(pa.chunked_array([chunk]), dtype)

    return build


_new = maker_of(ArrowArray)
