"""macOS: unlinked files, how their owner and their consumers map them, and how a worker learns of its parent's end.

Written for macOS, and not yet run there. ``ARROWPOOL_WITHOUT=linux`` makes Linux use this module: the calls that both systems have are
the same, and those that only macOS has fail as its old versions do. What differs from Linux:

- No files in memory: an arena is an unlinked file in the temporary directory, in the cache of the file system.
- ``MADV_DONTNEED`` only advises, so a private map is restored by mapping the range again. The numbers of other advice mean other
  things there (10, 16 and 23 are none of Linux's), so none is given.
- No file can be opened again by its descriptor: `create_unlinked` opens it for reading before it removes the name. Nor can
  that of another process: results are never lent.
- No signal comes from a pipe: a thread of the worker waits for its end.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable

from arrowpool.memory.platform.files import read_only as read_only
from arrowpool.memory.platform.posix import end_with
from arrowpool.memory.platform.raw import MAP_FIXED, MAP_PRIVATE, MAP_SHARED, libc, map_at

# sys/fcntl.h: ``struct fpunchhole``: flags, reserved, offset, length.
_F_PUNCHHOLE = 99
_HOLE = struct.Struct("=IIqq")
# mach/vm_inherit.h
_VM_INHERIT_NONE = 2
# sys/stdio.h
_RENAME_SWAP = 2


def create_memory(name: str, size: int) -> int:
    """There are no files in memory: raises OSError."""
    raise OSError(errno.ENOSYS, "this system has no files in memory")


create_resizable = create_memory


def is_exclusive(fd: int) -> bool:
    """False: the kernel does not say who else has a file open."""
    return False


def is_memfd(fd: int) -> bool:
    """False: there are none."""
    return False


def is_in_memory(fd: int) -> bool:
    """False: every file belongs to a file system that could be full."""
    return False


def is_on_disk(fd: int) -> bool:
    """True: the system writes pages of a file to its disk, sooner or later."""
    return True


def open_again(fd: int, flags: int) -> int:
    """Raises OSError: ``/dev/fd`` only duplicates a descriptor."""
    raise OSError(errno.ENOTSUP, "a file cannot be opened again by its descriptor")


def open_of(pid: int, fd: int, inode: int) -> int:
    """Raises OSError: there is no ``/proc``."""
    raise OSError(errno.ENOTSUP, "files of other processes cannot be opened")


def may_open_of(pid: int) -> bool:
    """False, as `open_of` says."""
    return False


def map_shared(fd: int, size: int) -> int:
    """Map the file for its owner: writable, shared, and absent from forked children."""
    address = map_at(fd, 0, size, MAP_SHARED)
    if hasattr(libc, "minherit"):
        libc.minherit(ctypes.c_void_p(address), ctypes.c_size_t(size), _VM_INHERIT_NONE)
    return address


def map_page(fd: int, size: int, offset: int = 0) -> int:
    """Map a range for processes that both write to it, and for their forked children."""
    return map_at(fd, offset, size, MAP_SHARED)


def map_private(fd: int, offset: int, size: int) -> int:
    """Map a range for a consumer: writable, and copy on write, so that no write reaches the file."""
    return map_at(fd, offset, size, MAP_PRIVATE)


def map_again(address: int, size: int, fd: int, offset: int) -> bool:
    """Replace the map at an address by a new private map of a range. Return False when that fails.

    After a failure the address may have no map: do not unmap it.
    """
    try:
        map_at(fd, offset, size, MAP_PRIVATE | MAP_FIXED, address)
    except OSError:
        return False
    return True


def drop_pages(start: int, end: int) -> None:
    """Nothing: no advice drops the data. `map_again` does."""


def populate(address: int, size: int) -> None:
    """Nothing: `reserve` has written zeros, so the range has its pages."""


def punch(fd: int, offset: int, size: int) -> bool:
    """Give the pages and blocks of a range of the file back; False where the file system cannot."""
    try:
        fcntl.fcntl(fd, _F_PUNCHHOLE, _HOLE.pack(0, 0, offset, size))
    except OSError:
        return False
    return True


def punch_mapped(address: int, size: int) -> bool:
    """False: there is no such call."""
    return False


def exchange(directory: int, one: str, other: str) -> bool:
    """Exchange two names in one step; return False where the file system cannot.

    Raises
    ------
    OSError
        When one of them is not there.
    """
    if not hasattr(libc, "renameatx_np"):
        return False
    if libc.renameatx_np(directory, one.encode(), directory, other.encode(), ctypes.c_uint(_RENAME_SWAP)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), one, None, other)


def glibc() -> None:
    """None: the C library is another one."""


def open_page_map() -> int:
    """Raises OSError: the kernel does not say which pages were written to."""
    raise OSError(errno.ENOSYS, "this system has no page map")


def written_pages(page_map: int, address: int, size: int, found: Callable[[int, int], object]) -> bool | None:
    """None: the kernel cannot tell."""
    return None


def watch_end(pid: int) -> int:
    """Raises OSError: the sentinel of `multiprocessing` is the substitute."""
    raise OSError(errno.ENOSYS, "no descriptors of processes")


def tie(pid: int, lifeline: int) -> None:
    """Raises OSError: no signal comes from a pipe."""
    raise OSError(errno.ENOSYS, "no signals from pipes")


def die_with_parent(lifeline: int) -> None:
    """Make this process end within moments of its parent, unless compiled code keeps the interpreter's lock."""
    end_with(lifeline)
