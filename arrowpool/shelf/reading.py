"""The memory of an object, once its files are open: large ones mapped privately, small ones copied."""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np

from arrowpool.errors import ShelfKeyError
from arrowpool.memory import platform
from arrowpool.shelf.layout import Memory
from arrowpool.shelf.places import COPIED


def take(fd: int, offset: int, size: int, key: str) -> Memory:
    """A range of an open file as memory of this process's: writeable, and seen by nobody else.

    Raises
    ------
    ShelfKeyError
        When the file is shorter.
    PermissionError
        When it is another user's.
    """
    found = os.fstat(fd)
    if found.st_uid not in os.getresuid():
        raise PermissionError(f"what lies under {key!r} belongs to another user ({found.st_uid})")
    if found.st_size < offset + size:
        raise ShelfKeyError(f"the object under {key!r} is damaged: it is cut off")
    if size > COPIED:
        return np.asarray(_Mapped(fd, offset, size))
    memory: Memory = np.empty(size, dtype=np.uint8)
    done = 0
    while done < size:
        count = os.preadv(fd, [memory[done:].data], offset + done)
        if count == 0:
            raise ShelfKeyError(f"the object under {key!r} is damaged: it is cut off")
        done += count
    return memory


class _Mapped:
    """The base object of every array over a mapped file; NumPy reads the attribute and keeps the object alive."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, fd: int, offset: int, size: int):
        address = platform.map_private(fd, offset, size)
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }
        # A forked child has the map as well, and lets go of it for itself.
        weakref.finalize(self, platform.unmap, address, size).atexit = False
