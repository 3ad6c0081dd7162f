"""Sealed objects: taken apart in one process, put together in another, and carried by others that never look inside.

    seal (client) -> Sealed -- Dask --> Sealed -> Opening (node) -- local pool --> Opened -> rebuild (task process)

Each buffer is sent as it is (protocol 5, out of band), and is copied once on the node: into the local pool's arena. Results go the
same way back, without the last step: the client rebuilds them over the memory that Dask has received.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pickle import PickleBuffer
from typing import Any, TypeAlias

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.memory.platform.raw import aligned
from arrowpool.transport.reducer import loads_in_turn
from arrowpool.transport.unit import Unit
from arrowpool.tuning import INLINE_LIMIT

#: A buffer; the number of a shared object; or a window of one that is plain memory.
Part: TypeAlias = Any
#: The number of the object, the offset, the number of bytes, and whether the receiver may write to it.
Window: TypeAlias = tuple[int, int, int, bool]

#: numpy, Arrow and SIMD kernels work on memory with this alignment; codecs are promised no less of a segment.
_ALIGNMENT = 64


class Sealed:
    """An object taken apart: a pickle stream, and the parts that it refers to, in order."""

    __slots__ = ("nbytes", "parts", "stream")

    def __init__(self, stream: Any, *parts: Part):
        #: Bytes, or a buffer of bytes.
        self.stream = stream
        self.parts = parts
        #: Bytes of the stream and the buffers.
        self.nbytes = len(stream)
        for part in parts:
            if not isinstance(part, (int, tuple)):
                self.nbytes += memoryview(part).nbytes

    def __repr__(self) -> str:
        return f"<Sealed {self.nbytes:,} bytes in {len(self.parts)} parts>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Sealed, (_picklable_stream(self.stream), *_picklable(self.parts))

    def __sizeof__(self) -> int:  # Dask accounts memory by this
        return self.nbytes + 200

    @property
    def shared(self) -> list[int]:
        """Numbers of the shared objects that are needed to rebuild it."""
        return [part if isinstance(part, int) else part[0] for part in self.parts if isinstance(part, (int, tuple))]


class Opening:
    """A sealed object on its way to the process that rebuilds it. Arrives there as an `Opened`."""

    __slots__ = ("__weakref__", "sealed")

    def __init__(self, sealed: Sealed):
        #: None once the object is placed for good: from then on only the identity of this object counts.
        self.sealed: Sealed | None = sealed

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        assert self.sealed is not None, "the buffers were given up when the object was placed"
        return Opened, (_picklable_stream(self.sealed.stream), *_picklable(self.sealed.parts))


class Opened:
    """A sealed object in the process that rebuilds it: its parts are private memory of the task."""

    __slots__ = ("parts", "stream")

    def __init__(self, stream: Any, *parts: Part):
        self.stream = stream
        self.parts = parts

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("an opened object is rebuilt here; it does not travel on")


def sealed(stream: bytes, units: Sequence[Unit], *, copies: bool = False) -> Sealed:
    """What a reducer has returned, as an object that travels.

    Memory that is in one piece is read later, when it is sent, unless this `copies` it.
    """
    parts: list[Part] = []
    for unit in units:
        if unit.window is not None:
            parts.append((unit.shared_object, *unit.window))
        elif unit.shared_object is not None:
            parts.append(unit.shared_object)
        elif copies and not unit.is_own:
            copy = aligned(unit.nbytes)
            unit.copy_to(copy)
            parts.append(copy)
        else:
            parts.append(_alias(unit.contents()))
    return Sealed(stream, *parts)


def rebuild(parcels: Sequence[Sealed | Opened], shared: Mapping[int, Opened] | None = None) -> list[Any]:
    """The objects, each of which was reduced `after` the one before.

    Raises
    ------
    Exception
        Whatever unpickling raises.
    """
    return loads_in_turn([parcel.stream for parcel in parcels], _rooms(parcels, shared or {}))


def _rooms(parcels: Sequence[Sealed | Opened], shared: Mapping[int, Opened]) -> Iterator[Any]:
    windows = [part for parcel in parcels for part in parcel.parts if isinstance(part, tuple)]
    copied = _overlapping(windows) if len(windows) > 1 else frozenset()
    for parcel in parcels:
        for part in parcel.parts:
            if isinstance(part, int):
                yield rebuild([shared[part]], shared)[0]
            elif isinstance(part, tuple):
                number, offset, nbytes, writable = part
                whole: ByteArray = rebuild([shared[number]], shared)[0]
                view = whole[offset : offset + nbytes]
                yield _copy(view) if writable and number in copied else view
            else:
                yield _room(part)


def _overlapping(windows: Iterable[Window]) -> frozenset[int]:
    """Numbers of the objects with windows that overlap: these are copied, so that no change to one appears in another."""
    found: set[int] = set()
    ends: dict[int, int] = {}
    for number, offset, nbytes, _ in sorted(windows):
        if offset < ends.get(number, 0):
            found.add(number)
        ends[number] = max(offset + nbytes, ends.get(number, 0))
    return frozenset(found)


def _room(part: Any) -> ByteArray:
    """The memory of a part: writable, and aligned."""
    memory = np.frombuffer(part, dtype=np.uint8)
    if memory.flags.writeable and not memory.ctypes.data % _ALIGNMENT:
        return memory
    return _copy(memory)


def _copy(memory: ByteArray) -> ByteArray:
    copy = aligned(memory.nbytes)
    np.copyto(copy, memory)
    return copy


def _picklable(parts: Sequence[Part]) -> list[Any]:
    return [part if isinstance(part, (int, tuple)) else PickleBuffer(_alias(part)) for part in parts]


def _picklable_stream(stream: Any) -> Any:
    """A long stream is a buffer, too: many small frames are in it."""
    return stream if len(stream) < INLINE_LIMIT else PickleBuffer(_alias(stream))


def _alias(part: Any) -> Any:
    """The same memory, as a writable buffer: pickle and Dask copy what is received into writable memory and was sent read-only.

    Only read, on this side. The alias keeps the part alive.
    """
    memory = np.frombuffer(part, dtype=np.uint8)
    if memory.flags.writeable or not memory.nbytes:
        return memory
    alias: Any = (ctypes.c_ubyte * memory.nbytes).from_address(memory.ctypes.data)
    alias.owner = memory
    return np.frombuffer(alias, dtype=np.uint8)
