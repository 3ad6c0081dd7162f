"""Linux: files in memory, how their owner and their consumers map them, and their pages.

A module for another system has the same public names.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform

from arrowpool.memory import facilities
from arrowpool.memory.platform.files import set_size
from arrowpool.memory.platform.raw import MAP_FIXED, MAP_PRIVATE, MAP_SHARED, advise, libc, map_at

_MAP_NORESERVE = (
    0x40 if platform.machine().startswith(("ppc", "sparc")) else 0x400 if "mips" in platform.machine() else 0x4000
)
_MADV_DONTNEED, _MADV_REMOVE, _MADV_DONTFORK = 4, 9, 10
_MADV_HUGEPAGE, _MADV_DONTDUMP, _MADV_POPULATE_WRITE = 14, 16, 23
_FALLOC_PUNCH_HOLE, _FALLOC_KEEP_SIZE = 2, 1
_F_ADD_SEALS, _F_GET_SEALS, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 1034, 2, 4
_SEALS = _F_SEAL_SHRINK | _F_SEAL_GROW
_RENAME_EXCHANGE = 2
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2


def create_memory(name: str, size: int) -> int:
    """Return a descriptor of a new, sparse, nameless file of `size` bytes that lies in memory (a memfd).

    The size of ``/dev/shm`` does not limit it, and the kernel frees it with its last process.

    Raises
    ------
    OSError
        When this system has no memfd.
    """
    fd = _memfd_create(name)
    try:
        set_size(fd, size)
        # Sealed: if a process could shorten the file, its readers would get SIGBUS.
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def exchange(directory: int, one: str, other: str) -> bool:
    """Exchange two names in one step; return False where the system cannot.

    Raises
    ------
    OSError
        When one of them is not there.
    """
    try:
        rename = libc.renameat2
    except AttributeError:  # the C library is old
        return False
    if rename(directory, one.encode(), directory, other.encode(), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    # The file system or the kernel does not have it, or a seccomp filter refuses it.
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), one, None, other)


def glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc: with `mallopt` and `malloc_trim`."""
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None


def create_resizable(name: str, size: int) -> int:
    """As `create_memory`, without seals: the owner changes the size when `is_exclusive` says that it may."""
    fd = _memfd_create(name)
    try:
        set_size(fd, size)
        with contextlib.suppress(OSError):
            # Opened again by its path: the kernel counts only such opens, and `is_exclusive` depends on that count.
            counted = open_again(fd, os.O_RDWR)
            os.close(fd)
            fd = counted
    except BaseException:
        os.close(fd)
        raise
    return fd


def _memfd_create(name: str) -> int:
    if not facilities.has("memfd"):
        raise OSError(errno.ENOSYS, "memfd is excluded")
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    # Some builds of Python lack it.
    try:
        create = libc.memfd_create
    except AttributeError as error:
        raise OSError(errno.ENOSYS, "this C library has no memfd_create") from error
    fd: int = create(name.encode(), _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_create failed")
    return fd


def is_exclusive(fd: int) -> bool:
    """Whether all descriptors and maps of the file are duplicates of this descriptor, or maps made by it.

    The kernel grants a write lease under that condition only. False where there are no leases.
    """
    command = getattr(fcntl, "F_SETLEASE", None)  # some builds of Python lack it
    if command is None or not facilities.has("lease"):
        return False
    try:
        fcntl.fcntl(fd, command, fcntl.F_WRLCK)
        fcntl.fcntl(fd, command, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def is_memfd(fd: int) -> bool:
    """Whether the file was made by `create_memory`."""
    return _seals(fd) & _SEALS == _SEALS


def is_in_memory(fd: int) -> bool:
    """Whether the file is a memfd of either kind: it belongs to no file system that could be full."""
    return os.fstatvfs(fd).f_blocks == 0


def is_on_disk(fd: int) -> bool:
    """Whether the file lies on a file system that is not memory."""
    # A memfd has no file system, even where the kernel does not report its seals.
    return not is_in_memory(fd) and _seals(fd) < 0


def _seals(fd: int) -> int:
    """The seals of a file; -1 for a file that cannot have seals. Only files in memory can."""
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return -1


def open_again(fd: int, flags: int) -> int:
    """Open the file behind a descriptor once more, not as a duplicate: with flags, locks and an owner of its own.

    Raises
    ------
    OSError
        Without ``/proc``, or when no descriptor is free.
    """
    return os.open(facilities.proc(f"self/fd/{fd}"), flags | os.O_CLOEXEC)


def read_only(fd: int) -> int:
    """A second descriptor of the same file, through which the kernel refuses shared writable maps. Without ``/proc``, a duplicate.

    A write seal would have the same effect, but it also keeps the owner from punching holes.
    """
    try:
        return open_again(fd, os.O_RDONLY)
    except OSError:
        return os.dup(fd)


def open_of(pid: int, fd: int, inode: int) -> int:
    """Open, for reading, the file that another process of this user has open as descriptor `fd`.

    Raises
    ------
    OSError
        When this process may not do that, or when the file has another inode.
    """
    opened = os.open(facilities.proc(f"{pid}/fd/{fd}"), os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(opened).st_ino != inode:
        os.close(opened)
        raise FileNotFoundError(errno.ENOENT, f"descriptor {fd} of process {pid} now belongs to another file")
    return opened


def may_open_of(pid: int) -> bool:
    """Whether this process may open the descriptors of another process."""
    try:
        os.listdir(facilities.proc(f"{pid}/fd"))
    except OSError:
        return False
    return True


def map_shared(fd: int, size: int) -> int:
    """Map the file for its owner: writable, shared, and absent from forked children."""
    address = map_at(fd, 0, size, MAP_SHARED)
    advise(address, size, _MADV_DONTFORK)
    advise(address, size, _MADV_DONTDUMP)
    # Fresh pages of 2 MB cost a fraction, where the system has them for shared memory that asks (`shmem_enabled`: advise).
    advise(address, size, _MADV_HUGEPAGE)
    return address


def map_page(fd: int, size: int, offset: int = 0) -> int:
    """Map a range for processes that both write to it, and for their forked children."""
    return map_at(fd, offset, size, MAP_SHARED)


def map_private(fd: int, offset: int, size: int) -> int:
    """Map a range for a consumer: writable, and copy on write, so that no write reaches the file."""
    address = map_at(fd, offset, size, MAP_PRIVATE | _MAP_NORESERVE)
    advise(address, size, _MADV_DONTDUMP)
    return address


def map_again(address: int, size: int, fd: int, offset: int) -> bool:
    """Replace the map at an address by a new private map of a range. Return False when that fails.

    After a failure the address may have no map: do not unmap it.
    """
    try:
        map_at(fd, offset, size, MAP_PRIVATE | _MAP_NORESERVE | MAP_FIXED, address)
    except OSError:
        return False
    advise(address, size, _MADV_DONTDUMP)
    return True


def drop_pages(start: int, end: int) -> None:
    """Ask the kernel to drop the data that was written to these pages of a private map. `pages` checks whether it has."""
    advise(start, end - start, _MADV_DONTNEED)


def populate(address: int, size: int) -> None:
    """Allocate and map the pages of a shared map, in one call instead of one fault each.

    Raises
    ------
    MemoryError
        When the kernel has no memory for them. Touching them would cause SIGBUS.
    """
    code = advise(address, size, _MADV_POPULATE_WRITE)
    # EINVAL: kernels before 5.14 do not have this advice. Pages are then allocated one by one as they are written.
    if code in (errno.ENOMEM, errno.EFAULT):
        raise MemoryError(f"the kernel has no memory for {size} more bytes of shared memory")


def punch_mapped(address: int, size: int) -> bool:
    """As `punch`, through a shared map of the range."""
    return advise(address, size, _MADV_REMOVE) == 0


def punch(fd: int, offset: int, size: int) -> bool:
    """Give the pages of a range of the file back to the kernel; False where the file system cannot."""
    if not facilities.has("fallocate") or not hasattr(libc, "fallocate"):
        return False
    mode = ctypes.c_int(_FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE)
    result: int = libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size))
    return result == 0
