"""Raw maps of memory, by the C library: what all POSIX systems have. A system's own module adds flags and advice.

Addresses and sizes are in bytes, and page-aligned. Maps are raw, not `mmap.mmap` objects: a forked child does not inherit some of
them, and an `mmap.mmap` object in the child would unmap other memory that lies at that address by then.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = os.sysconf("SC_PAGESIZE")
MAP_SHARED, MAP_PRIVATE, MAP_FIXED = 1, 2, 0x10

_PROT_READ, _PROT_WRITE = 1, 2
#: The address by which the C library says that it could not map.
MAP_FAILED = ctypes.c_void_p(-1).value

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def page_ceil(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """New private memory that begins at a multiple of 64 bytes."""
    memory = np.empty(nbytes + 63, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


def bytes_at(address: int, nbytes: int, owner: Any = None) -> NDArray[np.uint8]:
    """An array over memory of this process, which `owner` keeps alive, or the caller."""
    memory: Any = (ctypes.c_ubyte * nbytes).from_address(address)
    memory.owner = owner
    view: NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
    return view


def are_equal(address: int, other: int, nbytes: int) -> bool:
    """Whether two ranges of memory have the same bytes. Runs without the interpreter's lock."""
    return bool(libc.memcmp(address, other, nbytes) == 0)


def map_at(fd: int, offset: int, size: int, flags: int, where: int | None = None) -> int:
    """Map a range of a file, readable and writable; return the address.

    Raises
    ------
    OSError
        When it cannot be mapped.
    """
    address: int | None = libc.mmap(where, size, _PROT_READ | _PROT_WRITE, flags, fd, offset)
    if address is None or address == MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {size} bytes: {os.strerror(code)}")
    return address


def unmap(address: int, size: int) -> bool:
    """Remove a map that `map_at` made. Return False when that fails."""
    return bool(libc.munmap(address, size) == 0)


def advise(address: int, size: int, advice: int) -> int:
    """Advise the kernel; return 0, or the error number."""
    return 0 if libc.madvise(address, size, advice) == 0 else ctypes.get_errno()
