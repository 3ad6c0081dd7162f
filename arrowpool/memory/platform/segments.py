"""System V segments: shared memory that needs no file system. For the control page, where no file can be made."""

from __future__ import annotations

import ctypes
import os
import weakref

from arrowpool.memory.platform.raw import MAP_FAILED, libc

_IPC_CREAT, _IPC_RMID = 0o1000, 0

libc.shmat.restype = ctypes.c_void_p


def create_segment(size: int) -> int:
    """The number of a new System V segment of shared memory. It needs no file system. `attach_segment` marks it for removal.

    Raises
    ------
    OSError
        When this system has no such segments.
    """
    number: int = libc.shmget(0, ctypes.c_size_t(size), _IPC_CREAT | 0o600)
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
    address: int | None = libc.shmat(number, None, 0)
    code = ctypes.get_errno()
    # After this, Linux lets other processes attach the segment while one process has it.
    libc.shmctl(number, _IPC_RMID, None)
    if address is None or address == MAP_FAILED:
        raise OSError(code, f"cannot attach a segment: {os.strerror(code)}")
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, libc.shmdt, ctypes.c_void_p(address)).atexit = False
    return memoryview(memory).cast("B")
