"""Indexes by template: the kind, the frequency, the dtype and a few labels are the template; values and the name are the message's.

Found by :func:`arrowpool.codecs.pandas.encoder_for`; and called by `frame`, for an index that only its frame refers to. Any other
index is an object of its own in the stream: the pickler's memo then preserves that two frames share one, as pickle does.

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
from arrowpool.codecs.templates.arrow_backed import ArrowArray
from arrowpool.codecs.templates.labels import labels_builder, labels_of_objects, labels_of_text
from arrowpool.codecs.templates.leaves import OWNER_ALONE, Heap, Key, Reader, Small, heap_of
from arrowpool.codecs.templates.multi import multi_builder, take_multi
from arrowpool.codecs.templates.rebuild import Plan, plans, rebuild, template
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.text import TextArray
from arrowpool.codecs.templates.tokens import frequency_token
from arrowpool.codecs.templates.values import ARRAYS_UNCHANGED, builder_of, take, take_ends

__all__ = ["INDEXES", "are_unchanged", "encoder_of_index", "index_builder", "take_index"]

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
    "v": pd.IntervalIndex,
}


def _keeps_its_dtype(index: Any) -> bool:
    """Whether unpickling makes an index with the very dtype that was pickled with it; older versions of pandas make another one."""
    try:
        arrived, dtype = pickle.loads(pickle.dumps((index, index.dtype)))
        return arrived.dtype is dtype
    except Exception:  # another library pickles them in its own way
        return False


if not _keeps_its_dtype(pd.CategoricalIndex(["a"])):
    del _KINDS["c"]
_KIND_OF = {cls: kind for kind, cls in _KINDS.items()}
#: Kinds of their own in templates: a range, a few labels, and several levels.
_RANGE, _LABELS, _MULTI = "r", "l", "x"
#: Whose exact types have templates.
INDEXES = frozenset({pd.RangeIndex, pd.MultiIndex, *_KINDS.values()})
_reductions = Reductions(INDEXES)

#: Makes an index of the next leaves and parts, given its length.
IndexBuild = Callable[[Reader, int], Any]


def are_unchanged() -> bool:
    """Whether all indexes with templates, and what they are made of, are pickled as they were."""
    return _reductions.are_unchanged() and ARRAYS_UNCHANGED()


def encoder_of_index(cls: type) -> Encode | None:
    """How to encode an index whose type is `cls`, one of `INDEXES`; None if that has another way of pickling now."""
    # The levels of a MultiIndex are of any kind.
    return _encode if _reductions.are_unchanged(None if cls is pd.MultiIndex else cls) and ARRAYS_UNCHANGED() else None


def _encode(index: Any, out: Outbox) -> Reduced:
    small = Small()
    parts: list[Any] = []
    key = take_index(index, out, small, parts)
    if key is None:
        return NotImplemented
    return rebuild, (template(("index", key)), len(index), heap_of(small, out), *parts)


def take_index(index: Any, out: Outbox, small: Small, parts: list[Any], views: int = 0) -> Key:
    """Take an index apart whose exact type is in `INDEXES`; return its key, or None if that is left to pickle.

    Parameters
    ----------
    index : pandas.Index
        What to take apart.
    out : Outbox
        Room in the message.
    small, parts : list
        Where leaves and parts are added.
    views : int
        How many views of the index there are to which only its owner refers.
    """
    cls = type(index)
    if cls is pd.MultiIndex:
        of_levels = take_multi(index, _take_level, out, small, parts)
        return None if of_levels is None else (_MULTI, *of_levels, False)
    name = index._name
    if cls is pd.RangeIndex:
        whole = index._range
        parts.append((whole.start, whole.stop, whole.step))
        key: tuple[Any, ...] = _RANGE, None, name is not None
    else:
        taken = _take_values(index, _KIND_OF[cls], views, out, small, parts)
        if taken is None:
            return None
        key = *taken, name is not None
    if name is not None:
        parts.append(name)
    return key


def _take_level(level: Any, is_sole: bool, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """The key of a level; None for one that is a part."""
    key = take_index(level, out, small, parts, views=1) if is_sole and type(level) in INDEXES else None
    if key is None:
        parts.append(level)
    return key


def _take_values(index: Any, kind: str, views: int, out: Outbox, small: Small, parts: list[Any]) -> Key:
    values = index._data
    owners = OWNER_ALONE + 1 + views  # `values` refers to it, too
    is_sole = getrefcount(index._data) <= owners or getrefcount(index._data) <= owners + _engines(index, values)
    freq: Any = None
    if kind == "i":
        # Pickle preserves that an array and the indexes over it, or several indexes, share their memory.
        labels = None
        if is_sole and type(values) is TextArray:
            labels = labels_of_text(values)
        elif is_sole and type(values) is np.ndarray and values.dtype.hasobject:
            labels = labels_of_objects(values)
        if labels is not None:
            return _LABELS, labels
    elif kind in "Mm":
        offset = index._freq if _FREQUENCY_ON_INDEX else values._freq
        if offset is not None:
            freq = frequency_token(offset)
            if freq is None:
                freq = _FREQUENCY_IS_PART
                parts.append(offset)
    leaves, before = len(small), len(parts)
    if kind == "v":
        # Pickle sees the ends, not the array of them: an index that arrives has one of its own.
        values_key = take_ends(values, is_sole, out, small, parts)
    else:
        values_key = take(values, is_sole, out, small, parts)
    if values_key is None and not _arrives_whole(values):
        small.drop_from(leaves)
        del parts[before:]
        if freq == _FREQUENCY_IS_PART:
            parts.pop()
        return None
    return kind, freq, values_key


def _engines(index: Any, values: Any) -> int:
    """How many engines refer to the values: one if pandas has looked up a label. It is not pickled."""
    engine = index._cache.get("_engine")
    return int(getattr(engine, "values", None) is values)


def _arrives_whole(values: Any) -> bool:
    """Whether pickle makes an index over just these values, if they arrive as an object of their own; else over a copy."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "biufc"
    if isinstance(values, (DatetimeArray, TimedeltaArray)):
        return _FREQUENCY_ON_INDEX  # else the frequency is the array's
    return type(values) in (TextArray, ArrowArray)


def index_builder(key: Key) -> IndexBuild:
    """The function that makes indexes of this key."""
    assert isinstance(key, tuple)
    *taken, has_name = key
    build = _builder(*taken)

    def build_index(reader: Reader, rows: int) -> Any:
        index = build(reader, rows)
        if has_name:
            index._name = reader.part()
        return index

    return build_index if has_name else build


def _builder(kind: str, detail: Any, values_key: Any = None) -> IndexBuild:
    if kind == _RANGE:
        return _build_range
    if kind == _LABELS:
        return _labels_builder(detail)
    if kind == _MULTI:
        builds = [None if key is None else index_builder(key) for key, _ in values_key]
        return multi_builder(detail, builds, [code for _, code in values_key])
    make = _KINDS[kind]._simple_new  # type: ignore[attr-defined]
    build = builder_of(values_key)
    known = pickle.loads(detail) if detail else None
    is_part = detail == _FREQUENCY_IS_PART

    def build_index(reader: Reader, rows: int) -> Any:
        offset = reader.part() if is_part else known
        values = build(reader, None, rows)
        if offset is not None and not _FREQUENCY_ON_INDEX:
            values._freq = offset
        index = make(values, None)
        if offset is not None and _FREQUENCY_ON_INDEX:
            index._freq = offset
        return index

    return build_index


def _build_range(reader: Reader, rows: int) -> Any:
    return pd.RangeIndex._simple_new(range(*reader.part()), None)  # type: ignore[attr-defined]


def _labels_builder(labels: tuple[Any, ...]) -> IndexBuild:
    build = labels_builder(labels)
    make = pd.Index._simple_new  # type: ignore[attr-defined]

    def build_index(reader: Reader, rows: int) -> Any:
        return make(build(), None)

    return build_index


@plans("index")
def _plan(key: Key) -> Plan:
    build = index_builder(key)

    def plan(rows: int, heap: Heap, *parts: Any) -> Any:
        return build(Reader(heap, parts), rows)

    return plan
