"""Moving an object without shared memory: what the reducer puts aside is copied into rooms of private memory."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from arrowpool.transport import reducer


@dataclass
class Moved:
    """An object that was moved: what arrived, the pickle stream and the memory outside of it."""

    obj: Any
    stream: bytes
    rooms: list[np.ndarray]

    @property
    def nbytes(self) -> int:
        return sum(room.nbytes for room in self.rooms)


def room_of(nbytes: int) -> np.ndarray:
    """Writeable memory, aligned to 64 bytes, that holds something else before."""
    memory = np.full(nbytes + 64, 0xAB, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


def move(obj: Any, inline_limit: int = 1) -> Moved:
    """Take `obj` apart and rebuild it."""
    stream, units = reducer.dumps(obj, inline_limit=inline_limit)
    rooms = [room_of(unit.nbytes) for unit in units]
    for unit, room in zip(units, rooms, strict=True):
        for copy in unit.copies_to(room, unit.nbytes):
            copy()
    return Moved(reducer.loads(stream, rooms), bytes(stream), rooms)


def as_the_stdlib_does(obj: Any) -> Any:
    """What arrives through `multiprocessing.Pool`, which pickles with protocol 4 (before Python 3.14)."""
    stream = io.BytesIO()
    ForkingPickler(stream, 4).dump(obj)
    return pickle.loads(stream.getbuffer())
