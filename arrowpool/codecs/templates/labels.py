"""Arrays of a few strings, such as the labels of a frame's columns: all of them are the template.

Called by `index` and `arrays`. Frames of one kind have equal columns, whether they share one index or each has one of its own. So
labels are looked up by value. A receiver keeps what it has built from a template; each index gets an array of its own around that.

Guarantees: the same labels, of the same type, in the same storage. Which of several strings are the same object is not preserved.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.codecs.templates.leaves import is_plain
from arrowpool.codecs.templates.text import STATE_OF_TEXT, new_text
from arrowpool.codecs.templates.tokens import text_token

__all__ = ["labels_builder", "labels_of_objects", "labels_of_text"]

#: At most so many labels are a template, and at most so many characters: the labels of rows are others in each frame.
_LABELS = 100
_CHARACTERS = 2000
_STR = frozenset({str})
_TYPES = {pa.large_string().id: "L", pa.string().id: "S"}
_TYPE_OF = {"L": pa.large_string(), "S": pa.string()}
#: Bytes of an offset.
_WIDTHS = {"L": 8, "S": 4}
#: How labels are given: as objects of an object array; as the memory of an Arrow array; or as a list for an Arrow array.
_OBJECTS, _MEMORY, _LISTED = "O", "B", "L"

Labels = tuple[Any, ...]


def labels_of_objects(values: np.ndarray[Any, Any]) -> Labels | None:
    """What a template says of an array of objects that are a few strings; None for all others."""
    if not 0 < len(values) <= _LABELS:
        return None
    labels = values.tolist()
    if _STR.issuperset(map(type, labels)) and sum(map(len, labels)) <= _CHARACTERS:
        return _OBJECTS, *labels
    return None


def labels_of_text(values: Any) -> Labels | None:
    """What a template says of a few strings in Arrow's memory; None for all others."""
    chunked = values._pa_array
    rows = len(chunked)
    if not 0 < rows <= _LABELS or not is_plain(values, STATE_OF_TEXT):
        return None
    token = text_token(values._dtype)
    kind = _TYPES.get(chunked.type.id)
    if token is None or kind is None:
        return None
    if chunked.num_chunks != 1:  # as after a column was added
        return _listed(kind, token, chunked)
    chunk = chunked.chunk(0)
    validity, offsets, characters = chunk.buffers()
    if validity is None and not chunk.offset and characters is not None and characters.size <= _CHARACTERS:
        # As bytes, since Arrow's memory may belong to an object that changes it. Only the offsets of these labels: behind the head
        # of a long column whose other cells are empty lie all the others, and the key is kept. The characters are few.
        ends = offsets.slice(0, (rows + 1) * _WIDTHS[kind])
        return _MEMORY, kind, token, rows, ends.to_pybytes(), characters.to_pybytes()
    return _listed(kind, token, chunk)


def _listed(kind: str, token: bytes, values: Any) -> Labels | None:
    """Labels that lie in several chunks, in the midst of one, or with nulls."""
    if values.nbytes > _CHARACTERS + 8 * (_LABELS + 1):
        return None
    return _LISTED, kind, token, *values.to_pylist()


def labels_builder(labels: Labels) -> Callable[[], Any]:
    """The function that makes arrays of these labels."""
    how, *rest = labels
    if how == _OBJECTS:
        objects = np.empty(len(rest), object)
        objects[:] = rest
        return objects.copy
    kind, token, *rest = rest
    dtype = pickle.loads(token)
    if how == _MEMORY:
        rows, *memory = rest
        nulls, buffers = 0, [None, *map(pa.py_buffer, memory)]
    else:
        array = pa.array(rest, _TYPE_OF[kind])
        rows, nulls = len(array), array.null_count
        # In memory that cannot be written to: all arrays of a template have it.
        buffers = [None if buffer is None else pa.py_buffer(buffer.to_pybytes()) for buffer in array.buffers()]
    chunked = pa.chunked_array([pa.Array.from_buffers(_TYPE_OF[kind], rows, buffers, nulls)])

    def build() -> Any:
        return new_text(chunked, dtype)

    return build
