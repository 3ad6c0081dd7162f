"""System calls: anonymous files, raw maps, and giving pages back.

Code for Linux only is in this file, so that a version for another system can be added next to it. Addresses and sizes are in
bytes, and page-aligned. Maps are raw, not `mmap.mmap` objects: a forked child does not inherit some of them, and an `mmap.mmap`
object in the child would unmap other memory that lies at that address by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import resource
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrowpool.memory import facilities

PAGE = os.sysconf("SC_PAGESIZE")

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED = 1, 2, 0x10
_MAP_NORESERVE = (
    0x40 if platform.machine().startswith(("ppc", "sparc")) else 0x400 if "mips" in platform.machine() else 0x4000
)
_MADV_DONTNEED, _MADV_DONTFORK, _MADV_HUGEPAGE, _MADV_DONTDUMP, _MADV_POPULATE_WRITE = 4, 10, 14, 16, 23
_FALLOC_PUNCH_HOLE, _FALLOC_KEEP_SIZE = 2, 1
_F_ADD_SEALS, _F_GET_SEALS, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 1034, 2, 4
_SEALS = _F_SEAL_SHRINK | _F_SEAL_GROW
_IPC_CREAT, _IPC_RMID = 0o1000, 0
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
#: Bytes of zeros written at a time, where a file system reserves blocks only for written data.
_ZEROS = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.shmat.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def page_ceil(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


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


def set_size(fd: int, size: int) -> None:
    """Make a file longer or shorter.

    Raises
    ------
    OSError
        When there is no room, or the process may not have files of this size (RLIMIT_FSIZE). The kernel would also send SIGXFSZ
        then, which ends a program that does not ignore it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and size > limit:
        raise OSError(
            errno.EFBIG, f"{os.strerror(errno.EFBIG)}: {size:,} bytes, and the limit (ulimit -f) is {limit:,}"
        )
    os.ftruncate(fd, size)


def _memfd_create(name: str) -> int:
    if not facilities.has("memfd"):
        raise OSError(errno.ENOSYS, "memfd is excluded")
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    # Some builds of Python lack it.
    try:
        create = _libc.memfd_create
    except AttributeError as error:
        raise OSError(errno.ENOSYS, "this C library has no memfd_create") from error
    fd: int = create(name.encode(), _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_create failed")
    return fd


def create_unlinked(name: str, size: int, directory: str) -> int:
    """Return a descriptor of a new, sparse file of `size` bytes in `directory`, without a name.

    Raises
    ------
    OSError
        When the directory cannot be written to.
    """
    fd, path = tempfile.mkstemp(prefix=name, dir=directory)
    try:
        os.unlink(path)
        set_size(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_segment(size: int) -> int:
    """The number of a new System V segment of shared memory. It needs no file system. `attach_segment` marks it for removal.

    Raises
    ------
    OSError
        When this system has no such segments.
    """
    number: int = _libc.shmget(0, ctypes.c_size_t(size), _IPC_CREAT | 0o600)
    if number < 0:
        raise OSError(ctypes.get_errno(), "shmget failed")
    return number


def attach_segment(number: int, size: int) -> memoryview:
    """The memory of such a segment. The kernel frees it with the last process that has attached it.

    Raises
    ------
    OSError
        When it cannot be attached.
    """
    address: int | None = _libc.shmat(number, None, 0)
    code = ctypes.get_errno()
    # After this, Linux lets other processes attach the segment while one process has it.
    _libc.shmctl(number, _IPC_RMID, None)
    if address is None or address == _MAP_FAILED:
        raise OSError(code, f"cannot attach a segment: {os.strerror(code)}")
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, _libc.shmdt, ctypes.c_void_p(address)).atexit = False
    return memoryview(memory).cast("B")


def create_resizable(name: str, size: int) -> int:
    """As `create_memory`, without seals: the owner changes the size when `is_exclusive` says that it may."""
    fd = _memfd_create(name)
    try:
        set_size(fd, size)
        with contextlib.suppress(OSError):
            # Opened again by its path: the kernel counts only such opens, and `is_exclusive` depends on that count.
            counted = os.open(facilities.proc(f"self/fd/{fd}"), os.O_RDWR | os.O_CLOEXEC)
            os.close(fd)
            fd = counted
    except BaseException:
        os.close(fd)
        raise
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


def read_only(fd: int) -> int:
    """A second descriptor of the same file, through which the kernel refuses shared writable maps. Without ``/proc``, a duplicate.

    A write seal would have the same effect, but it also keeps the owner from punching holes.
    """
    try:
        return os.open(facilities.proc(f"self/fd/{fd}"), os.O_RDONLY | os.O_CLOEXEC)
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


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """New private memory that begins at a multiple of 64 bytes."""
    memory = np.empty(nbytes + 63, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


def bytes_at(address: int, nbytes: int) -> NDArray[np.uint8]:
    """An array over memory of this process. The caller keeps the memory alive."""
    memory: Any = (ctypes.c_ubyte * nbytes).from_address(address)
    view: NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
    return view


def are_equal(address: int, other: int, nbytes: int) -> bool:
    """Whether two ranges of memory have the same bytes. Runs without the interpreter's lock."""
    return bool(_libc.memcmp(address, other, nbytes) == 0)


def map_shared(fd: int, size: int) -> int:
    """Map the file for its owner: writable, shared, and absent from forked children."""
    address = _map(fd, 0, size, _MAP_SHARED)
    _advise(address, size, _MADV_DONTFORK)
    _advise(address, size, _MADV_DONTDUMP)
    # Fresh pages of 2 MB cost a fraction, where the system has them for shared memory that asks (`shmem_enabled`: advise).
    _advise(address, size, _MADV_HUGEPAGE)
    return address


def map_page(fd: int, size: int) -> int:
    """Map the file for two processes that both write to it, and for their forked children."""
    return _map(fd, 0, size, _MAP_SHARED)


def map_private(fd: int, offset: int, size: int) -> int:
    """Map a range for a consumer: writable, and copy on write, so that no write reaches the file."""
    address = _map(fd, offset, size, _MAP_PRIVATE | _MAP_NORESERVE)
    _advise(address, size, _MADV_DONTDUMP)
    return address


def map_again(address: int, size: int, fd: int, offset: int) -> bool:
    """Replace the map at an address by a new private map of a range. Return False when that fails.

    After a failure the address may have no map: do not unmap it.
    """
    try:
        _map(fd, offset, size, _MAP_PRIVATE | _MAP_NORESERVE | _MAP_FIXED, address)
    except OSError:
        return False
    _advise(address, size, _MADV_DONTDUMP)
    return True


def _map(fd: int, offset: int, size: int, flags: int, where: int | None = None) -> int:
    address: int | None = _libc.mmap(where, size, _PROT_READ | _PROT_WRITE, flags, fd, offset)
    if address is None or address == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {size} bytes: {os.strerror(code)}")
    return address


def unmap(address: int, size: int) -> bool:
    """Remove a map that this module made. Return False when that fails."""
    return bool(_libc.munmap(address, size) == 0)


def drop_pages(start: int, end: int) -> None:
    """Ask the kernel to drop the data that was written to these pages of a private map. `pages` checks whether it has."""
    _advise(start, end - start, _MADV_DONTNEED)


def ioctl(fd: int, request: int, argument: ctypes.Structure) -> int:
    """The result of the system call; negative for an error."""
    answer: int = _libc.ioctl(fd, ctypes.c_ulong(request), ctypes.byref(argument))
    return answer


def _advise(address: int, size: int, advice: int) -> int:
    """Advise the kernel; return 0, or the error number."""
    return 0 if _libc.madvise(address, size, advice) == 0 else ctypes.get_errno()


def populate(address: int, size: int) -> None:
    """Allocate and map the pages of a shared map, in one call instead of one fault each.

    Raises
    ------
    MemoryError
        When the kernel has no memory for them. Touching them would cause SIGBUS.
    """
    code = _advise(address, size, _MADV_POPULATE_WRITE)
    # EINVAL: kernels before 5.14 do not have this advice. Pages are then allocated one by one as they are written.
    if code in (errno.ENOMEM, errno.EFAULT):
        raise MemoryError(f"the kernel has no memory for {size} more bytes of shared memory")


def punch(fd: int, offset: int, size: int) -> bool:
    """Give the pages of a range of the file back to the kernel; False where the file system cannot."""
    if not facilities.has("fallocate") or not hasattr(_libc, "fallocate"):
        return False
    mode = ctypes.c_int(_FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE)
    result: int = _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size))
    return result == 0
