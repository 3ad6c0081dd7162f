"""Frames and series by template: how the blocks lie is the template; the axes, the name and the values are the message's.

Found by :func:`arrowpool.codecs.pandas.encoder_for`. Pickle would take a frame apart into its manager, blocks, placements, dtypes
and arrays, each of them an object with a reduction in Python.
A frame is a reference to its template, its axes (objects of their own, see `index`), its small leaves in one heap, and parts.
The frame is in the pickler's memo before its state is pickled, as with the standard library: a cell may refer to its frame.

Guarantees: the state that pickle delivers. What pickle can tell from a template, it does: a frame whose manager, blocks or
arrays are shared with another object goes as pickle does it, or has these as parts.
"""

from __future__ import annotations

import copyreg
import pickle
from sys import getrefcount
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas._libs.internals import BlockPlacement, _unpickle_block  # type: ignore[import-not-found]  # no stubs
from pandas.core.generic import NDFrame
from pandas.core.internals.blocks import get_block_type  # type: ignore[import-not-found]  # no stubs
from pandas.core.internals.managers import BlockManager, SingleBlockManager  # type: ignore[import-not-found]  # no stubs

from arrowpool.codecs.outbox import Encode, Outbox, Reduced
from arrowpool.codecs.templates.index import TEMPLATES
from arrowpool.codecs.templates.leaves import OWNER_ALONE, Build, Reader, heap_of
from arrowpool.codecs.templates.recent import Recent, template_of
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.values import builder_of, take

__all__ = ["encoder_of_frame"]

_reductions = Reductions((pd.DataFrame, pd.Series))

#: By the key: the bytes of the template.
_templates: Recent[Any, bytes] = Recent(TEMPLATES)


def encoder_of_frame(cls: type) -> Encode | None:
    """How to encode a `DataFrame` or a `Series`; None if that has another way of pickling now."""
    if not _reductions.are_unchanged(cls):
        return None
    return _encode_frame if cls is pd.DataFrame else _encode_series


def _encode_frame(frame: Any, out: Outbox) -> Reduced:
    manager = frame._mgr
    # `manager`, the attribute and the argument; pickle preserves that two frames have one manager, or one block.
    if type(manager) is not BlockManager or getrefcount(frame._mgr) > OWNER_ALONE + 1 or frame._metadata:
        return NotImplemented
    small: list[Any] = []
    parts: list[Any] = []
    key: list[Any] = [_common(frame, parts)]
    blocks = manager.blocks
    if getrefcount(manager.blocks) > OWNER_ALONE + 1:
        return NotImplemented
    for number in range(len(blocks)):
        if getrefcount(blocks[number]) > OWNER_ALONE:
            return NotImplemented
        block = blocks[number]
        where = block._mgr_locs.indexer
        key.append((where.start, where.stop, where.step) if type(where) is slice else where.tobytes())
        is_sole = getrefcount(block.values) <= OWNER_ALONE
        key.append(take(block.values, is_sole, out, small, parts))
    columns, index = manager.axes
    state = _templates.of(tuple(key), template_of), len(index), heap_of(small, out), columns, index, *parts
    return copyreg.__newobj__, (pd.DataFrame,), state, None, None, _fill_frame  # type: ignore[attr-defined]


def _encode_series(series: Any, out: Outbox) -> Reduced:
    manager = series._mgr
    if (
        type(manager) is not SingleBlockManager
        or getrefcount(series._mgr) > OWNER_ALONE + 1
        or series._metadata != ["_name"]
        or getrefcount(manager.blocks) > OWNER_ALONE
        or getrefcount(manager.blocks[0]) > OWNER_ALONE
    ):
        return NotImplemented
    block = manager.blocks[0]
    index = manager.axes[0]
    rows = len(index)
    where = block._mgr_locs.indexer
    if type(where) is not slice or (where.start, where.stop, where.step) != (0, rows, 1):
        return NotImplemented
    small: list[Any] = []
    parts: list[Any] = []
    common = _common(series, parts)
    is_sole = getrefcount(block.values) <= OWNER_ALONE
    key = common, take(block.values, is_sole, out, small, parts)
    state = _templates.of(key, template_of), rows, heap_of(small, out), series._name, index, *parts
    return copyreg.__newobj__, (pd.Series,), state, None, None, _fill_series  # type: ignore[attr-defined]


def _common(obj: Any, parts: list[Any]) -> tuple[bool, bool]:
    """Whether there are `attrs` among the parts, and whether duplicate labels are allowed."""
    attrs = obj._attrs
    if attrs:
        parts.append(attrs)
    return bool(attrs), obj._flags._allows_duplicate_labels


class _Block(NamedTuple):
    """How to make one block of a template: where it lies, how many columns it has, its class, and its values.

    The class is None for a part, which says itself what its block is.
    """

    placement: Any
    columns: int
    cls: Any
    build: Build


class _Plan(NamedTuple):
    """How to make frames or series of one template."""

    has_attrs: bool
    allows_duplicate_labels: bool
    blocks: list[_Block]


#: By the template.
_plans: Recent[bytes, _Plan] = Recent(TEMPLATES)


def _fill_frame(frame: Any, state: Any) -> None:
    template, rows, heap, columns, index = state[:5]
    plan = _plans.of(template, _plan_of_frame)
    reader = Reader(heap, state, 5)
    attrs = reader.part() if plan.has_attrs else None
    blocks = []
    for placement, width, cls, build in plan.blocks:
        values = build(reader, width, rows)
        blocks.append(_unpickle_block(values, placement, 2) if cls is None else cls(values, placement, 2))
    _finish(frame, BlockManager(tuple(blocks), [columns, index], False), plan, attrs)


def _fill_series(series: Any, state: Any) -> None:
    template, rows, heap, name, index = state[:5]
    plan = _plans.of(template, _plan_of_series)
    reader = Reader(heap, state, 5)
    attrs = reader.part() if plan.has_attrs else None
    _, _, cls, build = plan.blocks[0]
    placement = BlockPlacement(slice(0, rows, 1))
    values = build(reader, None, rows)
    block = _unpickle_block(values, placement, 1) if cls is None else cls(values, placement, 1)
    _finish(series, SingleBlockManager(block, index), plan, attrs)
    series._name = name


def _finish(obj: Any, manager: Any, plan: _Plan, attrs: Any) -> None:
    NDFrame.__init__(obj, manager)  # type: ignore[call-arg]  # of its stub
    if attrs is not None:
        object.__setattr__(obj, "attrs", attrs)  # which copies them, as with pickle
    if not plan.allows_duplicate_labels:
        obj._flags._allows_duplicate_labels = False


def _plan_of_frame(template: bytes) -> _Plan:
    (has_attrs, allows_duplicate_labels), *blocks = pickle.loads(template)
    planned = []
    for place, key in zip(blocks[::2], blocks[1::2], strict=True):
        where = slice(*place) if type(place) is tuple else np.frombuffer(place, np.intp).copy()
        placement = BlockPlacement(where)
        planned.append(_Block(placement, len(placement), _class_of(key), builder_of(key)))
    return _Plan(has_attrs, allows_duplicate_labels, planned)


def _plan_of_series(template: bytes) -> _Plan:
    (has_attrs, allows_duplicate_labels), key = pickle.loads(template)
    return _Plan(has_attrs, allows_duplicate_labels, [_Block(None, 1, _class_of(key), builder_of(key))])


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
