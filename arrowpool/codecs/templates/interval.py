"""Arrays of intervals: the ends are leaves or parts, the side on which intervals are closed is the template's.

Called by `values`, with its functions for the ends, which are NumPy arrays or arrays of times.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np
from pandas.arrays import IntervalArray

from arrowpool.codecs.outbox import Outbox
from arrowpool.codecs.templates.leaves import OWNER_ALONE, Build, Key, Reader, Small, is_plain
from arrowpool.codecs.templates.tokens import interval_token

__all__ = ["IntervalArray", "intervals_builder", "take_intervals"]

_STATE = frozenset({"_left", "_right", "_dtype", "_cache", "_readonly"})
#: Takes values apart, given whether only one object refers to them.
Take = Callable[[Any, bool, Outbox, Small, list[Any]], Key]


def take_intervals(values: Any, is_sole: bool, take: Take, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """Take an array of intervals apart; return its key, or None for a part.

    Unless `is_sole`, other objects refer to the array: pickle preserves that they have the same ends.
    """
    if not is_plain(values, _STATE):
        return None
    left_is_sole = is_sole and getrefcount(values._left) <= OWNER_ALONE
    right_is_sole = is_sole and getrefcount(values._right) <= OWNER_ALONE
    for end, end_is_sole in ((values._left, left_is_sole), (values._right, right_is_sole)):
        if end.dtype != values._dtype.subtype or len(end) != len(values):
            return None
        # Older versions of pandas have the frequency on arrays of times, of which they make new ones.
        if type(end) is not np.ndarray and hasattr(end, "_freq") and not (end_is_sole and end._freq is None):
            return None
    token = interval_token(values._dtype)
    if token is None:
        return None
    left = take(values._left, left_is_sole, out, small, parts)
    return "V", token, left, take(values._right, right_is_sole, out, small, parts)


def intervals_builder(token: bytes, keys: list[Key], builder_of: Callable[[Key], Build]) -> Build:
    """The function that makes arrays of intervals of this key."""
    left, right = map(builder_of, keys)
    dtype = pickle.loads(token)
    make = IntervalArray._simple_new  # type: ignore[attr-defined]

    def build(reader: Reader, columns: int | None, rows: int) -> Any:
        first = left(reader, None, rows)
        return make(first, right(reader, None, rows), dtype)

    return build
