"""Indexes by template: the kind, the frequency and the dtype are the template; the values and the name are the message's.

Found by :func:`arrowpool.codecs.pandas.encoder_for`. An index is always an object of its own in the stream, also within a frame:
the pickler's memo then preserves that two frames share one, as pickle does.

Guarantees: what arrives is a new index with a cache of its own, since its name can be set in place.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np
import pandas as pd
from pandas.arrays import DatetimeArray, TimedeltaArray

from arrowpool.codecs.outbox import Encode, Outbox, Reduced
from arrowpool.codecs.templates.labels import encode_labels
from arrowpool.codecs.templates.leaves import OWNER_ALONE, Heap, Reader, heap_of
from arrowpool.codecs.templates.recent import Recent, template_of
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.tokens import frequency_token
from arrowpool.codecs.templates.values import builder_of, take

__all__ = ["INDEXES", "TEMPLATES", "encoder_of_index"]

#: How many templates each process remembers, of each sort: twice that at most.
TEMPLATES = 512

#: How a frequency is given: there is none; as the first part; or as these bytes.
_NO_FREQUENCY, _FREQUENCY_IS_PART = None, ""
#: Newer versions of pandas have the frequency on the index, older ones on its array.
_FREQUENCY_ON_INDEX = "_freq" in vars(pd.DatetimeIndex([]))

_KINDS: dict[str, type] = {
    "i": pd.Index,
    "M": pd.DatetimeIndex,
    "m": pd.TimedeltaIndex,
    "p": pd.PeriodIndex,
    "c": pd.CategoricalIndex,
}
# Older versions of pandas make another dtype when they unpickle such an index, which then shares it with no other object.
_one = pd.CategoricalIndex(["a"])
_arrived, _dtype = pickle.loads(pickle.dumps((_one, _one.dtype)))
if _arrived.dtype is not _dtype:
    del _KINDS["c"]
del _one, _arrived, _dtype
#: Whose exact types have templates.
INDEXES = frozenset({pd.RangeIndex, *_KINDS.values()})
_reductions = Reductions(INDEXES)


def encoder_of_index(cls: type) -> Encode | None:
    """How to encode an index whose type is `cls`, one of `INDEXES`; None if that has another way of pickling now."""
    if not _reductions.are_unchanged(cls):
        return None
    if cls is pd.RangeIndex:
        return _encode_range
    return _encoder(next(kind for kind, known in _KINDS.items() if known is cls))


#: By the key: the bytes of the template.
_templates: Recent[Any, bytes] = Recent(TEMPLATES)


def _encode_range(index: Any, out: Outbox) -> Reduced:
    whole = index._range
    return _rebuild_range, (whole.start, whole.stop, whole.step, index._name)


def _rebuild_range(start: int, stop: int, step: int, name: Any) -> Any:
    return pd.RangeIndex._simple_new(range(start, stop, step), name)  # type: ignore[attr-defined]


def _encoder(kind: str) -> Encode:
    is_timed = kind in "Mm"
    may_be_labels = kind == "i"

    def encode(index: Any, out: Outbox) -> Reduced:
        if may_be_labels:
            labels = encode_labels(index)
            if labels is not None:
                return labels
        small: list[Any] = []
        parts: list[Any] = []
        freq: Any = None
        values = index._data
        if is_timed:
            offset = index._freq if _FREQUENCY_ON_INDEX else values._freq
            if offset is not None:
                freq = frequency_token(offset)
                if freq is None:
                    freq = _FREQUENCY_IS_PART
                    parts.append(offset)
        is_sole = getrefcount(index._data) <= OWNER_ALONE + 1  # `values` refers to it, too
        values_key = take(values, is_sole, out, small, parts)
        if values_key is None and not _arrives_whole(values):
            return NotImplemented
        if values_key is None and is_timed and not _FREQUENCY_ON_INDEX:
            return NotImplemented  # the frequency is the array's
        key = kind, freq, values_key
        return _rebuild, (_templates.of(key, template_of), len(values), heap_of(small, out), index._name, *parts)

    return encode


def _arrives_whole(values: Any) -> bool:
    """Whether pickle makes an index over just these values, if they arrive as an object of their own; else over a copy."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "biufc"
    return isinstance(values, (DatetimeArray, TimedeltaArray))


_Plan = Callable[[Reader, int, Any], Any]
#: By the template: the function that makes an index by it.
_plans: Recent[bytes, _Plan] = Recent(TEMPLATES)


def _rebuild(template: bytes, rows: int, heap: Heap, name: Any, *parts: Any) -> Any:
    return _plans.of(template, _plan)(Reader(heap, parts), rows, name)


def _plan(template: bytes) -> _Plan:
    kind, freq, values_key = pickle.loads(template)
    make = _KINDS[kind]._simple_new  # type: ignore[attr-defined]
    build = builder_of(values_key)
    known = pickle.loads(freq) if freq else None
    is_part = freq == _FREQUENCY_IS_PART

    def plan(reader: Reader, rows: int, name: Any) -> Any:
        offset = reader.part() if is_part else known
        values = build(reader, None, rows)
        if offset is not None and not _FREQUENCY_ON_INDEX:
            values._freq = offset
        index = make(values, name)
        if offset is not None and _FREQUENCY_ON_INDEX:
            index._freq = offset
        return index

    return plan
