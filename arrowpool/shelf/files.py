"""Files in memory that other processes of this user may open, and whether one that is open somewhere is such a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import tempfile

from arrowpool.memory import system

_PREFIX = "arrowpool-"
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def create(name: str, size: int) -> int:
    """The descriptor of a new file in memory; where there is no such thing, of one that has lost its name already.

    Raises
    ------
    OSError
        When there is nowhere to make one.
    """
    try:
        fd = system.create_resizable(_PREFIX + name, size)
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
            return system.create_unlinked(_PREFIX + name, size, directory)
    raise failure


def leads_to(directory: int, number: str, name: str = "") -> bool:
    """Whether the descriptor with that number, in a directory of descriptors, is a file made here under a name that begins so."""
    try:
        link = os.readlink(number, dir_fd=directory) if number else ""
    except FileNotFoundError:
        return False
    return link.rpartition("/")[2].removeprefix("memfd:").startswith(_PREFIX + name)
