"""A unit: one thing that a message refers to and that does not go through the pipe.

Made by the reducer, in the order in which `loads` will ask for the units. Placed by the sender, or written to a file by the
shelf.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.memory import platform
from arrowpool.memory.mapping import LeasedMemory

#: Strided memory is compared in pieces of this many bytes.
_COMPARED = 1 << 20


class Window(NamedTuple):
    """A part of a shared object that is plain memory. Windows that are `writable` must not show each other's changes."""

    offset: int
    nbytes: int
    writable: bool


class Unit:
    """Memory to be copied, memory that is lent where it lies, or a shared object or a window of one.

    Parameters
    ----------
    nbytes : int
        Size of the memory; 0 for a shared object.
    source : ndarray, optional
        The memory, of any strides.
    write : callable, optional
        Writes the memory into an array of `nbytes`, in place of a `source`.
    shared_object : int, optional
        Number of an object that was placed before.
    window : Window, optional
        The part of that object that is meant.
    leased : LeasedMemory, optional
        The memory, if this process has a lease of it: then it may be lent instead of copied.
    is_own : bool
        Whether the memory is a copy that is not referenced elsewhere.
    """

    __slots__ = ("_source", "_write", "is_own", "leased", "nbytes", "shared_object", "window")

    def __init__(
        self,
        nbytes: int,
        source: Any = None,
        write: Callable[[ByteArray], None] | None = None,
        shared_object: int | None = None,
        window: Window | None = None,
        leased: LeasedMemory | None = None,
        is_own: bool = False,
    ):
        self.is_own = is_own
        self.nbytes = nbytes
        self.leased = leased
        self.shared_object = shared_object
        self.window = window
        self._source = source
        self._write = write

    def __repr__(self) -> str:
        if self.shared_object is not None:
            part = "" if self.window is None else f" {self.window.offset:,}+{self.window.nbytes:,}"
            return f"<Unit of shared object {self.shared_object}{part}>"
        return f"<Unit of {self.nbytes:,} bytes{', lent' if self.leased is not None else ''}>"

    @property
    def offset(self) -> int:
        """Where in the leased segment the memory begins."""
        assert self.leased is not None
        offset: int = self._source.ctypes.data - self.leased.address
        return offset

    def copy_to(self, room: ByteArray) -> None:
        """Copy the memory into `room`, a writable array of exactly `nbytes`."""
        if self._write is not None:
            self._write(room)
        else:
            source = self._source
            np.copyto(room.view(source.dtype).reshape(source.shape), source)

    def contents(self) -> ByteArray:
        """The memory in one piece: itself where it is contiguous, else a copy."""
        source = self._source
        if self._write is None and source.flags.c_contiguous:
            flat: ByteArray = source.reshape(-1).view(np.uint8)
            return flat
        copy = platform.aligned(self.nbytes)
        self.copy_to(copy)
        return copy

    def copies_to(self, room: ByteArray, piece: int) -> list[Callable[[], Any]]:
        """What copies the memory into `room`, a writable array of exactly `nbytes`.

        Independent calls, each for about `piece` bytes where the memory can be divided.
        """
        if self._write is not None:
            return [functools.partial(self._write, room)]
        source = self._source
        target = room.view(source.dtype).reshape(source.shape)
        if self.nbytes <= piece or source.ndim == 0 or len(source) < 2:
            return [functools.partial(np.copyto, target, source)]
        step = max(1, len(source) * piece // self.nbytes)
        return [
            functools.partial(np.copyto, target[at : at + step], source[at : at + step])
            for at in range(0, len(source), step)
        ]

    def is_as(self, placed: Unit, room: ByteArray | None) -> bool:
        """Whether this unit equals `placed` as that was copied into `room`; `room` is None where it was not copied."""
        if (self.nbytes, self.shared_object, self.window) != (placed.nbytes, placed.shared_object, placed.window):
            return False
        if self.shared_object is not None:
            return True
        if self.leased is not None or placed.leased is not None:
            return self.leased is placed.leased and self.offset == placed.offset
        assert room is not None
        # Immutable types are compared too: the memory of an Arrow buffer may be that of a NumPy array.
        return self._is_in(room)

    def _is_in(self, room: ByteArray) -> bool:
        """Whether its bytes are those of `room`."""
        source = self._source
        if self._write is not None:
            source = np.empty(self.nbytes, dtype=np.uint8)
            self._write(source)
        if source.flags.c_contiguous:
            return platform.are_equal(source.ctypes.data, room.ctypes.data, self.nbytes)
        target = room.view(source.dtype).reshape(source.shape)
        step = max(1, len(source) * _COMPARED // self.nbytes)
        for at in range(0, len(source), step):
            piece = np.ascontiguousarray(source[at : at + step])
            if not platform.are_equal(piece.ctypes.data, target[at : at + step].ctypes.data, piece.nbytes):
                return False
        return True
