"""What a process may find itself in, each a function that makes it so for this process and all that it starts.

`REFUSALS` are system calls that a filter refuses (seccomp, as containers use it); `SURROUNDINGS` is the rest. They are for a child
process: none of it can be undone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from arrowpool.memory import facilities

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RETURN_ERRNO, _RETURN_ALLOW = 0x00050000, 0x7FFF0000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ARGUMENTS_AT = 16
_CLONE_NEWNS, _MNT_DETACH, _MS_REC_PRIVATE = 0x20000, 2, 0x44000
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

#: Numbers of system calls, which differ between machines.
_NUMBERS = {
    "x86_64": {
        "fallocate": 285,
        "fcntl": 72,
        "ioctl": 16,
        "madvise": 28,
        "memfd_create": 319,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "prctl": 157,
        "process_vm_readv": 310,
        "sched_getaffinity": 204,
    },
    "aarch64": {
        "fallocate": 47,
        "fcntl": 25,
        "ioctl": 29,
        "madvise": 233,
        "memfd_create": 279,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "prctl": 167,
        "process_vm_readv": 270,
        "sched_getaffinity": 123,
    },
}.get(platform.machine(), {})


@dataclass(frozen=True)
class Refused:
    """A system call that is refused; with `argument`, only where its second argument is that."""

    name: str
    argument: int | None = None


REFUSALS = {
    "madvise": Refused("madvise"),
    "memfd_create": Refused("memfd_create"),
    "fallocate": Refused("fallocate"),
    "pidfd_open": Refused("pidfd_open"),
    "pidfd_send_signal": Refused("pidfd_send_signal"),
    "process_vm_readv": Refused("process_vm_readv"),
    "prctl": Refused("prctl"),
    "sched_getaffinity": Refused("sched_getaffinity"),
    "PAGEMAP_SCAN": Refused("ioctl", 0xC0606610),
    "F_SETLEASE": Refused("fcntl", 1024),
    "F_SETSIG": Refused("fcntl", 10),
    "F_SETOWN": Refused("fcntl", 8),
    "F_ADD_SEALS": Refused("fcntl", 1033),
    "F_GET_SEALS": Refused("fcntl", 1034),
}


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction))]


def refuse(*refused: Refused, errno: int) -> None:
    """Have the kernel answer these system calls of this process and all its children with an error, from now on."""
    if not _NUMBERS:
        pytest.skip(f"no numbers of system calls for {platform.machine()}")
    code = []
    for one in refused:
        code.append(_Instruction(_LOAD_WORD, 0, 0, 0))
        number = _NUMBERS[one.name]
        if one.argument is None:
            code.append(_Instruction(_JUMP_IF_EQUAL, 0, 1, number))
        else:
            code.append(_Instruction(_JUMP_IF_EQUAL, 0, 3, number))
            code.append(_Instruction(_LOAD_WORD, 0, 0, _ARGUMENTS_AT + 8))
            code.append(_Instruction(_JUMP_IF_EQUAL, 0, 1, one.argument))
        code.append(_Instruction(_RETURN, 0, 0, _RETURN_ERRNO | errno))
    code.append(_Instruction(_RETURN, 0, 0, _RETURN_ALLOW))
    program = _Program(len(code), (_Instruction * len(code))(*code))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _call(name, *arguments):
    if getattr(_libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def do_without(names: str) -> None:
    """Have the package take these facilities for missing; see `arrowpool.memory.facilities`."""
    os.environ["ARROWPOOL_WITHOUT"] = names
    facilities._without.cache_clear()


def lock_memory():
    """As services do that must not wait for a disk."""
    _call("mlockall", _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def lock_what_is_there():
    _call("mlockall", _MCL_CURRENT | _MCL_ONFAULT)


def _needs_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")


def _own_mounts():
    _needs_root()
    try:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", b"none", b"/", None, _MS_REC_PRIVATE, None)
    except OSError as error:
        pytest.skip(f"this container may not mount: {error}")


def _no_proc():
    _own_mounts()
    while os.path.exists("/proc/self"):
        _call("umount2", b"/proc", _MNT_DETACH)


def _nowhere_to_write():
    """No directory in which a file could be made."""
    _own_mounts()
    for path in (b"/tmp", b"/var/tmp", b"/dev/shm"):
        if os.path.isdir(path):
            _call("mount", b"none", path, b"tmpfs", 1, None)
    os.chdir("/")
    os.environ["TMPDIR"] = "/tmp"
    tempfile.tempdir = None


def _no_rights():
    _needs_root()
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def _handled(number):
    def handle():
        signal.signal(number, lambda *_: None)

    return handle


def _ignored(number):
    def ignore():
        signal.signal(number, signal.SIG_IGN)

    return ignore


def _default(number):
    def default():
        signal.signal(number, signal.SIG_DFL)

    return default


def _alarms():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)


def _blocked_signals():
    """As a server does that waits for them in one thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1})


def _limited(name, soft):
    def limit():
        limits = getattr(resource, name)
        resource.setrlimit(limits, (soft, resource.getrlimit(limits)[1]))

    return limit


def _files_of_1_mb():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as in programs in which Python is embedded
    _limited("RLIMIT_FSIZE", 1 << 20)()


def _little_data():
    # Above what this process has: where none is left, Python waits for ever for a thread that it has just started.
    status = Path("/proc/self/status").read_text()
    data = int(status.partition("VmData:")[2].split()[0]) << 10
    _limited("RLIMIT_DATA", data + (1 << 30))()


def _closed(*descriptors):
    def close():
        sys.stdout = sys.stderr = sys.stdin = None
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def _many_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for _ in range(1100):
        os.dup(0)


def _removed_directory():
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    shutil.rmtree(directory)


def _eager_collector():
    gc.set_threshold(1, 1, 1)


def _eager_switches():
    sys.setswitchinterval(1e-6)


def _traced():
    def trace(*_):
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


SURROUNDINGS: dict[str, Callable[[], None]] = {
    "locked memory": lock_memory,
    "no /proc": _no_proc,
    "nowhere to write": _nowhere_to_write,
    "no rights": _no_rights,
    "a handler for SIGTERM": _handled(signal.SIGTERM),
    "a handler for SIGINT": _handled(signal.SIGINT),
    "a handler for SIGCHLD": _handled(signal.SIGCHLD),
    "a handler for SIGPIPE": _handled(signal.SIGPIPE),
    "SIGTERM ignored": _ignored(signal.SIGTERM),
    "SIGCHLD ignored": _ignored(signal.SIGCHLD),
    "SIGPIPE not ignored": _default(signal.SIGPIPE),
    "alarms all the time": _alarms,
    "signals blocked": _blocked_signals,
    "files of 1 MB at most": _limited("RLIMIT_FSIZE", 1 << 20),
    "files of 1 MB at most, SIGXFSZ not ignored": _files_of_1_mb,
    "no locked memory allowed": _limited("RLIMIT_MEMLOCK", 0),
    "no signals queued": _limited("RLIMIT_SIGPENDING", 0),
    "small stacks": _limited("RLIMIT_STACK", 256 << 10),
    "1 GB more of data": _little_data,
    "no core": _limited("RLIMIT_CORE", 0),
    "stdin closed": _closed(0),
    "stdin, stdout and stderr closed": _closed(0, 1, 2),
    "1,100 descriptors open": _many_descriptors,
    "a directory that was removed": _removed_directory,
    "umask 0777": lambda: os.umask(0o777) and None,
    "an empty environment": os.environ.clear,
    "a collection at every object": _eager_collector,
    "threads that switch all the time": _eager_switches,
    "a tracer": _traced,
}


@contextlib.contextmanager
def no_descriptor_left():
    """Not one more descriptor can be had."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(len(os.listdir("/proc/self/fd")) + 64, before[1]), before[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
