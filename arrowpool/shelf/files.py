"""Memory files that other processes of this user may open: how they are made, opened and recognised.

Descriptors that are opened here are open for writing, or non-blocking. Descriptors that a user opens by the path of an object are
neither.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time

from arrowpool.errors import ArenaFullError
from arrowpool.memory import facilities, platform

_PREFIX = "arrowpool-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: The names of such files, or the beginnings of the names.
SHELF, CATALOGUE = "shelf", "catalogue-"
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: Whether this process has ever had such a file open. Any thread sets it, and never to False.
_is_used = False


def create(name: str, size: int) -> int:
    """The descriptor of a new memory file; where the system has none, of an unlinked file.

    Raises
    ------
    OSError
        When no such file can be made.
    """
    global _is_used
    _is_used = True
    try:
        fd = platform.create_resizable(_PREFIX + name, size)
    except OSError as error:
        if error.errno in _SHORT:
            raise
        fd = _create_unlinked(name, size, error)
    # A process that opens the file while `platform.is_exclusive` asks about it makes the kernel send this process a signal. By
    # default that is SIGIO, which ends the process; SIGURG is ignored unless a program handles it.
    with contextlib.suppress(OSError):
        platform.signal_harmlessly(fd)
    return fd


def _create_unlinked(name: str, size: int, failure: OSError) -> int:
    for directory in ("/dev/shm", tempfile.gettempdir()):
        with contextlib.suppress(OSError):
            return platform.create_unlinked(_PREFIX + name, size, directory)
    raise failure


def is_for_want_of_room(error: BaseException) -> bool:
    """Whether an error says that memory or a disk is full, and is not an `ArenaFullError` yet."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return isinstance(error, MemoryError) and not isinstance(error, ArenaFullError)


def open_to_read(number: str, files: int) -> int:
    """Open the file of a descriptor in a directory of descriptors once more, for reading."""
    global _is_used
    _is_used = True
    while True:
        try:
            # Non-blocking: the number may be a FIFO by now, and an open would wait for its other end.
            return os.open(number, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=files)
        except BlockingIOError:
            time.sleep(0.0001)  # its owner is in `platform.is_exclusive` at this moment


def read_only(fd: int) -> int:
    """A read-only descriptor of an open file of this process. Without ``/proc``, a plain duplicate."""
    try:
        files = os.open(facilities.proc("self/fd"), _DIRECTORY)
    except OSError:
        return os.dup(fd)
    try:
        return open_to_read(str(fd), files)
    except (FileNotFoundError, PermissionError):
        return os.dup(fd)
    finally:
        os.close(files)


def close_inherited() -> None:
    """In a forked child that has forgotten its parent's objects: close the files that other threads were just reading or making."""
    if not _is_used:
        return
    with contextlib.suppress(OSError):
        files = os.open(facilities.proc("self/fd"), _DIRECTORY)
        try:
            for number in os.listdir(files):
                with contextlib.suppress(OSError):
                    if any(leads_to(files, number, name) for name in (SHELF, CATALOGUE)) and _is_ours(int(number)):
                        os.close(int(number))
        finally:
            os.close(files)


def _is_ours(fd: int) -> bool:
    flags = platform.status_flags(fd)
    return flags & os.O_ACCMODE == os.O_RDWR or bool(flags & os.O_NONBLOCK)


def leads_to(directory: int, number: str, name: str = "") -> bool:
    """Whether a descriptor in a directory of descriptors is a file that `create` made under a name that begins with `name`."""
    try:
        link = os.readlink(number, dir_fd=directory) if number else ""
    except FileNotFoundError:
        return False
    return link.rpartition("/")[2].removeprefix("memfd:").startswith(_PREFIX + name)
