"""Locks on directories, for writers of persistent objects: flock(2) on an open descriptor.

The kernel releases a lock when the process ends. Some file systems have no such locks; there, writers do not wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from arrowpool.memory import platform
from arrowpool.shelf import directories

#: The descriptors that each thread has locked, or waits to lock, by thread, device and inode. A thread adds and removes its own
#: entries only, with one atomic operation each. A forked child, which has one thread, reads all of them.
_locking: dict[tuple[int, int, int], int] = {}


@contextlib.contextmanager
def locked(directories: Sequence[int], *, shared: bool = False) -> Iterator[None]:
    """Lock directories for a with block, always in the same order: writers exclusively, readers together (``shared``).

    A signal handler or finalizer does not wait for a lock of the thread that it interrupts: the wait would never end. It goes on
    without the lock.
    """
    held: list[int] = []
    marked: list[tuple[int, int, int]] = []
    try:
        for fd in directories:
            found = os.fstat(fd)
            mark = threading.get_ident(), found.st_dev, found.st_ino
            interrupts = mark in _locking
            if not interrupts:
                _locking[mark] = fd
                marked.append(mark)
            with contextlib.suppress(OSError):
                platform.lock_file(fd, shared=shared, wait=not interrupts)
                held.append(fd)
        yield
    finally:
        for fd in reversed(held):
            platform.unlock_file(fd)  # closing is not enough if a child that was forked meanwhile has it open
        for mark in marked:
            _locking.pop(mark, None)


def forget_locks() -> None:
    """Drop other threads' locks in a forked child. The child would keep them if its parent is killed while it holds them."""
    for mark, fd in list(_locking.items()):
        if mark[0] != threading.get_ident():
            del _locking[mark]
            os.close(fd)


@contextlib.contextmanager
def made_and_locked(directory: int, new_name: Callable[[], str]) -> Iterator[tuple[str, int]]:
    """Make a directory in another one, locked, so that `remove_unlocked` leaves it alone; yield its name and descriptor.

    Race: another process takes the directory for abandoned.

    1. This process makes the directory.
    2. The other one locks it, removes it, and unlocks it.
    3. This process opens the directory, which fails; or it has opened it before 2, and gets the lock after 2.
    4. It looks whether the name is still there, which it is not, and makes another directory.

    Verdict: a directory is used only if it was locked while it was there.
    """
    while True:
        name = new_name()
        directories.make(name, directory)
        try:
            fd = directories.open_one(directory, name)
        except FileNotFoundError:
            continue
        try:
            with locked([fd]):
                if _is_there(directory, name):
                    yield name, fd
                    return
        finally:
            os.close(fd)


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_unlocked(directory: int, name: str) -> bool:
    """Remove a file or directory unless a process has locked it; return whether it was removed."""
    fd = -1
    try:
        fd = directories.open_one(directory, name)
        platform.lock_file(fd, wait=False)
    except OSError as error:
        # With any other error it is not a directory, or cannot be locked.
        if error.errno in (errno.EWOULDBLOCK, *directories.SHORT):
            if fd >= 0:
                os.close(fd)
            return False
    try:
        directories.remove(directory, name)
        return True
    finally:
        if fd >= 0:
            os.close(fd)
