"""pandas frames, series and indexes: pickle takes them apart into arrays, and what costs a copy on the way is done here.

Found by :func:`arrowpool.codecs.encoder_for`. pandas reduces a frame to its blocks and axes, and those to plain arrays;
the array codecs copy the visible elements straight into the room. Rebuilding wraps the views of the room in new blocks,
never consolidated, which only the rebuilt frame refers to. Left to do here:

- a block that is not contiguous, as in a slice of rows: pandas 3 would copy it before pickling;
- a frame of many small blocks (columns that were added one by one): packed into one room, not into the stream;
- the manager of a series: pandas pickles the whole index once more, as the labels of its only block;
- the same slice where many overlap: a window of the block they are cut from, which is copied once for all;
- Arrow-backed columns: pandas would copy them into one chunk before pickling, also when they are one.

Subclasses of frames and series keep their own pickling, as nothing here is about the frame itself.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from pandas._libs.internals import _unpickle_block  # type: ignore[import-not-found]  # no stubs
from pandas.arrays import ArrowExtensionArray
from pandas.core.internals.blocks import Block  # type: ignore[import-not-found]  # no stubs
from pandas.core.internals.managers import BlockManager, SingleBlockManager  # type: ignore[import-not-found]  # no stubs

from arrowpool.codecs.arrow import extents as arrow_extents
from arrowpool.codecs.numpy import bounds, extents_within, pack, unpack
from arrowpool.codecs.numpy import extents as numpy_extents
from arrowpool.codecs.outbox import ByteArray, Encode, Extent, Outbox, Reduced
from arrowpool.codecs.templates import (
    ARRAYS,
    INDEXES,
    encoder_of_array,
    encoder_of_categories,
    encoder_of_frame,
    encoder_of_index,
)
from arrowpool.codecs.templates.leaves import rows_are_contiguous

__all__ = ["encoder_for", "extents"]


def encoder_for(cls: type) -> Encode | None:
    """How to encode objects of type `cls`; None where pandas' own pickling copies nothing."""
    if cls is pd.DataFrame or cls is pd.Series:
        return encoder_of_frame(cls)
    if cls in INDEXES:
        return encoder_of_index(cls)
    if cls in ARRAYS:
        return encoder_of_array(cls, _encode_arrow_backed if _is_arrow_backed(cls) else None)
    if cls is pd.CategoricalDtype:
        return encoder_of_categories(cls)
    if issubclass(cls, Block):
        return _encode_block
    if cls is BlockManager:
        return _encode_manager
    if cls is SingleBlockManager:
        return _encode_single_manager
    return _encode_arrow_backed if _is_arrow_backed(cls) else None


def _is_arrow_backed(cls: type) -> bool:
    """Whether arrays of this class are pickled as pandas pickles its own that are backed by Arrow."""
    return (
        issubclass(cls, ArrowExtensionArray)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and cls.__getstate__ is ArrowExtensionArray.__getstate__
    )


def _encode_block(block: Any, out: Outbox) -> Reduced:
    values = block.values
    if type(values) is not np.ndarray or values.flags.forc or values.nbytes < out.inline_limit:
        return NotImplemented
    if rows_are_contiguous(values) and values.dtype.isnative:
        start, stop = bounds(values)
        window = out.place_window(start, stop - start)
        if window is not None:
            return _rebuild_window, (
                window,
                values.ctypes.data - start,
                values.dtype,
                values.shape,
                values.strides,
                *_shape_of(block),
            )
    return _unpickle_block, (values, *_shape_of(block))


def _rebuild_window(
    room: ByteArray,
    offset: int,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    placement: Any,
    ndim: int,
) -> Any:
    return _unpickle_block(np.ndarray(shape, dtype, room, offset, strides), placement, ndim)


def _shape_of(block: Any) -> tuple[Any, int]:
    """What `_unpickle_block`, the name by which blocks are pickled, wants beside the values."""
    return block.mgr_locs.indexer, block.ndim


def _encode_manager(manager: Any, out: Outbox) -> Reduced:
    small = {}
    for number, block in enumerate(manager.blocks):
        values = block.values
        if type(values) is np.ndarray and 0 < values.nbytes < out.inline_limit and not values.dtype.hasobject:
            small[number] = values
    if len(small) < 2 or sum(values.nbytes for values in small.values()) < out.inline_limit:
        return NotImplemented
    cls, (blocks, axes) = manager.__reduce__()
    token, recipes = pack(list(small.values()), out)
    parts = [_shape_of(block) if number in small else block for number, block in enumerate(blocks)]
    return _rebuild_manager, (cls, token, recipes, parts, axes)


def _rebuild_manager(cls: type, room: ByteArray, recipes: list[Any], parts: list[Any], axes: list[Any]) -> Any:
    arrays = iter(unpack(room, recipes))
    blocks = [_unpickle_block(next(arrays), *part) if type(part) is tuple else part for part in parts]
    return cls(tuple(blocks), axes)


def _encode_single_manager(manager: Any, out: Outbox) -> Reduced:
    state = manager.__getstate__()
    if type(state) is not tuple or len(state) != 4 or "0.14.1" not in state[3]:
        return NotImplemented
    # The first three parts are for the pandas of 2014; only the fourth is read.
    return copyreg.__newobj__, (type(manager),), ([], [], [], state[3])  # type: ignore[attr-defined]


def _encode_arrow_backed(array: Any, out: Outbox) -> Reduced:
    chunked = array._pa_array
    if chunked.num_chunks != 1:
        return NotImplemented
    # pandas says what else belongs to the state; of the values, it gets to see (and to copy) none.
    stub = object.__new__(type(array))
    stub.__dict__.update(array.__dict__, _pa_array=chunked.slice(0, 0))
    state = stub.__getstate__()
    state["_pa_array"] = chunked.chunk(0)
    return copyreg.__newobj__, (type(array),), state  # type: ignore[attr-defined]


def extents(obj: Any) -> Iterator[Extent]:
    """Where the values of a frame, a series or an index lie, its own index included."""
    if isinstance(obj, (pd.DataFrame, pd.Series)):
        for block in obj._mgr.blocks:
            yield from _extents_of_values(block.values)
        obj = obj.index
    if isinstance(obj, pd.Index) and not isinstance(obj, (pd.RangeIndex, pd.MultiIndex)):
        yield from _extents_of_values(obj._data)  # type: ignore[attr-defined]  # not `array`, which pandas keeps


def _extents_of_values(values: Any) -> Iterator[Extent]:
    """Of an array, or of the arrays that an extension array is made of."""
    if isinstance(values, np.ndarray):
        yield from extents_within(values) if rows_are_contiguous(values) else numpy_extents(values)
    elif isinstance(values, ArrowExtensionArray):
        yield from arrow_extents(values._pa_array)  # type: ignore[attr-defined]
    else:
        for name in ("_ndarray", "_data", "_mask"):  # datetimes, categories and plain arrays; what has a mask
            yield from numpy_extents(getattr(values, name, None))
