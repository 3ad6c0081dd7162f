"""Arrays over mapped memory, which keep the map alive."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.memory import platform


class MappedBytes:
    """The base object of arrays over `size` bytes at an address: NumPy reads its attribute, and keeps the object alive.

    A finalizer or attributes of this object end with the last array.
    """

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, address: int, size: int):
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


def private_view(fd: int, offset: int, size: int) -> ByteArray:
    """A range of a file as an array: writeable, private, and mapped until the last array over it is gone."""
    return _view(platform.map_private(fd, offset, size), size)


def page_view(fd: int, size: int) -> ByteArray:
    """A small file as an array that several processes write to, mapped until the last array over it is gone.

    An `mmap.mmap` would keep a duplicate of the descriptor.
    """
    return _view(platform.map_page(fd, size), size)


def _view(address: int, size: int) -> ByteArray:
    mapped = MappedBytes(address, size)
    # Also in a forked child, which has the map as well and unmaps it for itself.
    weakref.finalize(mapped, platform.unmap, address, size).atexit = False
    return np.asarray(mapped)
