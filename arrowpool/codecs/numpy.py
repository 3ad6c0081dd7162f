"""NumPy arrays: their visible elements are copied once into the room. The array that arrives is a view of the room.

Found by :func:`arrowpool.codecs.encoder_for`. All objects made of arrays (pandas blocks, scipy.sparse, xarray) use it, since pickle
asks for the encoder of each nested array.

Guarantees the result of protocol 4: a writeable, aligned array in native byte order, in Fortran order if the source is Fortran- and
not C-contiguous, otherwise in C order. Plain protocol 5 out of band would keep read-only flags and foreign byte order. That would
break functions that work with the standard library's pool.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pickle import PickleBuffer
from typing import Any

import numpy as np

from arrowpool.codecs import strings
from arrowpool.codecs.outbox import ByteArray, Encode, Extent, Outbox, Reduced
from arrowpool.tuning import ALIGNMENT, INLINE_LIMIT

__all__ = ["bounds", "encoder_for", "extents", "extents_within", "pack", "unpack"]

Array = np.ndarray[Any, Any]

_FOREIGN = ">" if sys.byteorder == "little" else "<"
_SINGLETONS = [np.dtype(char) for char in "?bhilqBHILQefdgFDG"]
#: The string for a dtype in the stream, by the id of NumPy's only object for that dtype. Pickle takes a dtype apart each time.
CODES = {id(dtype): dtype.str for dtype in _SINGLETONS}
#: NumPy's own subclasses that pickle as a plain array does, without data in addition to the elements.
_PLAIN_SUBCLASSES = (np.matrix, np.recarray, np.memmap)
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")


def encoder_for(cls: type) -> Encode | None:
    """The encoder of arrays of type `cls`; None if it is not an array, or has its own way of pickling."""
    if cls is np.ndarray:
        return _encode
    if cls is np.ma.MaskedArray:
        return _encode_masked
    if issubclass(cls, np.ndarray) and _pickles_as_plain_array(cls):
        return _encode_subclass
    return None


def _pickles_as_plain_array(cls: type) -> bool:
    if any(getattr(cls, name, None) is not getattr(np.ndarray, name, None) for name in _PICKLING):
        return False
    # Unpickling calls __array_finalize__ with an empty array; `_rebuild` calls it with the whole array. Only these accept both.
    finalize = getattr(cls, "__array_finalize__", None)
    return finalize in [getattr(known, "__array_finalize__", None) for known in (np.ndarray, *_PLAIN_SUBCLASSES)]


def _stays_inline(array: Array, out: Outbox) -> bool:
    nbytes = array.nbytes
    # References to objects are valid in this process only. Zero bytes cannot be placed.
    return nbytes < out.inline_limit or nbytes == 0 or array.dtype.hasobject


def _encode(array: Array, out: Outbox) -> Reduced:
    if _stays_inline(array, out):
        if array.dtype == object and array.nbytes >= out.inline_limit:
            return strings.encode(array)
        dtype = array.dtype
        if dtype.kind in "biufc" and dtype.byteorder != _FOREIGN and array.flags.c_contiguous and array.nbytes:
            # Cheaper than NumPy's own pickling, which makes an empty array and sets a state of eight parts.
            return _small, (array.shape, CODES.get(id(dtype)) or dtype, array.tobytes())
        return array.__reduce__()
    source, dtype = _as_written(array)
    if source.dtype != dtype:
        token = out.place_with(array.nbytes, partial(_write, source, dtype))
    elif (window := _window(source, out)) is not None:
        token = window
    else:
        token = out.place(source)
    return _rebuild, (token, *_recipe(array))


def _window(source: Array, out: Outbox) -> PickleBuffer | None:
    if not out.has_windows or not source.flags.c_contiguous:
        return None
    return out.place_window(source.ctypes.data, source.nbytes)


def extents(array: Any) -> Iterator[Extent]:
    """The memory of an array's elements. Empty for small arrays, arrays of objects, and arrays with gaps."""
    if isinstance(array, np.ndarray) and array.flags.forc:
        yield from extents_within(array)


def extents_within(array: Array) -> Iterator[Extent]:
    """As `extents`, also for an array with gaps."""
    if array.nbytes >= INLINE_LIMIT and not array.dtype.hasobject:
        start, stop = bounds(array)
        yield Extent(start, stop, array.nbytes, array)


def bounds(array: Array) -> tuple[int, int]:
    """Addresses of the first byte of an array that is not empty, and of the byte after its last."""
    start = array.ctypes.data
    if array.flags.forc:
        return start, start + array.nbytes
    spans = [stride * (length - 1) for stride, length in zip(array.strides, array.shape, strict=True)]
    return start + sum(min(span, 0) for span in spans), start + sum(max(span, 0) for span in spans) + array.itemsize


def _small(shape: tuple[int, ...], dtype: np.dtype[Any] | str, data: bytes) -> Array:
    """A copy: an unpickled array owns its memory, so it can be resized."""
    return np.ndarray(shape, dtype, data).copy()


def _as_written(array: Array) -> tuple[Array, np.dtype[Any]]:
    """The array to copy, in C order, and the dtype of the copy."""
    source = array.T if array.flags.fnc else array
    dtype = source.dtype
    if dtype.names is not None:
        # A copy of each field would leave old bytes in the padding. Pickle delivers the padding.
        dtype = np.dtype((np.void, dtype.itemsize))
        return source.view(dtype), dtype
    return source, _native(dtype)


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=") if dtype.byteorder == _FOREIGN else dtype


def _recipe(array: Array) -> tuple[np.dtype[Any] | str, tuple[int, ...], bool]:
    dtype = array.dtype
    return CODES.get(id(dtype)) or _native(dtype), array.shape, array.flags.fnc


def _write(source: Array, dtype: np.dtype[Any], room: ByteArray) -> None:
    np.copyto(room.view(dtype).reshape(source.shape), source)


def _rebuild(
    room: ByteArray, dtype: np.dtype[Any] | str, shape: tuple[int, ...], in_fortran_order: bool, cls: type = np.ndarray
) -> Any:
    return np.ndarray.__new__(cls, shape, dtype, room, 0, None, "F" if in_fortran_order else "C")


def pack(arrays: list[Array], out: Outbox) -> tuple[Any, list[Any]]:
    """Place several plain arrays without objects together. Return the token, and the recipes for `unpack`."""
    starts = []
    end = 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    written = [_as_written(array) for array in arrays]
    recipes = [(start, array.nbytes, *_recipe(array)) for start, array in zip(starts, arrays, strict=True)]
    return out.place_with(end, partial(_write_all, starts, written)), recipes


def _write_all(starts: list[int], written: list[tuple[Array, np.dtype[Any]]], room: ByteArray) -> None:
    for start, (source, dtype) in zip(starts, written, strict=True):
        _write(source, dtype, room[start : start + source.nbytes])


def unpack(room: ByteArray, recipes: list[Any]) -> list[Array]:
    """The arrays that `pack` has placed."""
    return [_rebuild(room[start : start + nbytes], *recipe) for start, nbytes, *recipe in recipes]


def _encode_subclass(array: Array, out: Outbox) -> Reduced:
    if _stays_inline(array, out):
        return array.__reduce__()
    # As a plain array: the subclass's operators (recarray's attributes, matrix's shapes) must not interfere.
    rebuild, args = _encode(array.view(np.ndarray), out)
    # A record array's dtype names its scalar type, which the plain view keeps.
    return rebuild, (*args, type(array))


def _encode_masked(array: np.ma.MaskedArray[Any, Any], out: Outbox) -> Reduced:
    if _stays_inline(array, out):
        return NotImplemented
    elements = array.view(np.ndarray)
    mask = np.ma.getmaskarray(array).view(np.ndarray)
    # Pickle gives the mask the order of the elements.
    order: Any = "F" if elements.flags.fnc else "C"
    return _rebuild_masked, (elements, np.asarray(mask, order=order), array._fill_value)  # type: ignore[attr-defined]


def _rebuild_masked(elements: Array, mask: Array, fill_value: Any) -> np.ma.MaskedArray[Any, Any]:
    array = elements.view(np.ma.MaskedArray)
    array._mask = mask  # type: ignore[attr-defined]
    array._sharedmask = True  # type: ignore[attr-defined]  # as in any masked array that was unpickled
    array.fill_value = fill_value
    return array
