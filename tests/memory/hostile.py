"""What a process may do to itself that takes from us what we rely on: memory locked, system calls refused. In a child, then."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_MCL_CURRENT, _MCL_ONFAULT = 1, 4
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_SECCOMP_RET_ERRNO, _SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
#: linux/audit.h, and numbers of system calls.
_ARCHITECTURES = {
    "x86_64": (
        0xC000003E,
        {"madvise": 28, "fallocate": 285, "memfd_create": 319, "mmap": 9, "munmap": 11, "fcntl": 72},
    ),
    "aarch64": (0xC00000B7, {"madvise": 233, "fallocate": 47, "memfd_create": 279, "mmap": 222, "munmap": 215}),
}


def lock_memory():
    """Pages that are touched stay: `MADV_DONTNEED` fails."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_ONFAULT) != 0:
        raise OSError(ctypes.get_errno(), "mlockall")


def refuse(*calls, code=1):
    """From now on these system calls fail with this error number (EPERM); 0 has them do nothing and report success."""
    audit, numbers = _ARCHITECTURES[platform.machine()]
    load, jump_equal, back = 0x20, 0x15, 0x06  # of the Berkeley packet filter: ld [k], jeq, ret
    program = [(load, 0, 0, 4), (jump_equal, 1, 0, audit), (back, 0, 0, _SECCOMP_RET_ALLOW), (load, 0, 0, 0)]
    for call in calls:
        program += [(jump_equal, 0, 1, numbers[call]), (back, 0, 0, _SECCOMP_RET_ERRNO | code)]
    program.append((back, 0, 0, _SECCOMP_RET_ALLOW))
    code_bytes = b"".join(struct.pack("HBBI", *one) for one in program)
    buffer = ctypes.create_string_buffer(code_bytes)
    head = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(buffer)))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


needs_seccomp = pytest.mark.skipif(platform.machine() not in _ARCHITECTURES, reason="system call numbers")


def in_child(run):
    """Whether `run`, in a forked child, returned True."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if run() is True else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
