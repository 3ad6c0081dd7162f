"""How a consumer sees another process's arena: privately, copy on write, mapped once and kept.

Guarantees: what is written through a lease stays with that lease; a new lease shows the owner's bytes and nothing else;
the memory is valid until the last array, buffer or slice over it is gone, also after the owner's death.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.memory import system
from arrowpool.memory.lease import Grant


class _Lease:
    """The base object of every array over a leased segment; NumPy reads the attribute and keeps the object alive."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, address: int, size: int):
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


class Mapping:
    """A consumer's map of one arena.

    Parameters
    ----------
    fd : int
        Descriptor of the arena's file; the mapping owns it from here on.
    """

    def __init__(self, fd: int):
        self._fd = fd
        self._pid = os.getpid()
        self._capacity = os.fstat(fd).st_size
        self._dropper = system.PageDropper()
        #: Offsets of the segments that are leased through the map of the whole arena.
        self._leased: set[int] = set()
        try:
            self._address = system.map_private(fd, 0, self._capacity)
        except OSError:
            # Address space is scarce (RLIMIT_AS, strict overcommit): then one map per lease.
            self._address = 0
        weakref.finalize(self, _close, fd, self._address, self._capacity, self._dropper, self._pid).atexit = False

    def lease(self, grant: Grant) -> ByteArray:
        """The bytes of a granted segment: writable, private to this lease."""
        offset, size = grant.offset, grant.size
        if not 0 <= offset <= offset + size <= self._capacity:
            raise ValueError(f"segment [{offset}, {offset + size}) lies outside its arena of {self._capacity} bytes")
        # Whoever still holds an earlier lease of the same segment may have written to it; those writes are its own.
        shared_map = self._address and offset not in self._leased
        address = self._address + offset if shared_map else system.map_private(self._fd, offset, size)
        holder = _Lease(address, size)
        if shared_map:
            self._leased.add(offset)
            weakref.finalize(holder, _end, self, grant).atexit = False
        else:
            weakref.finalize(holder, _end_own_map, self, grant, address).atexit = False
        return np.asarray(holder)


def _end(mapping: Mapping, grant: Grant) -> None:
    if os.getpid() != mapping._pid:
        return
    mapping._dropper.drop(mapping._address + grant.offset, grant.size)
    mapping._leased.discard(grant.offset)
    # `grant` is released only now: the owner may write to the segment from then on.


def _end_own_map(mapping: Mapping, grant: Grant, address: int) -> None:
    if os.getpid() == mapping._pid:
        system.unmap(address, grant.size)


def _close(fd: int, address: int, size: int, dropper: system.PageDropper, pid: int) -> None:
    if os.getpid() == pid:
        dropper.close()
        if address:
            system.unmap(address, size)
        os.close(fd)
