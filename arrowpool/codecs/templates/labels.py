"""Arrays of a few strings, such as the labels of a frame's columns: all of them are the template.

Called by `index`, and by the pandas codec for arrays of strings. Frames of one kind have equal columns, whether they share one
index or each has one of its own. So labels are looked up by value. A receiver keeps what it has built from a template; each
index gets an array of its own around that.

Guarantees: the same labels, of the same type, in the same storage. Which of several strings are the same object is not preserved.
"""

from __future__ import annotations

import pickle
from sys import getrefcount
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from arrowpool.codecs.outbox import Outbox, Reduced
from arrowpool.codecs.templates.leaves import OWNER_ALONE, is_plain
from arrowpool.codecs.templates.recent import Recent, template_of
from arrowpool.codecs.templates.text import STATE_OF_TEXT, TextArray, new_text
from arrowpool.codecs.templates.tokens import text_token

__all__ = ["encode_few_strings", "encode_labels"]

#: At most so many labels are a template, and at most so many characters: the labels of rows are others in each frame.
_LABELS = 100
_CHARACTERS = 2000
_REMEMBERED = 512
_STR = frozenset({str})
_TYPES = {pa.large_string().id: "L", pa.string().id: "S"}
_TYPE_OF = {"L": pa.large_string(), "S": pa.string()}
#: Bytes of an offset.
_WIDTHS = {"L": 8, "S": 4}

#: By the labels, their type and their storage: the bytes of the template.
_templates: Recent[tuple[Any, ...], bytes] = Recent(_REMEMBERED)


def encode_labels(index: Any) -> Reduced:
    """Reduce an index of a few strings; None for all others."""
    values = index._data
    cls = type(values)
    if cls is TextArray:
        # An object of its own: pickle preserves that several indexes have one array.
        return _rebuild_index, (values, index._name)
    # Pickle preserves also that an array of objects and the indexes over it share their memory.
    is_sole = getrefcount(index._data) <= OWNER_ALONE + 1  # `values` refers to it, too
    if cls is np.ndarray and is_sole and values.dtype.hasobject and 0 < len(values) <= _LABELS:
        labels = values.tolist()
        if _STR.issuperset(map(type, labels)) and sum(map(len, labels)) <= _CHARACTERS:
            return _rebuild_index_of_objects, (_templates.of(("O", None, *labels), template_of), index._name)
    return None


def encode_few_strings(values: Any, out: Outbox) -> Reduced:
    """Reduce an array of a few strings in Arrow's memory; None for all others."""
    if not 0 < len(values) <= _LABELS or not is_plain(values, STATE_OF_TEXT):
        return None
    token = text_token(values._dtype)
    if token is None:
        return None
    chunked = values._pa_array
    kind = _TYPES.get(chunked.type.id)
    if kind is None or chunked.num_chunks != 1:
        return None
    chunk = chunked.chunk(0)
    validity, offsets, characters = chunk.buffers()
    rows = len(chunk)
    if validity is not None or chunk.offset or characters is None or characters.size > _CHARACTERS:
        return _encode_listed(kind, token, chunk)
    # As bytes, since Arrow's memory may belong to an object that changes it. Only the offsets of these labels: behind the head of
    # a long column whose other cells are empty lie all the others, and the key is kept. The characters are few.
    key = kind, token, rows, offsets.slice(0, (rows + 1) * _WIDTHS[kind]).to_pybytes(), characters.to_pybytes()
    return _rebuild_array, (_templates.of(key, lambda _: template_of((kind, token, *chunk.to_pylist()))),)


def _encode_listed(kind: str, token: bytes, chunk: Any) -> Reduced:
    if chunk.nbytes > _CHARACTERS + 8 * (_LABELS + 1):
        return None
    return _rebuild_array, (_templates.of((kind, token, *chunk.to_pylist()), template_of),)


def _arrow_of(kind: str, labels: list[Any]) -> Any:
    """The labels in memory that cannot be written to: all indexes of a template have them."""
    array = pa.array(labels, _TYPE_OF[kind])
    buffers = [None if buffer is None else pa.py_buffer(buffer.to_pybytes()) for buffer in array.buffers()]
    return pa.chunked_array([pa.Array.from_buffers(array.type, len(array), buffers, array.null_count)])


#: By the template: the labels as objects; or the Arrow array and the dtype.
_plans: Recent[bytes, Any] = Recent(_REMEMBERED)


def _plan(template: bytes) -> Any:
    kind, token, *labels = pickle.loads(template)
    if token is None:
        plan = np.empty(len(labels), object)
        plan[:] = labels
        return plan
    return _arrow_of(kind, labels), pickle.loads(token)


def _rebuild_array(template: bytes) -> Any:
    return new_text(*_plans.of(template, _plan))


def _rebuild_index(values: Any, name: Any) -> Any:
    return pd.Index._simple_new(values, name)  # type: ignore[attr-defined]


def _rebuild_index_of_objects(template: bytes, name: Any) -> Any:
    return pd.Index._simple_new(_plans.of(template, _plan).copy(), name)  # type: ignore[attr-defined]
