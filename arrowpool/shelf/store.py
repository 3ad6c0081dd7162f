"""Objects that outlive their owner: one directory each, below a directory that only this user can enter.

    <root>/<shelf>/<key>/table.arrow, exact.bin, about.json

What is there under a key is complete, and one object:

- A writer makes a directory of its own beside, and exchanges it for the one under the key in a single step. Where the file
  system cannot, it moves its files into the directory under the key, named anew, and replaces `about.json`, which says what
  they are called.
- A reader opens the directory once, and what is in it by that descriptor. It then finds all of one object; or finds that
  some of it is being removed, and opens what has taken its place.
- Writers hold the shelf's directories (see `directories.locked`) while they rename, not while they write. So the last one
  wins, and an object that moves to another root is in one of them. A reader that finds nothing looks once more while no
  writer renames: the object may have moved past it.

A writer that dies leaves the old object or the new one, and what it had begun: a directory whose name begins with a dot, that
bears its process id and start time, and that it had locked. The next one that comes by removes that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from arrowpool.errors import ArenaFullError, ShelfKeyError
from arrowpool.memory import limits, platform
from arrowpool.shelf import directories, files, keys
from arrowpool.shelf.about import About
from arrowpool.shelf.layout import Memory, Plan

_ABOUT = "about.json"
_ABOUT_BYTES = 1 << 16
#: What another root may have, when one has it not: room, or the right to write.
_TRY_ELSEWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EFBIG)

_log = logging.getLogger(__name__)


class Store:
    """The objects of one name."""

    def __init__(self, name: str):
        self._name = keys.check_shelf(name)

    @contextlib.contextmanager
    def _directories(self) -> Iterator[list[tuple[int, Path]]]:
        """Descriptor and path of every directory of this shelf, the best root first."""
        paths, is_chosen = directories.roots()
        with contextlib.ExitStack() as opened:
            found = []
            for path in paths:
                root = directories.open_root(path, is_chosen)
                if root is None:
                    continue
                try:
                    fd = directories.open_below(root, self._name, path / self._name)
                finally:
                    os.close(root)
                if fd is not None:
                    opened.callback(os.close, fd)
                    found.append((fd, path / self._name))
            yield found

    def put(self, plan: Plan, key: str) -> None:
        """Write an object, in the place of one that has the key already.

        Raises
        ------
        ArenaFullError
            When there is no room for it.
        """
        self.clean()
        paths, is_chosen = directories.roots()
        failure: BaseException | None = None
        for path in paths:
            root = directory = None
            try:
                root = directories.open_root(path, is_chosen, create=True)
                if root is None:
                    continue
                directory = directories.open_below(root, self._name, path / self._name, create=True)
                if directory is None:
                    continue  # somebody has removed it this moment
                if not _fits(directory, plan.nbytes):
                    continue
                self._put_in(directory, plan, key)
                failure = None  # else it and this frame would refer to each other, and to what all callers have
                return
            except MemoryError as error:
                failure = error
            except OSError as error:
                if error.errno not in _TRY_ELSEWHERE:  # what others can enter has no number, and is an error at once
                    raise
                failure = error
            finally:
                for fd in (directory, root):
                    if fd is not None:
                        os.close(fd)
        if failure is not None:
            try:
                if files.is_for_want_of_room(failure):
                    raise ArenaFullError(f"{plan.nbytes:,} bytes are wanted for the shelf: {failure}") from failure
                raise failure
            finally:
                failure = None
        where = ", ".join(map(str, paths))
        raise ArenaFullError(f"{plan.nbytes:,} bytes are wanted for the shelf; nowhere are so many free: {where}")

    def _put_in(self, directory: int, plan: Plan, key: str) -> None:
        with directories.made_and_locked(directory, lambda: _unfinished("new")) as (name, building):
            try:
                for file in plan.files:
                    _write(building, file.name, file.size, file.write)
                about = About(
                    plan.kind, time.time(), plan.nbytes, {file.name: (file.name, file.size) for file in plan.files}
                )
                directories.write_file(building, _ABOUT, about.dump())
                self._publish(directory, name, building, about, key)
            finally:
                directories.remove(directory, name)  # or what it was exchanged for

    def _publish(self, directory: int, name: str, building: int, about: About, key: str) -> None:
        here = _identity(directory)
        with self._directories() as found:
            with directories.locked([fd for fd, _ in found]):
                _put_under(directory, name, building, about, key)
                # In a better root than the old one it is seen now, in another one once the old one is gone.
                gone = [(fd, _take_out(fd, key)) for fd, _ in reversed(found) if _identity(fd) != here]
            _remove(gone)

    def open(self, key: str) -> tuple[About, list[int], Path]:
        """Description of an object, descriptors of its files, in the description's order, and where it lies.

        Raises
        ------
        ShelfKeyError
            When there is no such object, or it is damaged.
        """
        with self._directories() as found:
            for directory, path in found:
                opened = _open(directory, key)
                if opened is not None:
                    return *opened, path / key
        # It may have moved from a root that was still to be looked at to one that had been.
        with self._directories() as found, directories.locked([fd for fd, _ in found], shared=True):
            for directory, path in found:
                opened = _open(directory, key)
                if opened is not None:
                    return *opened, path / key
        raise ShelfKeyError(f"no key {str(keys.Kept(self._name, key))!r} on the shelf {self._name!r}")

    def names(self) -> list[str]:
        """All keys there are, also of what is damaged."""
        with self._directories() as found:
            return sorted({name for directory, _ in found for name in os.listdir(directory) if keys.is_name(name)})

    def items(self) -> Iterator[tuple[str, About, Path]]:
        """Key and description of every object, and where it lies. What is damaged is left out, and the log says so."""
        seen = set()
        with self._directories() as found:
            for directory, path in found:
                for key in sorted(os.listdir(directory)):
                    if key in seen or not keys.is_name(key):
                        continue
                    seen.add(key)
                    try:
                        opened = _open(directory, key, files=False)
                    except ShelfKeyError as error:
                        _log.warning("%s; delete it, or put it again", error)
                        continue
                    if opened is not None:
                        yield key, opened[0], path / key

    def delete(self, key: str) -> bool:
        """Remove an object; whether it was there."""
        with self._directories() as found:
            with directories.locked([fd for fd, _ in found]):
                # The one in the best root is what is seen: it goes last, so that nothing older shows.
                gone = [(fd, _take_out(fd, key)) for fd, _ in reversed(found)]
            _remove(gone)
        return any(name is not None for _, name in gone)

    def clean(self) -> list[Path]:
        """Remove what dead processes have left half-done; return what that was."""
        removed = []
        with self._directories() as found:
            for directory, path in found:
                for name in os.listdir(directory):
                    if name.startswith(".") and _is_abandoned(name) and directories.remove_unlocked(directory, name):
                        removed.append(path / name)
        return removed


def stores() -> list[str]:
    """Names of all shelves of this user that there are."""
    names = set()
    paths, is_chosen = directories.roots()
    for path in paths:
        root = directories.open_root(path, is_chosen)
        if root is None:
            continue
        try:
            with os.scandir(root) as entries:
                names |= {one.name for one in entries if keys.is_name(one.name) and one.is_dir(follow_symlinks=False)}
        finally:
            os.close(root)
    return sorted(names)


def _open(directory: int, key: str, *, files: bool = True) -> tuple[About, list[int]] | None:
    """Description of what is there under a key, and descriptors of its files if wanted; None where there is nothing."""
    before: tuple[Any, ...] | None = None
    while True:
        place = -1
        content = b""
        fds: list[int] = []
        try:
            place = directories.open_one(directory, key)
            content = directories.read_file(place, _ABOUT, _ABOUT_BYTES)
            about = About.parse(content)
            for name, _ in about.files.values() if files else ():
                fds.append(directories.open_file(place, name))
            return about, fds
        except (OSError, ValueError) as error:
            for fd in fds:
                os.close(fd)
            if place < 0 and isinstance(error, FileNotFoundError):
                return None
            if isinstance(error, OSError) and error.errno in directories.SHORT:
                raise
            # It is being replaced or removed; or this is how it lies there.
            now = (_identity(place) if place >= 0 else None, content)
            if now == before:
                raise ShelfKeyError(f"the object under {key!r} is damaged: {error}") from error
            before = now
        finally:
            if place >= 0:
                os.close(place)


def _fits(directory: int, nbytes: int) -> bool:
    """Whether so many bytes are free in the file system of a directory."""
    found = os.fstatvfs(directory)
    return (
        not found.f_blocks or nbytes <= found.f_bavail * found.f_frsize
    )  # memory without a limit of its own has no blocks


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _take_out(directory: int, key: str) -> str | None:
    """Give what is there under a key another name, by which it can be removed; None when there was nothing."""
    name = _unfinished("old")
    try:
        os.rename(key, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return None
    return name


def _remove(gone: list[tuple[int, str | None]]) -> None:
    for fd, name in gone:
        if name is not None:
            directories.remove(fd, name)


def _put_under(directory: int, name: str, building: int, about: About, key: str) -> None:
    """Let the object that has been built be the one under that key; the old one is then under the other name, if anywhere."""
    while True:
        try:
            os.rename(name, key, src_dir_fd=directory, dst_dir_fd=directory)
            return
        except OSError as error:
            # It has one already.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        # It may be removed meanwhile, where writers cannot lock each other out.
        with contextlib.suppress(FileNotFoundError):
            if not directories.exchange(directory, name, key):
                _replace_inside(directory, building, about, key)
            return


def _replace_inside(directory: int, building: int, about: About, key: str) -> None:
    """Make the directory under a key hold the new object, in one step as its readers see it."""
    place = directories.open_one(directory, key)
    try:
        mark = secrets.token_hex(4)
        files = {name: (f"{mark}-{name}", size) for name, (_, size) in about.files.items()}
        for name, (renamed, _) in files.items():
            os.rename(name, renamed, src_dir_fd=building, dst_dir_fd=place)
        fresh = f"{mark}-{_ABOUT}"
        directories.write_file(place, fresh, About(about.kind, about.created, about.nbytes, files).dump())
        os.replace(fresh, _ABOUT, src_dir_fd=place, dst_dir_fd=place)
        used = {_ABOUT, *(renamed for renamed, _ in files.values())}
        for name in os.listdir(place):
            if name not in used:
                directories.remove(place, name)
    finally:
        os.close(place)


def _unfinished(why: str) -> str:
    try:
        started = int(psutil.Process().create_time() * 1000)
    except (psutil.Error, OSError):  # no /proc; that it is locked is what protects it then
        started = 0
    return f".{why}-{os.getpid()}-{started}-{secrets.token_hex(4)}"


def _is_abandoned(name: str) -> bool:
    parts = name.split("-")
    if len(parts) != 4 or not (parts[1].isdigit() and parts[2].isdigit()):
        return False
    try:
        return abs(psutil.Process(int(parts[1])).create_time() * 1000 - int(parts[2])) > 1500
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False


def _write(directory: int, name: str, size: int, write: Callable[[Memory], None]) -> None:
    """Make a file of that size, and write it through a map."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        if not platform.is_on_disk(fd) and size > limits.memory()[1]:
            raise ArenaFullError(f"{size:,} bytes are wanted for the shelf, more than there is memory")
        os.ftruncate(fd, size)
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
