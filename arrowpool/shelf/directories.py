"""Directories that this user alone can enter.

They are opened once and used by descriptor, so that no other directory can take their place meanwhile. Functions here take the
descriptor of a directory, and plain names in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from arrowpool.shelf import users

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Errors of a process that is short of something. They say nothing about the file.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def roots() -> tuple[list[Path], bool]:
    """The directories that shelves may lie in, the best first, and whether the user has chosen them (``ARROWPOOL_SHELF_DIR``).

    By default: in memory, else in the temporary directory.
    """
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
    """The descriptor of a root; None where there is none, or where another user has taken its name.

    Raises
    ------
    PermissionError
        When others can enter it, or when the user has chosen it and another user owns it.
    OSError
        When it cannot be made, or this process is short of descriptors.
    """
    if create:
        if is_chosen:
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            make(path)
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        if error.errno in SHORT:
            raise
        is_refused = error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES)
        if is_chosen and is_refused and os.path.lexists(path):
            raise _not_alone(path) from error
        return None
    if not is_chosen and not _is_own(fd):
        os.close(fd)
        return None
    return _checked(fd, path)


def open_below(directory: int, name: str, path: Path, *, create: bool = False) -> int | None:
    """The descriptor of a directory in one of this user; None where it is not there.

    Raises
    ------
    PermissionError
        When others can enter it.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            make(name, directory)
    try:
        fd = os.open(name, _OPEN, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise
        raise _not_alone(path) from error
    return _checked(fd, path)


def make(name: str | Path, directory: int | None = None) -> None:
    """Make a directory that only this user can enter, and that this user can, whatever the umask.

    Raises
    ------
    FileExistsError
        When the name is taken.
    """
    os.mkdir(name, 0o700, dir_fd=directory)
    if os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=directory)


def _checked(fd: int, path: Path) -> int:
    mode = os.fstat(fd).st_mode
    if mode & 0o077 or not _is_own(fd):
        os.close(fd)
        raise _not_alone(path)
    if (
        mode & 0o700 != 0o700
    ):  # a process has just made it, under another umask; or was killed before it had changed that
        os.fchmod(fd, 0o700)
    return fd


def _is_own(fd: int) -> bool:
    """Whether this user owns a directory."""
    user = os.fstat(fd).st_uid
    if user != os.geteuid():
        return False
    if users.is_ambiguous(user):
        # The number proves nothing, and the kernel lets only the owner do this.
        try:
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))
        except OSError:
            return False
    return True


def _not_alone(path: Path) -> PermissionError:
    return PermissionError(
        f"{path} must be a directory that only this user can enter (mode 0700); remove it, or change its owner and mode"
    )


def open_one(directory: int, name: str) -> int:
    """The descriptor of a directory in another one. Links are not followed."""
    return os.open(name, _OPEN, dir_fd=directory)


def open_file(directory: int, name: str) -> int:
    """The descriptor of a regular file in a directory, for reading. Links are not followed.

    Raises
    ------
    OSError
        When it is not there, or not a regular file.
    """
    if "/" in name:
        raise OSError(errno.EINVAL, f"{name!r} is not the name of a file")
    # Non-blocking: opening a FIFO would wait for its other end.
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{name!r} is not a regular file")
    return fd


def read_file(directory: int, name: str, limit: int) -> bytes:
    """The content of a small file."""
    with os.fdopen(open_file(directory, name), "rb") as file:
        return file.read(limit)


def write_file(directory: int, name: str, content: bytes) -> None:
    """Make a small file."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)  # whatever the umask
        file.write(content)


def remove(directory: int, name: str) -> None:
    """Remove a file or directory, as far as possible. It may be gone already."""
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
