"""The values of a block or an index: a NumPy array, or an extension array of pandas', taken apart into leaves.

Called by `index` and `frame`. What a template says of values is a *key*, hashable and made of plain values, so that senders look
templates up by it and receivers build from it:

- the code of a leaf, for a NumPy array;
- ``None`` for a part that arrives whole: arrays of objects, and every kind that is not known here;
- ``(kind, dtype, *codes)`` for an extension array.

Guarantees: what arrives is what pickle delivers. An extension array is taken apart only if nothing else refers to it and its
`__dict__` has nothing that is not known here.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np
from pandas._libs.arrays import NDArrayBacked
from pandas.arrays import (
    BooleanArray,
    Categorical,
    DatetimeArray,
    FloatingArray,
    IntegerArray,
    PeriodArray,
    TimedeltaArray,
)

from arrowpool.codecs.outbox import Outbox
from arrowpool.codecs.templates.arrow_backed import ArrowArray, arrow_builder, take_arrow
from arrowpool.codecs.templates.interval import IntervalArray, intervals_builder, take_intervals
from arrowpool.codecs.templates.leaves import (
    OWNER_ALONE,
    Build,
    Code,
    Key,
    Reader,
    Small,
    is_plain,
    reader_of,
    take_leaf,
)
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.text import TextArray, take_text, text_builder
from arrowpool.codecs.templates.tokens import period_token, zoned_token

__all__ = ["TAKERS", "builder_of", "take", "take_ends"]

Array = np.ndarray[Any, Any]


def take(values: Any, is_sole: bool, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """Take values apart; return their key.

    Parameters
    ----------
    values : numpy.ndarray or ExtensionArray
        What to take apart.
    is_sole : bool
        Whether only its block or index refers to it.
    out : Outbox
        Room in the message.
    small, parts : list
        Where leaves and parts are added.
    """
    cls = type(values)
    if cls is np.ndarray:
        return take_leaf(values, is_sole, out, small, parts)
    taker = TAKERS.get(cls)
    if taker is not None and is_sole:
        key = taker(values, out, small, parts)
        if key is not None:
            return key
    parts.append(values)
    return None


def builder_of(key: Key) -> Build:
    """The function that makes values of this key."""
    if not isinstance(key, tuple):
        return _leaf_builder(key)
    kind, dtype, *codes = key
    return _BUILDERS[kind](dtype, codes)


def _leaf_builder(code: Code) -> Build:
    leaf = reader_of(code)

    def build(reader: Reader, columns: int | None, rows: int) -> Any:
        return reader.leaf(leaf, (rows,) if columns is None else (columns, rows))

    return build


# -------------------------------------------------------------------------- arrays over one NumPy array: times, categories

_BACKED_STATE = frozenset({"_cache", "_freq", "_readonly"})
_BACKED = {"M": DatetimeArray, "m": TimedeltaArray, "P": PeriodArray, "C": Categorical}


def _take_times(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    dtype = values.dtype
    token = None
    if not isinstance(dtype, np.dtype):
        token = zoned_token(dtype)
        if token is None:
            return None
    return _take_backed("M" if type(values) is DatetimeArray else "m", token, values, out, small, parts)


def _take_periods(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    token = period_token(values.dtype)
    return None if token is None else _take_backed("P", token, values, out, small, parts)


def _take_categories(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    if not is_plain(values, _BACKED_STATE):
        return None
    # The dtype is an object of its own: the name of its categories can be changed, and two columns may share it.
    parts.append(values.dtype)
    return _take_backed("C", None, values, out, small, parts)


def _take_backed(kind: str, token: bytes | None, values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    if not is_plain(values, _BACKED_STATE):
        return None
    is_sole = getrefcount(values._ndarray) <= OWNER_ALONE
    return kind, token, take_leaf(values._ndarray, is_sole, out, small, parts)


def _backed_builder(kind: str) -> Callable[[Any, list[Code]], Build]:
    cls: Any = _BACKED[kind]
    new, init = cls.__new__, NDArrayBacked.__init__
    is_flat = kind == "C"
    # Older versions of pandas have the frequency on the array; that of a block is None.
    has_freq = kind in "Mm" and "_freq" in vars(cls._simple_new(np.empty(0, kind + "8[ns]")))

    def builder(token: bytes | None, codes: list[Code]) -> Build:
        known = None if token is None else pickle.loads(token)
        leaf = reader_of(codes[0])

        def build(reader: Reader, columns: int | None, rows: int) -> Any:
            dtype = reader.part() if is_flat else known
            array = reader.leaf(leaf, (rows,) if columns is None or is_flat else (columns, rows))
            values = new(cls)
            init(values, array, array.dtype if dtype is None else dtype)  # type: ignore[call-arg]  # of its stub
            if has_freq:
                values._freq = None
            return values

        return build

    return builder


# ------------------------------------------------------------------------------------------------- arrays with a mask

_MASKED = {"I": IntegerArray, "F": FloatingArray, "B": BooleanArray}
_MASKED_STATE = frozenset({"_data", "_mask", "_cache", "_dtype", "_readonly"})
_KIND_OF_MASKED = {cls: kind for kind, cls in _MASKED.items()}


def _take_masked(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    if not is_plain(values, _MASKED_STATE) or values.ndim != 1:
        return None
    is_sole = getrefcount(values._data) <= OWNER_ALONE
    data = take_leaf(values._data, is_sole, out, small, parts)
    is_sole = getrefcount(values._mask) <= OWNER_ALONE
    return _KIND_OF_MASKED[type(values)], None, data, take_leaf(values._mask, is_sole, out, small, parts)


def _masked_builder(kind: str) -> Callable[[Any, list[Code]], Build]:
    make = _MASKED[kind]._simple_new  # type: ignore[attr-defined]

    def builder(_: Any, codes: list[Code]) -> Build:
        data, mask = map(reader_of, codes)

        def build(reader: Reader, columns: int | None, rows: int) -> Any:
            shape = (rows,)
            return make(reader.leaf(data, shape), reader.leaf(mask, shape))

        return build

    return builder


def take_ends(values: Any, is_sole: bool, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """Take an array of intervals apart, which may have other owners; return its key, or None if that cannot be."""
    return take_intervals(values, is_sole, take, out, small, parts)


def _take_intervals(values: Any, out: Outbox, small: Small, parts: list[Any]) -> Key:
    return take_ends(values, True, out, small, parts)


def _intervals_builder(token: bytes, keys: list[Key]) -> Build:
    return intervals_builder(token, keys, builder_of)


#: By the exact type: how to take an array apart. The result is its key, or None if it has to be a part.
TAKERS: dict[type, Callable[[Any, Outbox, Small, list[Any]], Key]] = {
    DatetimeArray: _take_times,
    TimedeltaArray: _take_times,
    PeriodArray: _take_periods,
    Categorical: _take_categories,
    IntegerArray: _take_masked,
    FloatingArray: _take_masked,
    BooleanArray: _take_masked,
    TextArray: take_text,
    ArrowArray: take_arrow,
    IntervalArray: _take_intervals,
}
_reductions = Reductions((*TAKERS, np.ndarray))
#: Whether all arrays with templates are pickled as they were.
ARRAYS_UNCHANGED = _reductions.are_unchanged
_BUILDERS: dict[str, Callable[[Any, list[Any]], Build]] = {
    **{kind: _backed_builder(kind) for kind in _BACKED},
    **{kind: _masked_builder(kind) for kind in _MASKED},
    "T": text_builder,
    "A": arrow_builder,
    "V": _intervals_builder,
}
