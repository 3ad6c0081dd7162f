"""The memory files that the parts of this process's objects lie in.

- `MemoryFile`: one large part. Readers map it.
- `SmallParts`: all small parts. Readers copy them out, so the pages of a part are given back as soon as it is deleted.
- `LargeParts`: several large parts, where descriptors are short. Pages of a deleted part are given back once no other process has
  the file open, and the file is closed when all its parts are deleted.

Only the owner writes. Memory that readers have mapped stays unchanged until they drop it: the kernel says whether another process
has a file open (`platform.is_exclusive`). `Places` chooses the file of a part. It calls every method with its lock held, except
`write`, which changes only the memory of one part.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from arrowpool.memory import platform
from arrowpool.shelf import files
from arrowpool.shelf.catalogue import Location
from arrowpool.shelf.layout import Memory


class Place(ABC):
    """Memory set aside for one part."""

    location: Location
    #: Whether the memory may stay for a while after the part was deleted.
    lingers = True

    @abstractmethod
    def write(self, write: Callable[[Memory], None]) -> None:
        """Let `write` fill the memory."""


class MemoryFile(Place):
    """A memory file for one part. It stays mapped, so that a later part finds its pages present."""

    def __init__(self, size: int):
        self.fd = files.create(files.SHELF, size)
        self.size = size
        self._mapped = platform.page_ceil(size)
        self._address = 0
        #: Whether all its pages exist and are mapped.
        self._is_warm = False
        try:
            self.inode = os.fstat(self.fd).st_ino
            self._address = platform.map_shared(self.fd, self._mapped)
        except BaseException:
            self.close()
            raise

    @property
    def location(self) -> Location:  # type: ignore[override]
        return Location(self.fd, self.inode, 0, self.size)

    def write(self, write: Callable[[Memory], None]) -> None:
        if not self._is_warm:
            _populate(self.fd, self._address, 0, self.size)
            self._is_warm = True
        write(platform.bytes_at(self._address, self.size))

    def take_for(self, size: int) -> bool:
        """Shrink the file for another part if no other process has it open; return whether that was done."""
        if not size <= self.size <= 2 * size + platform.PAGE or not platform.is_exclusive(self.fd):
            return False
        os.ftruncate(self.fd, size)
        self.size = size
        return True

    def close(self) -> None:
        """Close the file. Readers that have it open keep it."""
        self.forget()
        address, self._address = self._address, 0
        if address:
            platform.unmap(address, self._mapped)

    def forget(self) -> None:
        """Close the file in a forked child, which has the descriptor but not the map."""
        # The attribute first: after the close, the number may belong to another file, and a child may be forked at that moment.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class SharedPlace(Place):
    """Memory set aside for a part in a file of several parts."""

    def __init__(self, file: SharedFile, location: Location):
        self.file = file
        self.location = location
        self.lingers = isinstance(file, LargeParts)

    def write(self, write: Callable[[Memory], None]) -> None:
        self.file.write(self.location, write)


class SharedFile(ABC):
    """A memory file for several parts, each on pages of its own."""

    def __init__(self) -> None:
        self.fd = files.create(files.SHELF, 0)
        self.inode = os.fstat(self.fd).st_ino
        #: The offset of the next part, how many parts were ever added, and how many of them are not deleted.
        self.end = 0
        self.added = 0
        self.live = 0

    def add(self, size: int) -> SharedPlace:
        """Set pages aside for a part."""
        platform.set_size(self.fd, self.end + platform.page_ceil(size))
        location = Location(self.fd, self.inode, self.end, size)
        self.end += platform.page_ceil(size)
        self.added += 1
        self.live += 1
        return SharedPlace(self, location)

    @abstractmethod
    def write(self, location: Location, write: Callable[[Memory], None]) -> None: ...

    @abstractmethod
    def free(self, location: Location) -> None:
        """Take back the pages of a part that was deleted."""

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class SmallParts(SharedFile):
    """The file of all small parts. Freed pages are reused for parts of as many pages: there are few such sizes."""

    def __init__(self) -> None:
        super().__init__()
        #: Offsets of free pages, by their size in bytes.
        self._free: dict[int, list[int]] = {}

    def add(self, size: int) -> SharedPlace:
        free = self._free.get(platform.page_ceil(size))
        if not free:
            return super().add(size)
        self.live += 1
        return SharedPlace(self, Location(self.fd, self.inode, free.pop(), size))

    def write(self, location: Location, write: Callable[[Memory], None]) -> None:
        memory = np.zeros(location.size, dtype=np.uint8)
        write(memory)
        if not platform.is_in_memory(self.fd):
            platform.reserve(self.fd, location.offset, location.size)
        done = 0
        try:
            while done < location.size:
                done += os.pwrite(self.fd, memory[done:].data, location.offset + done)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC):
                raise
            raise MemoryError(f"the kernel has no memory for {location.size} more bytes of shared memory") from error

    def free(self, location: Location) -> None:
        self.live -= 1
        if self.live == 0:
            os.ftruncate(self.fd, 0)
            self.end = 0
            self._free.clear()
        else:
            pages = platform.page_ceil(location.size)
            platform.punch(self.fd, location.offset, pages)
            self._free.setdefault(pages, []).append(location.offset)


class LargeParts(SharedFile):
    """A file of several large parts."""

    def __init__(self) -> None:
        super().__init__()
        #: Deleted parts that another process may have mapped.
        self.pending: list[Location] = []

    def write(self, location: Location, write: Callable[[Memory], None]) -> None:
        mapped = location.offset + platform.page_ceil(location.size)
        address = platform.map_shared(self.fd, mapped)
        try:
            _populate(self.fd, address, location.offset, location.size)
            write(platform.bytes_at(address + location.offset, location.size))
        finally:
            platform.unmap(address, mapped)

    def free(self, location: Location) -> None:
        self.live -= 1
        self.pending.append(location)
        self.give_back()

    def give_back(self) -> None:
        """Give back the pages of deleted parts, if no other process has the file open."""
        if self.pending and self.live and platform.is_exclusive(self.fd):
            for location in self.pending:
                platform.punch(self.fd, location.offset, platform.page_ceil(location.size))
            self.pending.clear()


def _populate(fd: int, address: int, offset: int, size: int) -> None:
    if not platform.is_in_memory(fd):
        platform.reserve(fd, offset, size)
    platform.populate(address + offset, platform.page_ceil(size))
