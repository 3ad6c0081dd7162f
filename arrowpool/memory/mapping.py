"""A consumer's map of another process's arena: private, copy on write, mapped once and kept.

Guarantees: a write through a lease is visible through that lease only. A new lease shows exactly the owner's bytes. The memory is
valid until the last array, buffer or slice over it is gone, also after the owner's death.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.memory import pages, platform
from arrowpool.memory.allocator import IntervalSet
from arrowpool.memory.descriptor import Descriptor
from arrowpool.memory.lease import Lease
from arrowpool.memory.views import MappedBytes
from arrowpool.tuning import OWN_MAPS


class LeasedMemory(MappedBytes):
    """The base object of every array over a leased segment. Not changed after construction.

    Attributes
    ----------
    mapping : Mapping
        The map of the segment's arena.
    lease : Lease
        The right to read the segment.
    address : int
        Address of the segment in this process.
    """

    __slots__ = ("address", "lease", "mapping")

    def __init__(self, mapping: Mapping, lease: Lease, address: int):
        super().__init__(address, lease.size)
        self.mapping = mapping
        self.lease = lease
        self.address = address

    def fresh(self) -> ByteArray:
        """The segment as its owner wrote it, without later writes of this process."""
        return self.mapping.view(self.lease)


def leased_memory_under(array: np.ndarray[Any, Any]) -> LeasedMemory | None:
    """The leased memory that contains the elements of a contiguous array, if this process has not written to them; else None."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if type(base) is not LeasedMemory or not base.mapping.is_clean(array.ctypes.data, array.nbytes):
        return None
    return base


class Mapping:
    """A consumer's map of one arena. Any thread may call any method.

    Parameters
    ----------
    fd : int
        Descriptor of the arena's file; owned by the mapping.
    """

    def __init__(self, fd: int):
        self._file = Descriptor(fd)
        self._pid = os.getpid()
        status = os.fstat(fd)
        self._capacity, self._inode = status.st_size, status.st_ino
        self._pages = pages.page_map()
        #: Offsets of the segments that are leased through the map of the whole arena, each with the claim of its lease. `view` adds,
        #: in any thread: `setdefault` is one atomic operation of a dict, so one lease gets the offset. `_end` removes, in any
        #: thread, when no array of that lease is left.
        self._leased: dict[int, object] = {}
        try:
            self._address = platform.map_private(fd, 0, self._capacity)
        except OSError:
            # Address space is scarce (RLIMIT_AS, strict overcommit): then one map per lease.
            self._address = 0
        #: Cleared when a part of the map may be gone: other memory may lie there, which must not be unmapped. Cleared in `_end`, by
        #: any thread; read in `_close`, after the last lease, which refers to this mapping.
        self._intact = [True]
        #: Once the owner has ended: sizes of the ranges that are still leased, by offset; and shared maps of them (address, size) that
        #: replace the file. `orphans` and the thread that learns of the end add, any thread takes: each is one atomic operation of
        #: a dict.
        self._orphaned: dict[int, int] = {}
        self._shared: dict[int, tuple[int, int]] = {}
        weakref.finalize(
            self, _close, self._file, self._address, self._capacity, self._intact, self._shared, self._pid
        ).atexit = False

    @property
    def source(self) -> tuple[int, int]:
        """Descriptor of the arena's file in this process, and its inode: other processes find the file by them."""
        return self._file.number, self._inode

    def read(self, lease: Lease, start: int, nbytes: int) -> ByteArray:
        """A copy of a part of a granted segment, in private memory. Used when this process may not have more maps.

        Raises
        ------
        MemoryError
            When there is not enough memory.
        """
        self._check(lease.offset + start, nbytes)
        copy = platform.aligned(nbytes)
        memory: Any = copy
        done = 0
        with self._file.use() as fd:
            while done < nbytes:
                done += os.preadv(fd, [memory[done:]], lease.offset + start + done)
        return copy

    def _check(self, offset: int, size: int) -> None:
        if not 0 <= offset <= offset + size <= self._capacity:
            raise ValueError(f"segment [{offset}, {offset + size}) lies outside its arena of {self._capacity} bytes")

    def reclaim(self, offset: int, size: int) -> None:
        """Give a range of an arena whose owner has ended back to the kernel. No process may read it any more."""
        if os.getpid() != self._pid:
            return
        self._orphaned.pop(offset, None)
        with self._file.use() as fd:
            if fd >= 0:
                platform.punch(fd, offset, size)
        address, size = self._shared.pop(offset, (0, 0))
        if address:
            platform.punch_mapped(address, size)
            platform.unmap(address, size)

    def reclaim_all_but(self, ranges: Iterable[tuple[int, int]]) -> None:
        """The owner has ended: give everything outside of these ranges (offset, size) back to the kernel; see `reclaim`."""
        ranges = list(ranges)
        self._orphaned.update(ranges)
        rest = IntervalSet()
        rest.add(0, self._capacity)
        for offset, size in ranges:
            rest.remove(offset, offset + size)
        for start, end in rest:
            self.reclaim(start, end - start)

    @property
    def is_leased(self) -> bool:
        """Whether something of an arena whose owner has ended is still leased."""
        return bool(self._orphaned)

    def close_file(self) -> bool:
        """Close the file of an arena whose owner has ended, and that no lease is taken of any more; return whether it is closed.

        The memory stays readable through the map. It is given back through shared maps of what is still leased. Nothing of it can be
        lent to other processes from now on. Called by one thread at a time.
        """
        for offset, size in list(self._orphaned.items()):
            if offset not in self._shared and self._file.number >= 0:
                try:
                    self._shared[offset] = platform.map_page(self._file.number, size, offset), size
                except OSError:
                    return False  # no more maps
                if offset not in self._orphaned:  # it was released in between
                    self.reclaim(offset, size)
        return self._file.close()

    def _pristine(self, offset: int, size: int) -> ByteArray:
        """The bytes of a leased range as the owner wrote them, after `close_file`. Only to be read, while the lease lasts."""
        address, _ = self._shared[offset]
        return platform.bytes_at(address, size)

    def is_clean(self, address: int, nbytes: int) -> bool:
        """Whether this process has not written to that memory. False in a forked child."""
        return os.getpid() == self._pid and self._pages.is_clean(address, nbytes)

    def view(self, lease: Lease) -> ByteArray:
        """The bytes of a granted segment: writable, private to this lease.

        Raises
        ------
        OSError
            When this process has the maximum number of maps; see `read`.
        """
        offset, size = lease.offset, lease.size
        self._check(offset, size)
        # A holder of an earlier lease of the same segment may have written to it, and its writes are private to that lease.
        if self._file.number < 0:
            return self._pristine(offset, size)
        claim = object()
        shared_map = self._address and self._leased.setdefault(offset, claim) is claim
        if shared_map:
            address = self._address + offset
        elif len(_own_maps) < OWN_MAPS:
            with self._file.use() as fd:
                address = platform.map_private(fd, offset, size)
            _own_maps.add(address)
        else:
            raise OSError(errno.ENOMEM, f"there are {OWN_MAPS:,} maps of shared memory already")
        holder = LeasedMemory(self, lease, address)
        if shared_map:
            weakref.finalize(holder, _end, self, lease).atexit = False
        else:
            weakref.finalize(holder, _end_own_map, self, lease, address).atexit = False
        return np.asarray(holder)


#: Addresses of the maps for one lease each. Any thread adds and discards: each is one atomic operation of a set. Threads that look at
#: its size at the same time may exceed the limit by one map each, which does no harm.
_own_maps: set[int] = set()
#: Leases that never end: writes to their memory could not be undone. Any thread appends, one atomic operation; none reads.
_kept: list[Lease] = []


def has_maps() -> bool:
    """Whether this process may make more maps for one lease each."""
    return len(_own_maps) < OWN_MAPS


def _end(mapping: Mapping, lease: Lease) -> None:
    if os.getpid() != mapping._pid:
        return
    with mapping._file.use() as fd:
        address = mapping._address + lease.offset
        if fd < 0:  # the owner has ended: no other lease of this range comes
            platform.drop_pages(address, address + lease.size)
            restored = True
        else:
            restored = mapping._pages.restore(address, lease.size, fd, lease.offset)
    if restored:
        mapping._leased.pop(lease.offset, None)
    else:
        mapping._intact.clear()
        _kept.append(lease)
    # `lease` is released after this, with the last reference to it: from then on the owner may write to the segment.


def _end_own_map(mapping: Mapping, lease: Lease, address: int) -> None:
    if os.getpid() != mapping._pid:
        return
    # Removed first: another thread may get that address at once.
    _own_maps.discard(address)
    if not platform.unmap(address, lease.size):
        _kept.append(lease)


def _close(
    file: Descriptor, address: int, size: int, intact: list[bool], shared: dict[int, tuple[int, int]], pid: int
) -> None:
    if os.getpid() == pid:
        if address and intact:
            platform.unmap(address, size)
        for part in shared.values():
            platform.unmap(*part)
        file.close()
