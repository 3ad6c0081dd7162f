"""An owner's shared memory: one sparse anonymous file, mapped once, carved into segments.

Only the owner process writes to it and decides what is free. Used by `wire` (what goes where) and `lifecycle` (when it
is over). Guarantees: segments start on a page; memory of a freed segment is used again warm; pages idle for long are
given back to the kernel; nothing is left when the last process is gone, however it went. Assumes one thread at a time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrowpool.errors import ArenaFullError
from arrowpool.memory import system
from arrowpool.memory.allocator import Allocator


class Arena:
    """The memory that one process hands out to others.

    Parameters
    ----------
    fd : int
        Descriptor of the arena's file, as made by :func:`create`; the arena owns it from here on.
    """

    def __init__(self, fd: int):
        self.fd = fd
        self.capacity = os.fstat(fd).st_size
        try:
            address = system.map_shared(fd, self.capacity)
        except BaseException:
            os.close(fd)
            raise
        self._address = address
        whole: Any = (ctypes.c_ubyte * self.capacity).from_address(address)
        self._bytes: NDArray[np.uint8] = np.frombuffer(whole, dtype=np.uint8)
        self._allocator = Allocator(self.capacity)
        self.close = weakref.finalize(self, _close, fd, address, self.capacity, os.getpid())
        self.close.atexit = False

    def __repr__(self) -> str:
        return f"<Arena {self._allocator!r}>"

    @property
    def used(self) -> int:
        """Bytes in segments."""
        return self._allocator.used

    @property
    def resident(self) -> int:
        """Bytes that have memory behind them, in segments or kept warm for the next."""
        return self._allocator.resident()

    def allocate(self, nbytes: int) -> tuple[int, int]:
        """A new segment of at least `nbytes`: (offset, size), both page-aligned, its pages in memory.

        Raises
        ------
        ArenaFullError
            When no free range is long enough, or the kernel has no memory for it. Nothing is held then.
        """
        size = system.page_ceil(max(nbytes, 1))
        found = self._allocator.allocate(size)
        if found is None:
            raise ArenaFullError(
                f"no room for {nbytes:,} bytes in shared memory: {self.used:,} of {self.capacity:,} bytes are in use. "
                "Release results or frames that are no longer needed, or send smaller chunks."
            )
        offset, cold = found
        try:
            for start, end in cold:
                system.populate(self._address + start, end - start)
        except MemoryError as error:
            self._allocator.free(offset, size)
            self._allocator.mark_cold(cold)
            raise ArenaFullError(
                f"{error}; {self.used:,} bytes are in use. Send smaller chunks, or set max_bytes to less."
            ) from error
        return offset, size

    def free(self, offset: int, size: int) -> None:
        """Take a segment back; its pages stay warm for the next one."""
        self._allocator.free(offset, size)

    def room(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """The owner's writable view of a range. Must never reach a user: a forked child has no such memory."""
        return self._bytes[offset : offset + nbytes]

    def trim(self) -> None:
        """Give the pages of all free ranges back to the kernel."""
        for start, end in self._allocator.chill():
            system.punch(self.fd, start, end - start)


def create(capacity: int) -> int:
    """The file for an arena of `capacity` bytes, or of the largest part of it that this process may map.

    Raises
    ------
    OSError
        When this system has no way to share memory without a name.
    """
    while True:
        fd = system.create_file("arrowpool", capacity)
        try:
            # A consumer maps the whole arena privately: what strict overcommit or RLIMIT_AS refuse shows here.
            system.unmap(system.map_private(fd, 0, capacity), capacity)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.ENOMEM or capacity <= 64 * system.PAGE:
                raise
            capacity = system.page_ceil(capacity // 2)
        else:
            return fd


def _close(fd: int, address: int, size: int, pid: int) -> None:
    if os.getpid() == pid:
        system.unmap(address, size)
        os.close(fd)
