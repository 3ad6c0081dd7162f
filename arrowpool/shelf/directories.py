"""Directories that this user alone can enter: opened once and used by descriptor, so that nobody can put another in their place.

Everything here takes the descriptor of a directory and plain names in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_RENAME_EXCHANGE = 2
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: What the process lacks, not the file.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_libc = ctypes.CDLL(None, use_errno=True)

#: What each thread has locked, or waits for, by thread, device and inode: its descriptor. Each is added and taken away in one
#: step of Python's.
_locking: dict[tuple[int, int, int], int] = {}


def roots() -> tuple[list[Path], bool]:
    """Where shelves lie, the best first, and whether the user has chosen that: in memory, else in the temporary directory."""
    chosen = os.environ.get("ARROWPOOL_SHELF_DIR")
    if chosen:
        return [Path(chosen)], True
    user = os.geteuid()
    name = f"arrowpool-{user}"
    runtime = [Path(where) for where in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}") if where]
    return list(
        dict.fromkeys(
            [
                Path("/dev/shm") / name,
                *(where / "arrowpool" for where in runtime if where.is_absolute()),
                Path(tempfile.gettempdir()) / name,
            ]
        )
    ), False


def open_root(path: Path, is_chosen: bool, *, create: bool = False) -> int | None:
    """The descriptor of a root; None where there is none, or where somebody else has taken its name.

    Raises
    ------
    PermissionError
        When it is this user's and others can enter it, or is another's although this user has chosen it.
    OSError
        When it cannot be made; or for want of descriptors, which does not say that it is not there.
    """
    try:
        if create:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700, parents=is_chosen)
        fd = os.open(path, _OPEN)
    except OSError as error:
        if error.errno in SHORT:
            raise
        if is_chosen and error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise _not_alone(path) from error
        if create and not os.path.lexists(path):
            raise
        return None
    if os.fstat(fd).st_uid != os.geteuid() and not is_chosen:
        os.close(fd)
        return None
    return _checked(fd, path)


def open_below(directory: int, name: str, path: Path, *, create: bool = False) -> int | None:
    """The descriptor of a directory in one of ours; None where it is not there.

    Raises
    ------
    PermissionError
        When others can enter it.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
    try:
        fd = os.open(name, _OPEN, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise
        raise _not_alone(path) from error
    return _checked(fd, path)


def _checked(fd: int, path: Path) -> int:
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(fd)
        raise _not_alone(path)
    return fd


def _not_alone(path: Path) -> PermissionError:
    return PermissionError(f"{path} must be a directory of this user alone (mode 0700); remove it, or make it so")


def open_one(directory: int, name: str) -> int:
    """The descriptor of a directory in this one; links are not followed."""
    return os.open(name, _OPEN, dir_fd=directory)


def open_file(directory: int, name: str) -> int:
    """The descriptor of a regular file in this directory, for reading; links are not followed.

    Raises
    ------
    OSError
        When it is not there, or no such file.
    """
    if "/" in name:
        raise OSError(errno.EINVAL, f"{name!r} is no file's name")
    # Not to wait for the other end of a FIFO.
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{name!r} is no file")
    return fd


def read_file(directory: int, name: str, limit: int) -> bytes:
    """What a small file holds."""
    with os.fdopen(open_file(directory, name), "rb") as file:
        return file.read(limit)


def write_file(directory: int, name: str, content: bytes) -> None:
    """Make a small file."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def remove(directory: int, name: str) -> None:
    """Remove what is there under that name, as far as that is possible; it may be gone already."""
    with contextlib.suppress(OSError):
        try:
            inner = open_one(directory, name)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                os.unlink(name, dir_fd=directory)
            return
        try:
            for one in os.listdir(inner):
                try:
                    os.unlink(one, dir_fd=inner)
                except (IsADirectoryError, PermissionError):
                    remove(inner, one)
                except FileNotFoundError:
                    pass
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)


def exchange(directory: int, one: str, other: str) -> bool:
    """Exchange two names in one step; False where the system cannot.

    Raises
    ------
    OSError
        When one of them is not there.
    """
    try:
        rename = _libc.renameat2
    except AttributeError:  # an old C library
        return False
    if rename(directory, one.encode(), directory, other.encode(), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EPERM,
    ):  # the file system; the kernel; a seccomp filter
        return False
    raise OSError(code, os.strerror(code), one, None, other)


@contextlib.contextmanager
def locked(directories: Sequence[int], *, shared: bool = False) -> Iterator[None]:
    """Hold these directories, always taken in the same order: writers alone, readers together.

    The kernel lets go when the process ends. Where a file system has no such locks there is none. Nor does a signal handler
    or a finalizer wait for what the thread that it interrupts has locked: that would be for ever.
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
                how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(fd, how | fcntl.LOCK_NB if interrupts else how)
                held.append(fd)
        yield
    finally:
        for fd in reversed(held):
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough: a child that was forked meanwhile has it open, too
        for mark in marked:
            _locking.pop(mark, None)


def forget_locks() -> None:
    """In a forked child, which has none of the other threads: else it would hold what they have locked if its parent dies."""
    for mark, fd in list(_locking.items()):
        if mark[0] != threading.get_ident():
            del _locking[mark]
            os.close(fd)


@contextlib.contextmanager
def made_and_locked(directory: int, new_name: Callable[[], str]) -> Iterator[tuple[str, int]]:
    """Make a directory here, under a new name, that `remove_unlocked` leaves alone: its name, and its descriptor.

    Race: another process takes it for abandoned when it is made and not locked yet.

    1. It locks the directory, removes it, and lets go of it only then.
    2. This one, who has waited for that lock or comes too late to open it, finds that it is there no more, and makes another.
    """
    while True:
        name = new_name()
        os.mkdir(name, 0o700, dir_fd=directory)
        try:
            fd = open_one(directory, name)
        except FileNotFoundError:
            continue
        try:
            with locked([fd]):
                if _has(directory, name):
                    yield name, fd
                    return
        finally:
            os.close(fd)


def _has(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_unlocked(directory: int, name: str) -> bool:
    """Remove what is there under that name, unless a process has locked it; whether that was so."""
    fd = -1
    try:
        fd = open_one(directory, name)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Else it is no directory, or cannot be locked.
        if error.errno in (errno.EWOULDBLOCK, *SHORT):
            if fd >= 0:
                os.close(fd)
            return False
    try:
        remove(directory, name)
        return True
    finally:
        if fd >= 0:
            os.close(fd)
