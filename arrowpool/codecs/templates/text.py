"""Strings in Arrow's memory: the offsets, the characters and the validity of a column or an index are three leaves.

Called by `values`. Arrow's IPC costs more than a small column itself. The chunk of a column of `inline_limit` bytes or more is a
part, which the Arrow codec puts into the message. A column of several chunks is a part itself.

Guarantees: one chunk at offset zero, over read-only memory, with what is visible of the source.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pandas.arrays import ArrowStringArray

from arrowpool.codecs.buffers import visible_buffers
from arrowpool.codecs.outbox import Outbox
from arrowpool.codecs.templates.leaves import INTEGERS, Build, Code, Key, Reader, Small, is_plain
from arrowpool.codecs.templates.tokens import text_token

__all__ = [
    "NO_BYTES",
    "STATE_OF_TEXT",
    "TextArray",
    "chunk_builder",
    "maker_of",
    "new_text",
    "take_text",
    "text_builder",
]

TextArray: Any = ArrowStringArray
#: The attributes of an array of strings. What is in the cache is computed from the others.
STATE_OF_TEXT = frozenset({"_pa_array", "_dtype", "_cache", "_readonly"})
_TYPES = {"<i8": pa.large_string(), "<i4": pa.string()}
#: The codes of offsets.
_CODES = {pa.large_string().id: "<i8", pa.string().id: "<i4"}
_BYTE = "|u1"
#: Newer versions of pandas clear the cache of an array that changes.
_HAS_CACHE = "_cache" in vars(TextArray(pa.chunked_array([pa.array(["a"], pa.large_string())])))
NO_BYTES = pa.py_buffer(b"")


def take_text(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """Take an array of strings apart; return its key, or None for a part."""
    chunked = values._pa_array
    ends_code = _CODES.get(chunked.type.id)
    if ends_code is None or chunked.num_chunks != 1 or not is_plain(values, STATE_OF_TEXT):
        return None
    token = text_token(values._dtype)
    if token is None:
        return None
    chunk = chunked.chunk(0)
    buffers = visible_buffers(chunk)
    if buffers is not None:
        validity, ends, characters = buffers
        assert ends is not None
        assert characters is not None
        nbytes = ends.nbytes + characters.nbytes + len(ends)
        # All leaves of a text lie in the heap: the reader has no codes for others.
        if nbytes < out.inline_limit and small.nbytes + nbytes < out.heap_limit:
            small.add(ends)
            if characters.nbytes:
                small.add(characters)
            if validity is None:
                return "T", token, ends_code, None
            small.add(validity)
            return "T", token, ends_code, _BYTE
    parts.append(chunk)
    return "T", token, None, None


def text_builder(token: bytes, codes: list[Code]) -> Build:
    """The function that makes arrays of strings of this key."""
    ends_code, validity_code = codes
    if ends_code is None:
        return chunk_builder(new_text, pickle.loads(token))
    number = INTEGERS[int(ends_code[-1])]
    has_nulls = validity_code is not None
    type_, dtype = _TYPES[ends_code], pickle.loads(token)

    def build(reader: Reader, columns: int | None, rows: int) -> Any:
        ends, nbytes = reader.last_of(rows + 1, number)
        characters = reader.bytes_of(nbytes) if nbytes else NO_BYTES
        validity = reader.bytes_of((rows + 7) // 8) if has_nulls else None
        buffers = [validity, ends, characters]
        chunk = pa.Array.from_buffers(type_, rows, buffers, -1 if has_nulls else 0)
        return new_text(pa.chunked_array([chunk]), dtype)

    return build


def chunk_builder(make: Callable[[pa.ChunkedArray, Any], Any], dtype: Any) -> Build:
    """The function that makes arrays of a chunk that is a part."""

    def build(reader: Reader, columns: int | None, rows: int) -> Any:
        return make(pa.chunked_array([reader.part()]), dtype)

    return build


def maker_of(cls: Any) -> Callable[[pa.ChunkedArray, Any], Any]:
    """The function that makes arrays of this class, in Arrow's memory and of a dtype, as unpickling makes them."""

    def make(chunked: pa.ChunkedArray, dtype: Any) -> Any:
        values = object.__new__(cls)
        values._pa_array = chunked
        values._dtype = dtype
        if _HAS_CACHE:
            values._cache = {}
        return values

    return make


new_text = maker_of(TextArray)
