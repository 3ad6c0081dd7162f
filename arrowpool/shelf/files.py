"""Files in memory that other processes of this user may open, and whether one that is open somewhere is such a file.

What is opened here can be told from what a user opens under the path of an object: it is for writing, or does not block.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import tempfile
import time

from arrowpool.errors import ArenaFullError
from arrowpool.memory import facilities, platform

_PREFIX = "arrowpool-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: What such files are called, or begin with.
SHELF, CATALOGUE = "shelf", "catalogue-"
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: Whether this process has ever had such a file open.
_is_used = False


def create(name: str, size: int) -> int:
    """The descriptor of a new file in memory; where there is no such thing, of one that has lost its name already.

    Raises
    ------
    OSError
        When there is nowhere to make one.
    """
    global _is_used
    _is_used = True
    try:
        fd = platform.create_resizable(_PREFIX + name, size)
    except OSError as error:
        if error.errno in _SHORT:
            raise
        fd = _create_unlinked(name, size, error)
    # Who opens it while it is asked whether anybody has it open makes the kernel send us a signal. By default that is SIGIO,
    # which ends the process; this one is ignored unless a program asks for it.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    return fd


def _create_unlinked(name: str, size: int, failure: OSError) -> int:
    for directory in ("/dev/shm", tempfile.gettempdir()):
        with contextlib.suppress(OSError):
            return platform.create_unlinked(_PREFIX + name, size, directory)
    raise failure


def is_for_want_of_room(error: BaseException) -> bool:
    """Whether that says, in words that are not the shelf's yet, that there is no memory or no room on a disk."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return isinstance(error, MemoryError) and not isinstance(error, ArenaFullError)


def open_to_read(number: str, files: int) -> int:
    """Open for reading what is open under a number, in a directory of descriptors, once more."""
    global _is_used
    _is_used = True
    while True:
        try:
            # Not to wait for the other end of a FIFO that may have got this number by now.
            return os.open(number, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=files)
        except BlockingIOError:
            time.sleep(0.0001)  # its owner looks at this moment whether anybody has it open


def read_only(fd: int) -> int:
    """A second descriptor of a file of this process through which nobody can write. Without ``/proc`` a plain duplicate."""
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
    """In a forked child that has forgotten its parent's objects: close what other threads had open when they were at work on some."""
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
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return flags & os.O_ACCMODE == os.O_RDWR or bool(flags & os.O_NONBLOCK)


def leads_to(directory: int, number: str, name: str = "") -> bool:
    """Whether the descriptor with that number, in a directory of descriptors, is a file made here under a name that begins so."""
    try:
        link = os.readlink(number, dir_fd=directory) if number else ""
    except FileNotFoundError:
        return False
    return link.rpartition("/")[2].removeprefix("memfd:").startswith(_PREFIX + name)
