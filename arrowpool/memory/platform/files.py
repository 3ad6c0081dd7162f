"""Files without a name, on any file system: their size and their blocks."""

from __future__ import annotations

import errno
import os
import sys
import tempfile

from arrowpool.memory import facilities
from arrowpool.memory.platform.posix import UNLIMITED, file_size_limit

#: Bytes of zeros written at a time, where a file system reserves blocks only for written data.
_ZEROS = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def create_unlinked(name: str, size: int, directory: str, *, for_readers: bool = False) -> int:
    """Return a descriptor of a new, sparse file of `size` bytes in `directory`, without a name.

    With `for_readers`, `read_only` may be called for it, and `close_file` has to be.

    Raises
    ------
    OSError
        When the directory cannot be written to.
    """
    fd, path = tempfile.mkstemp(prefix=name, dir=directory)
    try:
        if for_readers and not _OPENS_AGAIN:
            _keep_reader(fd, path)
        os.unlink(path)
        set_size(fd, size)
    except BaseException:
        close_file(fd)
        raise
    return fd


#: Whether the system opens a file again by its descriptor: see `open_again`.
_OPENS_AGAIN = sys.platform == "linux" and facilities.has("linux")
#: Elsewhere: a descriptor for reading of each file that was made with `for_readers`, by device and inode. It keeps the inode in use, so no
#: other file gets its number. Any thread adds, looks up and removes, with one atomic operation each.
_readers: dict[tuple[int, int], int] = {}


def _keep_reader(fd: int, path: str) -> None:
    status = os.fstat(fd)
    _readers[status.st_dev, status.st_ino] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def read_only(fd: int) -> int:
    """A second descriptor of a file, for reading if it was made with `for_readers`. For systems without `open_again`."""
    status = os.fstat(fd)
    return os.dup(_readers.get((status.st_dev, status.st_ino), fd))


def close_file(fd: int) -> None:
    """Close a file, and what is kept for `read_only` of it."""
    if _readers:
        status = os.fstat(fd)
        reader = _readers.pop((status.st_dev, status.st_ino), -1)
        if reader >= 0:
            os.close(reader)
    os.close(fd)


def set_size(fd: int, size: int) -> None:
    """Make a file longer or shorter.

    Raises
    ------
    OSError
        When there is no room, or the process may not have files of this size (RLIMIT_FSIZE). The kernel would also send SIGXFSZ
        then, which ends a program that does not ignore it.
    """
    limit = file_size_limit()
    if limit != UNLIMITED and size > limit:
        raise OSError(
            errno.EFBIG, f"{os.strerror(errno.EFBIG)}: {size:,} bytes, and the limit (ulimit -f) is {limit:,}"
        )
    os.ftruncate(fd, size)


def reserve(fd: int, offset: int, size: int) -> None:
    """Reserve blocks of the file system for a range without data, so that a write to it cannot fail.

    Raises
    ------
    MemoryError
        When the file system has no blocks left. Touching the range would cause SIGBUS.
    """
    try:
        if _fallocates():
            os.posix_fallocate(fd, offset, size)
            return
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _no_room(size) from error
        # Any other error: the file system, or a seccomp filter, refuses the call.
    _write_zeros(fd, offset, size)


def _fallocates() -> bool:
    return hasattr(os, "posix_fallocate") and facilities.has("fallocate")


def _write_zeros(fd: int, offset: int, size: int) -> None:
    room = os.fstatvfs(fd)
    if size > room.f_bavail * room.f_frsize:
        raise _no_room(size)
    zeros = bytes(min(size, _ZEROS))
    end = offset + size
    try:
        while offset < end:
            offset += os.pwrite(fd, zeros[: end - offset], offset)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _no_room(size) from error
        raise


def _no_room(size: int) -> MemoryError:
    return MemoryError(f"the file system has no space for {size} more bytes")
