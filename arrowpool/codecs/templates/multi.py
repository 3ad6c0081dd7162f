"""A `MultiIndex` by template: the kinds of its levels are the template; levels, names and codes are the message's.

Called by `index`. Pickle takes a `MultiIndex` apart into `levels`, which are views of its own levels under their names, and `codes`.
What other objects may refer to is a part: the pickler's memo then preserves that they share it.

Guarantees: as after unpickling, levels that belong to this index alone, codes that are read-only, and an empty cache.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np
import pandas as pd
from pandas.core.indexes.frozen import FrozenList

from arrowpool.codecs.outbox import Outbox
from arrowpool.codecs.templates.leaves import OWNER_ALONE, Code, Key, Reader, Small, reader_of, take_leaf

__all__ = ["multi_builder", "take_multi"]

#: Takes a level apart, or puts it among the parts if it cannot: the level, whether only this index refers to it; its key.
TakeLevel = Callable[[Any, bool, Outbox, Small, list[Any]], Key]
#: Makes a level, given its length.
BuildLevel = Callable[[Reader, int], Any]

_item = list.__getitem__
#: The types of codes, and how many labels they are for; larger levels have codes of eight bytes.
_WIDTHS: list[tuple[np.dtype[Any], int]] = [
    (np.dtype("i1"), 1 << 7),
    (np.dtype("i2"), 1 << 15),
    (np.dtype("i4"), 1 << 31),
]


def take_multi(index: Any, take_level: TakeLevel, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """Take a `MultiIndex` apart; return the sort order and the keys of each level and its codes. None if that is left to pickle."""
    levels, own, codes = index.levels, index._levels, index._codes
    if not _is_regular(index, levels, codes):
        return None
    # The locals refer to these lists, too.
    are_sole_levels = (
        index._cache.get("levels") is levels
        and getrefcount(index._cache["levels"]) <= OWNER_ALONE + 1
        and getrefcount(index._levels) <= OWNER_ALONE + 1
    )
    are_sole_codes = getrefcount(index._codes) <= OWNER_ALONE + 1
    parts.append(tuple(map(len, levels)))
    keys = []
    for number in range(len(levels)):
        is_sole = (
            are_sole_levels
            and getrefcount(_item(levels, number)) <= OWNER_ALONE
            and getrefcount(_item(own, number)) <= OWNER_ALONE
            and _are_views(_item(levels, number), _item(own, number))
        )
        key = take_level(_item(levels, number), is_sole, out, small, parts)
        is_sole = are_sole_codes and getrefcount(_item(codes, number)) <= OWNER_ALONE
        keys.append((key, take_leaf(_item(codes, number), is_sole, out, small, parts)))
    return index.sortorder, tuple(keys)


def _is_regular(index: Any, levels: Any, codes: Any) -> bool:
    """Whether all is as pandas makes it, so that unpickling changes nothing."""
    names, rows = index._names, len(codes[0])
    return (
        len(levels) == len(codes) == len(names) == len(index._levels)
        and (index.sortorder is None or type(index.sortorder) is int)
        and all(
            type(code) is np.ndarray and code.shape == (rows,) and code.dtype == _type_of_codes(len(level))
            for code, level in zip(codes, levels, strict=True)
        )
        and all(level._name is name for level, name in zip(levels, names, strict=True))
    )


def _are_views(level: Any, own: Any) -> bool:
    """Whether two levels have their values in common: then two owners refer to them."""
    return type(level) is pd.RangeIndex or level._data is own._data


def _type_of_codes(labels: int) -> np.dtype[Any]:
    for dtype, limit in _WIDTHS:
        if labels < limit:
            return dtype
    return _LARGEST


_LARGEST = np.dtype("i8")


def multi_builder(sortorder: int | None, builds: list[BuildLevel | None], codes: list[Code]) -> Callable[..., Any]:
    """The function that makes such indexes. A level without a function is a part."""
    leaves = [(build, reader_of(code)) for build, code in zip(builds, codes, strict=True)]

    def build_index(reader: Reader, rows: int) -> Any:
        own_levels, own_codes = [], []
        for (build, leaf), labels in zip(leaves, reader.part(), strict=True):
            # Others may refer to a part; each index has levels of its own.
            own_levels.append(reader.part()._view() if build is None else build(reader, labels))
            numbers = reader.leaf(leaf, (rows,))
            numbers.flags.writeable = False
            own_codes.append(numbers.view())
        index: Any = object.__new__(pd.MultiIndex)
        index._cache = {}
        index._levels = FrozenList(own_levels)
        index._codes = FrozenList(own_codes)
        index._names = [level._name for level in own_levels]
        index.sortorder = sortorder
        index._reset_identity()
        index._references = None
        return index

    return build_index
