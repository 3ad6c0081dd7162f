"""The arrays that frames, series and indexes are made of: small ones travel together, the others each by themselves.

Called by `values`, `index` and `frame` in this package. A *leaf* is a NumPy array without objects. Small leaves of one object are
packed into one *heap*: a `bytearray` in the pickle stream, or a token of the outbox if together they reach its `inline_limit`.
A heap stays smaller than its `heap_limit`, since keeping one leaf keeps all of them. All other leaves become *parts*, which the pickler
reduces as it does any array.

Guarantees: a leaf arrives as pickle delivers it: writeable, aligned, in native byte order, in Fortran order if the source was
Fortran- and not C-contiguous, else in C order.

A leaf in a heap is not in the pickler's memo. So only leaves that nothing else refers to go there (`is_sole`): pickle preserves
that two objects share one array, and sharing shows as soon as one of them is written to.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.codecs.numpy import CODES, bounds
from arrowpool.codecs.outbox import ByteArray, Outbox
from arrowpool.tuning import ALIGNMENT

__all__ = [
    "INTEGERS",
    "OWNER_ALONE",
    "Build",
    "Code",
    "Heap",
    "Key",
    "Reader",
    "Small",
    "heap_of",
    "reader_of",
    "rows_are_contiguous",
    "take_leaf",
]

Array = np.ndarray[Any, Any]
#: What a template says of a leaf: its dtype, after an "F" for Fortran order; None for a part.
Code = str | None
Heap = bytearray | ByteArray | None

#: `sys.getrefcount(owner.attribute)` of what only the owner refers to: the owner's reference, and the argument's. To be called
#: in a statement of its own: what is already on the stack for another call counts, too.
OWNER_ALONE = 2


def is_plain(values: Any, names: frozenset[str]) -> bool:
    """Whether an array of pandas has no attributes but these, and can be written to."""
    state = values.__dict__
    return state.keys() <= names and not state.get("_readonly")


class Small(list[Array]):
    """The small leaves of one object, and their bytes."""

    __slots__ = ("nbytes",)

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def add(self, array: Array) -> None:
        """Put a contiguous array with the small ones that has room there."""
        self.append(array)
        self.nbytes += array.nbytes

    def drop_from(self, first: int) -> None:
        """Forget the leaves from this index on."""
        self.nbytes -= sum(array.nbytes for array in self[first:])
        del self[first:]


def take_leaf(array: Array, is_sole: bool, out: Outbox, small: Small, parts: list[Any]) -> Code:
    """Put an array with the small ones, or among the parts; return its code."""
    nbytes = array.nbytes
    if nbytes >= out.inline_limit and (is_sole or not array.flags.forc) and out.has_windows:
        window = _window_of(array, out)
        if window is not None:
            parts.append(window)
            return None
    if is_sole and 0 < nbytes < out.heap_limit - small.nbytes:
        dtype = array.dtype
        code = CODES.get(id(dtype)) or _code_of(dtype)
        if code is not None:
            small.nbytes += nbytes
            flags = array.flags
            if flags.c_contiguous or not flags.f_contiguous:
                small.append(array)
                return code
            small.append(array.T)
            return "F" + code
    parts.append(array)
    return None


def _code_of(dtype: np.dtype[Any]) -> str | None:
    """The code of a dtype that is not a singleton: of times, or one that was unpickled. None if it has more to it."""
    if dtype.kind in "biufcmM" and dtype.isnative and not dtype.metadata:
        return dtype.str
    return None


def _window_of(array: Array, out: Outbox) -> Any:
    """Where the array lies in memory that several messages share; None if it does not."""
    if array.dtype.hasobject or not array.dtype.isnative or not (array.flags.forc or rows_are_contiguous(array)):
        return None
    start, stop = bounds(array)
    window = out.place_window(start, stop - start)
    return None if window is None else (window, array.ctypes.data - start, array.dtype, array.shape, array.strides)


def rows_are_contiguous(values: Array) -> bool:
    """Whether each row of a block, a column of its frame, is contiguous, and none lies over another.

    Only then may a window keep the strides: written to one cell, memory that overlaps itself (a broadcast array, sliding
    windows by `as_strided`) would change others; and code that wants contiguous columns gets them after pickle.
    """
    if values.strides[-1] != values.itemsize:
        return False
    return values.ndim == 1 or (values.ndim == 2 and abs(values.strides[0]) >= values.shape[1] * values.itemsize)


def heap_of(small: Small, out: Outbox) -> Any:
    """What stands for these leaves in the stream: bytes or a token; None if there are none."""
    if not small:
        return None
    if len(small) == 1 and small.nbytes < out.inline_limit:
        return bytearray(small[0].tobytes())
    total = 0
    # Only with gaps may they reach the limit.
    if small.nbytes + ALIGNMENT * len(small) >= out.inline_limit:
        for array in small:
            total += -total % ALIGNMENT + array.nbytes
        if total >= out.inline_limit:
            return out.place_with(total, partial(_write, small))
        total = 0
    pieces = []
    for array in small:
        gap = -total % ALIGNMENT
        if gap:
            pieces.append(_PADDING[gap])
        piece = array.tobytes()
        pieces.append(piece)
        total += gap + len(piece)
    return bytearray().join(pieces)


_PADDING = [bytes(nbytes) for nbytes in range(ALIGNMENT)]


def _write(small: Small, room: ByteArray) -> None:
    end = 0
    for array in small:
        start = end + -end % ALIGNMENT
        room[end:start] = 0
        end = start + array.nbytes
        np.copyto(room[start:end].view(array.dtype).reshape(array.shape), array)


class Reader:
    """Gives the leaves of a heap, and the parts, in the order in which they were taken."""

    __slots__ = ("_end", "_heap", "_next_part", "_parts", "_read_only")

    def __init__(self, heap: Heap, parts: tuple[Any, ...], first: int = 0):
        self._heap = heap
        self._read_only: Any = None
        self._end = 0
        self._parts = parts
        self._next_part = first

    def leaf(self, code: LeafCode | None, shape: tuple[int, ...]) -> Array:
        """The next leaf."""
        if code is None:
            part = self.part()
            if type(part) is tuple:
                room, offset, dtype, shape, strides = part
                return np.ndarray(shape, dtype, room, offset, strides)
            return part  # type: ignore[no-any-return]
        dtype, itemsize, order = code
        start = self._end + -self._end % ALIGNMENT
        count = itemsize
        for length in shape:
            count *= length
        self._end = start + count
        return np.ndarray(shape, dtype, self._heap, start, None, order)

    def bytes_of(self, nbytes: int) -> Any:
        """The next leaf, in a heap, of so many bytes: a `pyarrow.Buffer` that cannot be written to."""
        start = self._end + -self._end % ALIGNMENT
        self._end = start + nbytes
        if self._read_only is None:
            self._read_only = pa.py_buffer(memoryview(self._heap).toreadonly())  # type: ignore[arg-type]
        return self._read_only.slice(start, nbytes)

    def last_of(self, count: int, number: Struct) -> tuple[Any, int]:
        """As `bytes_of`, for a leaf of so many numbers; with the last of them."""
        nbytes = count * number.size
        leaf = self.bytes_of(nbytes)
        return leaf, number.unpack_from(self._heap, self._end - number.size)[0]  # type: ignore[arg-type]

    def part(self) -> Any:
        """The next part."""
        part = self._parts[self._next_part]
        self._next_part += 1
        return part


#: Integers as they lie in memory, by their size.
INTEGERS = {number.size: number for number in (Struct("=i"), Struct("=q"))}
#: What a template says of values: see `values`.
Key = Code | tuple[Any, ...]
#: Makes values of the next leaves, given how many columns (None for one dimension) and how many rows they have.
Build = Callable[[Reader, int | None, int], Any]
#: A code as `Reader` wants it: the dtype, its size in bytes, the order.
LeafCode = tuple[np.dtype[Any], int, Any]


def reader_of(code: Code) -> LeafCode | None:
    """A code, prepared for reading."""
    if code is None:
        return None
    dtype = np.dtype(code.removeprefix("F"))
    if dtype.kind in "mM":
        # With empty metadata instead of none, in older versions of NumPy.
        dtype = pickle.loads(pickle.dumps(dtype, 4))
    return dtype, dtype.itemsize, "F" if code[0] == "F" else "C"
