"""Limits of a process, locks on files, and flags of descriptors: what all POSIX systems have."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading

#: The value of a limit that is none.
UNLIMITED = resource.RLIM_INFINITY


def descriptors_limit() -> tuple[int, int]:
    """How many descriptors this process may have open (ulimit -n), and up to which number it may raise that."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_descriptors_limit(soft: int, hard: int) -> None:
    """Change the first of these numbers.

    Raises
    ------
    OSError, ValueError
        When that is not allowed.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def address_space_limit() -> int:
    """How many bytes this process may map (ulimit -v)."""
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def file_size_limit() -> int:
    """How many bytes a file of this process may have (ulimit -f)."""
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def page_faults() -> int:
    """Pages that this process has got without a disk so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def lock_file(fd: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file. The lock belongs to the open file, and the kernel releases it with the last process that has it open.

    Raises
    ------
    BlockingIOError
        With ``wait=False``, when another open file has the lock.
    OSError
        When the file system has no locks.
    """
    fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def unlock_file(fd: int) -> None:
    """Release that lock.

    Raises
    ------
    OSError
        When the file system has no locks.
    """
    fcntl.flock(fd, fcntl.LOCK_UN)


def status_flags(fd: int) -> int:
    """The flags that a file was opened with, such as `os.O_RDWR`."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def enlarge_pipe(fd: int, nbytes: int) -> None:
    """Make a pipe hold more bytes, where the system can.

    Raises
    ------
    OSError
        When this user may not have larger pipes.
    """
    command: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)
    if command is not None:
        fcntl.fcntl(fd, command, nbytes)


def signal_harmlessly(fd: int) -> None:
    """Make the kernel send SIGURG where it would send SIGIO, which ends a process, for this descriptor. Linux alone sends either.

    Raises
    ------
    OSError
        When the kernel refuses it.
    """
    command: int | None = getattr(fcntl, "F_SETSIG", None)
    if command is not None:
        fcntl.fcntl(fd, command, signal.SIGURG)


def end_with(lifeline: int) -> None:
    """Start a thread that ends this process when the pipe `lifeline` has lost its last writer."""
    threading.Thread(target=_wait_for_end, args=(lifeline,), name="arrowpool-lifeline", daemon=True).start()


def _wait_for_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def user_ids() -> set[int]:
    """The user ids that this process has, or may take."""
    return set(os.getresuid()) if hasattr(os, "getresuid") else {os.getuid(), os.geteuid()}
