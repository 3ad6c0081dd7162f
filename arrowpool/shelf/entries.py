"""One persistent object, a directory with its parts and `about.json`: functions that write, publish, open and remove it.

Called by `store`, which locks and chooses directories. Functions take the descriptor of a shelf's directory, and names in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import psutil

from arrowpool.errors import ArenaFullError, ShelfKeyError
from arrowpool.memory import limits, platform
from arrowpool.shelf import directories
from arrowpool.shelf.about import About
from arrowpool.shelf.layout import Memory, Plan

_ABOUT = "about.json"
_ABOUT_BYTES = 1 << 16


def write(building: int, plan: Plan) -> About:
    """Write the files of an object into its new directory; return its description.

    Raises
    ------
    ArenaFullError
        When a part is larger than all memory.
    MemoryError, OSError
        When memory or the disk is full.
    """
    for part in plan.parts:
        _write_part(building, part.name, part.size, part.write)
    about = About(plan.kind, time.time(), plan.nbytes, {part.name: (part.name, part.size) for part in plan.parts})
    directories.write_file(building, _ABOUT, about.dump())
    return about


def open_parts(directory: int, key: str, *, with_parts: bool = True) -> tuple[About, list[int]] | None:
    """Description of the object under a key, and descriptors of its parts if wanted; None where there is none."""
    before: tuple[Any, ...] | None = None
    while True:
        place = -1
        content = b""
        fds: list[int] = []
        try:
            place = directories.open_one(directory, key)
            content = directories.read_file(place, _ABOUT, _ABOUT_BYTES)
            about = About.parse(content)
            for name, _ in about.parts.values() if with_parts else ():
                fds.append(directories.open_file(place, name))
            return about, fds
        except (OSError, ValueError) as error:
            for fd in fds:
                os.close(fd)
            if place < 0 and isinstance(error, FileNotFoundError):
                return None
            if isinstance(error, OSError) and error.errno in directories.SHORT:
                raise
            # It is being replaced or removed; or it is damaged, and looks the same the next time.
            now = (identity(place) if place >= 0 else None, content)
            if now == before:
                raise ShelfKeyError(f"the object under {key!r} is damaged: {error}") from error
            before = now
        finally:
            if place >= 0:
                os.close(place)


def put_under(directory: int, name: str, building: int, about: About, key: str) -> None:
    """Put the new object under the key. The old one, if any, is then under the name of the new one."""
    while True:
        try:
            os.rename(name, key, src_dir_fd=directory, dst_dir_fd=directory)
            return
        except OSError as error:
            # There is an object already.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        # Where the file system has no locks, another writer may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if not platform.exchange(directory, name, key):
                _replace_inside(directory, building, about, key)
            return


def _replace_inside(directory: int, building: int, about: About, key: str) -> None:
    """Move the new object into the directory under a key. Readers see it in one step, when `about.json` is replaced."""
    place = directories.open_one(directory, key)
    try:
        mark = secrets.token_hex(4)
        renamed = {name: (f"{mark}-{name}", size) for name, (_, size) in about.parts.items()}
        for name, (new, _) in renamed.items():
            os.rename(name, new, src_dir_fd=building, dst_dir_fd=place)
        fresh = f"{mark}-{_ABOUT}"
        directories.write_file(place, fresh, About(about.kind, about.created, about.nbytes, renamed).dump())
        os.replace(fresh, _ABOUT, src_dir_fd=place, dst_dir_fd=place)
        used = {_ABOUT, *(new for new, _ in renamed.values())}
        for name in os.listdir(place):
            if name not in used:
                directories.remove(place, name)
    finally:
        os.close(place)


def take_out(directory: int, key: str) -> str | None:
    """Rename the object under a key for its removal; return the new name, or None where there is no object."""
    name = unfinished_name("old")
    try:
        os.rename(key, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return None
    return name


def unfinished_name(why: str) -> str:
    """A name for a directory that is not an object. `is_abandoned` tells from the name whether its writer has died."""
    try:
        started = int(psutil.Process().create_time() * 1000)
    except (psutil.Error, OSError):  # without /proc, only the lock protects the directory
        started = 0
    return f".{why}-{os.getpid()}-{started}-{secrets.token_hex(4)}"


def is_abandoned(name: str) -> bool:
    parts = name.split("-")
    if len(parts) != 4 or not (parts[1].isdigit() and parts[2].isdigit()):
        return False
    try:
        return abs(psutil.Process(int(parts[1])).create_time() * 1000 - int(parts[2])) > 1500
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False


def identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _write_part(directory: int, name: str, size: int, write: Callable[[Memory], None]) -> None:
    """Make a file of `size` bytes, and let `write` fill it through a map."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        os.fchmod(fd, 0o600)  # whatever the umask
        if not platform.is_on_disk(fd) and size > limits.memory()[1]:
            raise ArenaFullError(f"the shelf needs {size:,} bytes, more than all memory")
        platform.set_size(fd, size)
        if size == 0:
            return
        if not platform.is_in_memory(fd):
            platform.reserve(fd, 0, size)
        mapped = platform.page_ceil(size)
        address = platform.map_shared(fd, mapped)
        try:
            platform.populate(address, mapped)
            write(platform.bytes_at(address, size))
        finally:
            platform.unmap(address, mapped)
    finally:
        os.close(fd)
