"""Frames and series by template: how the blocks lie is the template; the values and the names are the message's.

Found by :func:`arrowpool.codecs.pandas.encoder_for`. Pickle would take a frame apart into its manager, blocks, placements, dtypes
and arrays, each of them an object with a reduction in Python.
A frame is a reference to its template, its small leaves in one heap, and parts. An axis that other objects may refer to is a part.
The frame is in the pickler's memo before its state is pickled, as with the standard library: a cell may refer to its frame.

Guarantees: the state that pickle delivers. What pickle can tell from a template, it does: a frame whose manager, blocks or
arrays are shared with another object goes as pickle does it, or has these as parts.
"""

from __future__ import annotations

import pickle
from functools import partial
from sys import getrefcount
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas._libs.internals import BlockPlacement, _unpickle_block  # type: ignore[import-not-found]  # no stubs
from pandas.core.generic import NDFrame
from pandas.core.internals.blocks import get_block_type  # type: ignore[import-not-found]  # no stubs
from pandas.core.internals.managers import BlockManager, SingleBlockManager  # type: ignore[import-not-found]  # no stubs

from arrowpool.codecs.outbox import Encode, Outbox, Reduced
from arrowpool.codecs.templates.index import INDEXES, IndexBuild, are_unchanged, index_builder, take_index
from arrowpool.codecs.templates.leaves import OWNER_ALONE, Build, Heap, Key, Reader, Small, heap_of
from arrowpool.codecs.templates.rebuild import Plan, fill, plans, rebuild, template
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.values import builder_of, take

__all__ = ["encoder_of_frame"]

_reductions = Reductions((pd.DataFrame, pd.Series))


def encoder_of_frame(cls: type) -> Encode | None:
    """How to encode a `DataFrame` or a `Series`; None if that, or what it is made of, has another way of pickling now."""
    if not (_reductions.are_unchanged(cls) and are_unchanged()):
        return None
    return _encode_frame if cls is pd.DataFrame else _encode_series


def _encode_frame(frame: Any, out: Outbox) -> Reduced:
    manager = frame._mgr
    # `manager`, the attribute and the argument; pickle preserves that two frames have one manager, or one block.
    if type(manager) is not BlockManager or getrefcount(frame._mgr) > OWNER_ALONE + 1 or frame._metadata:
        return NotImplemented
    blocks = manager.blocks
    if getrefcount(manager.blocks) > OWNER_ALONE + 1 and getrefcount(manager.blocks) > OWNER_ALONE + 1 + _caches(
        manager
    ):
        return NotImplemented
    small = Small()
    parts: list[Any] = []
    key: list[Any] = ["frame", *_common(frame, parts)]
    for number in range(len(blocks)):
        if getrefcount(blocks[number]) > OWNER_ALONE:
            return NotImplemented
        block = blocks[number]
        where = block._mgr_locs.indexer
        key.append((where.start, where.stop, where.step) if type(where) is slice else where.tobytes())
        is_sole = getrefcount(block.values) <= OWNER_ALONE
        key.append(take(block.values, is_sole, out, small, parts))
    axes = manager.axes
    is_sole_list = getrefcount(manager.axes) <= OWNER_ALONE + 1  # `axes` refers to it, too
    is_sole = is_sole_list and getrefcount(axes[0]) <= OWNER_ALONE
    key.append(_take_axis(axes[0], is_sole, out, small, parts))
    is_sole = is_sole_list and getrefcount(axes[1]) <= OWNER_ALONE
    key.append(_take_axis(axes[1], is_sole, out, small, parts))
    state = template(tuple(key)), len(axes[1]), heap_of(small, out), *parts
    return rebuild, (_EMPTY_FRAME,), state, None, None, fill


def _encode_series(series: Any, out: Outbox) -> Reduced:
    manager = series._mgr
    if (
        type(manager) is not SingleBlockManager
        or getrefcount(series._mgr) > OWNER_ALONE + 1
        or series._metadata != ["_name"]
        or (getrefcount(manager.blocks) > OWNER_ALONE and getrefcount(manager.blocks) > OWNER_ALONE + _caches(manager))
        or getrefcount(manager.blocks[0]) > OWNER_ALONE + _has_cached_block(manager)
    ):
        return NotImplemented
    block = manager.blocks[0]
    axes = manager.axes
    rows = len(axes[0])
    where = block._mgr_locs.indexer
    if type(where) is not slice or (where.start, where.stop, where.step) != (0, rows, 1):
        return NotImplemented
    small = Small()
    parts: list[Any] = []
    common = _common(series, parts)
    is_sole = getrefcount(block.values) <= OWNER_ALONE
    values_key = take(block.values, is_sole, out, small, parts)
    is_sole_list = getrefcount(manager.axes) <= OWNER_ALONE + 1  # `axes` refers to it, too
    is_sole = is_sole_list and getrefcount(axes[0]) <= OWNER_ALONE
    key = "series", *common, values_key, _take_axis(axes[0], is_sole, out, small, parts)
    state = template(key), rows, heap_of(small, out), series._name, *parts
    return rebuild, (_EMPTY_SERIES,), state, None, None, fill


#: Where newer versions of pandas keep what they have found out about a manager's blocks, in a tuple that begins with these. It is not pickled.
_CACHES = "_dtypes_cache", "_interleaved_dtype"


def _caches(manager: Any) -> int:
    """How many caches of a manager refer to its blocks, as after `dtypes`, `values`, `iloc[0]` or `repr`."""
    count = 0
    for name in _CACHES:
        cache = getattr(manager, name, None)
        # `cache`, the attribute and the argument; what refers to a cache may be pickled, too.
        if (
            type(cache) is tuple
            and cache[0] is manager.blocks
            and getrefcount(getattr(manager, name)) <= OWNER_ALONE + 1
        ):
            count += 1
    return count


def _has_cached_block(manager: Any) -> bool:
    """Whether the cache of a series' manager refers to its block, as after nearly all that is done with a series. It is not pickled."""
    cache = manager.__dict__.get("_cache")
    return cache is not None and cache.get("_block") is manager.blocks[0]


def _common(obj: Any, parts: list[Any]) -> tuple[bool, bool]:
    """Whether there are `attrs` among the parts, and whether duplicate labels are allowed."""
    attrs = obj._attrs
    if attrs:
        parts.append(attrs)
    return bool(attrs), obj._flags._allows_duplicate_labels


def _take_axis(index: Any, is_sole: bool, out: Outbox, small: Small, parts: list[Any]) -> Key:
    """The key of an axis; None for one that is a part, since other objects may refer to it."""
    if is_sole and type(index) in INDEXES:
        key = take_index(index, out, small, parts)
        if key is not None:
            return key
    parts.append(index)
    return None


# ---------------------------------------------------------------------------------------------------------- on arrival

#: Objects without a state, which `fill` gives them: a cell may refer to its frame, which is in the memo by then.
_EMPTY_FRAME, _EMPTY_SERIES = template(("empty", "frame")), template(("empty", "series"))


@plans("empty")
def _plan_of_empty(kind: str) -> Plan:
    return partial(object.__new__, pd.DataFrame if kind == "frame" else pd.Series)


class _Block(NamedTuple):
    """How to make one block of a template: where it lies, how many columns it has, its class, and its values.

    The class is None for a part, which says itself what its block is.
    """

    placement: Any
    columns: int
    cls: Any
    build: Build


@plans("frame")
def _plan_of_frame(has_attrs: bool, allows_duplicate_labels: bool, *keys: Any) -> Plan:
    *of_blocks, columns_key, index_key = keys
    blocks = []
    for place, key in zip(of_blocks[::2], of_blocks[1::2], strict=True):
        where = slice(*place) if type(place) is tuple else np.frombuffer(place, np.intp).copy()
        placement = BlockPlacement(where)
        blocks.append(_Block(placement, len(placement), _class_of(key), builder_of(key)))
    width = sum(block.columns for block in blocks)
    columns, index = _axis_builder(columns_key), _axis_builder(index_key)

    def plan(frame: Any, rows: int, heap: Heap, *parts: Any) -> None:
        reader = Reader(heap, parts)
        attrs = reader.part() if has_attrs else None
        made = []
        for placement, count, cls, build in blocks:
            values = build(reader, count, rows)
            made.append(_unpickle_block(values, placement, 2) if cls is None else cls(values, placement, 2))
        axes = [columns(reader, width), index(reader, rows)]
        _finish(frame, BlockManager(tuple(made), axes, False), attrs, allows_duplicate_labels)

    return plan


@plans("series")
def _plan_of_series(has_attrs: bool, allows_duplicate_labels: bool, key: Any, index_key: Any) -> Plan:
    cls, build, index = _class_of(key), builder_of(key), _axis_builder(index_key)

    def plan(series: Any, rows: int, heap: Heap, name: Any, *parts: Any) -> None:
        reader = Reader(heap, parts)
        attrs = reader.part() if has_attrs else None
        placement = BlockPlacement(slice(0, rows, 1))
        values = build(reader, None, rows)
        block = _unpickle_block(values, placement, 1) if cls is None else cls(values, placement, 1)
        _finish(series, SingleBlockManager(block, index(reader, rows)), attrs, allows_duplicate_labels)
        series._name = name

    return plan


def _axis_builder(key: Key) -> IndexBuild:
    return index_builder(key) if key is not None else lambda reader, rows: reader.part()


def _finish(obj: Any, manager: Any, attrs: Any, allows_duplicate_labels: bool) -> None:
    NDFrame.__init__(obj, manager)  # type: ignore[call-arg]  # of its stub
    if attrs is not None:
        object.__setattr__(obj, "attrs", attrs)  # which copies them, as with pickle
    if not allows_duplicate_labels:
        obj._flags._allows_duplicate_labels = False


def _class_of(key: Any) -> Any:
    """The class of blocks with values of this key; None if only the values can tell."""
    if key is None:
        return None
    if isinstance(key, str):
        return get_block_type(np.dtype(key.removeprefix("F")))
    kind, token, *_ = key
    if token is not None:
        return get_block_type(pickle.loads(token))
    return get_block_type(np.dtype("M8[ns]") if kind in "Mm" else pd.CategoricalDtype())
