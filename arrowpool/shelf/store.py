"""Persistent objects: a directory for each, below a root that only this user can enter.

    <root>/<shelf>/<key>/table.arrow, exact.bin, about.json

Guarantees: under a key there is always one object, and it is complete:

- A writer makes a new directory next to the one under the key, and exchanges the two in a single step. Where the file system
  cannot do that, the writer moves its files, under new names, into the directory under the key, and then replaces `about.json`,
  which contains the names.
- A reader opens the directory once, and the files in it by that descriptor. It finds all files of one object; or it notices that
  some are being removed, and opens the directory that has taken its place.
- A writer locks the shelf's directories (`locks.locked`) while it renames, not while it writes. So the last writer wins, and an
  object that moves to another root is in one root only. A reader that finds nothing looks again with the lock held: a writer may
  have moved the object from a root that the reader had not looked at to one that it had.

A writer that dies leaves the old object or the new one, and its unfinished directory. The name of that directory begins with a dot
and contains the writer's process id and start time; the writer has locked it. The next writer removes it.
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
from arrowpool.shelf import directories, files, keys, locks
from arrowpool.shelf.about import About
from arrowpool.shelf.layout import Memory, Plan

_ABOUT = "about.json"
_ABOUT_BYTES = 1 << 16
#: Errors after which a writer tries the next root: this one is full, or cannot be written to.
_TRY_ELSEWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EFBIG)

_log = logging.getLogger(__name__)


class Store:
    """The persistent objects of one shelf."""

    def __init__(self, name: str):
        self._name = keys.check_shelf(name)

    @contextlib.contextmanager
    def _directories(self) -> Iterator[list[tuple[int, Path]]]:
        """Descriptor and path of each directory of this shelf, the best root first."""
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
        """Write an object, and replace the one that has the key.

        Raises
        ------
        ArenaFullError
            When no root has room for it.
        PermissionError
            When a root can be entered by others, or other users have taken the names of the roots.
        """
        self.clean()
        paths, is_chosen = directories.roots()
        failure: BaseException | None = None
        taken: list[Path] = []
        for path in paths:
            root = directory = None
            try:
                root = directories.open_root(path, is_chosen, create=True)
                if root is None:
                    taken.append(path)
                    continue
                directory = directories.open_below(root, self._name, path / self._name, create=True)
                if directory is None:
                    continue  # another process has just removed it
                if not _fits(directory, plan.nbytes):
                    continue
                self._put_in(directory, plan, key)
                failure = None  # the error and this frame would refer to each other, and to the objects of all callers
                return
            except MemoryError as error:
                failure = error
            except OSError as error:
                if error.errno not in _TRY_ELSEWHERE:  # a root that others can enter raises an error without a number
                    raise
                failure = error
            finally:
                for fd in (directory, root):
                    if fd is not None:
                        os.close(fd)
        if failure is not None:
            try:
                if files.is_for_want_of_room(failure):
                    raise ArenaFullError(f"the shelf needs {plan.nbytes:,} bytes: {failure}") from failure
                if taken:
                    raise _no_root(taken, failure) from failure
                raise failure
            finally:
                failure = None
        if len(taken) == len(paths):
            raise _no_root(taken)
        where = ", ".join(str(path) for path in paths if path not in taken)
        raise ArenaFullError(f"the shelf needs {plan.nbytes:,} bytes, which are not free in any of: {where}")

    def _put_in(self, directory: int, plan: Plan, key: str) -> None:
        with locks.made_and_locked(directory, lambda: _unfinished("new")) as (name, building):
            try:
                for part in plan.parts:
                    _write(building, part.name, part.size, part.write)
                about = About(
                    plan.kind, time.time(), plan.nbytes, {part.name: (part.name, part.size) for part in plan.parts}
                )
                directories.write_file(building, _ABOUT, about.dump())
                self._publish(directory, name, building, about, key)
            finally:
                directories.remove(directory, name)  # or the old object, which it was exchanged for

    def _publish(self, directory: int, name: str, building: int, about: About, key: str) -> None:
        here = _identity(directory)
        with self._directories() as found:
            with locks.locked([fd for fd, _ in found]):
                _put_under(directory, name, building, about, key)
                # Readers see the new object now if its root is better than the old one's, else once the old object is gone.
                gone = [(fd, _take_out(fd, key)) for fd, _ in reversed(found) if _identity(fd) != here]
            _remove(gone)

    def open(self, key: str) -> tuple[About, list[int], Path]:
        """Description of an object, descriptors of its parts in the order of the description, and its directory.

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
        # A writer may have moved it from a root that this loop had not reached to one that it had.
        with self._directories() as found, locks.locked([fd for fd, _ in found], shared=True):
            for directory, path in found:
                opened = _open(directory, key)
                if opened is not None:
                    return *opened, path / key
        raise ShelfKeyError(f"no key {str(keys.PersistentKey(self._name, key))!r} on the shelf {self._name!r}")

    def names(self) -> list[str]:
        """The keys of all objects, damaged ones included."""
        with self._directories() as found:
            return sorted({name for directory, _ in found for name in os.listdir(directory) if keys.is_name(name)})

    def items(self) -> Iterator[tuple[str, About, Path]]:
        """Key and description of every object, and its directory. Damaged objects are left out with a warning in the log."""
        seen = set()
        with self._directories() as found:
            for directory, path in found:
                for key in sorted(os.listdir(directory)):
                    if key in seen or not keys.is_name(key):
                        continue
                    seen.add(key)
                    try:
                        opened = _open(directory, key, with_parts=False)
                    except ShelfKeyError as error:
                        _log.warning("%s; delete it, or put it again", error)
                        continue
                    if opened is not None:
                        yield key, opened[0], path / key

    def delete(self, key: str) -> bool:
        """Delete an object; return whether it was there."""
        with self._directories() as found:
            with locks.locked([fd for fd, _ in found]):
                # The object in the best root goes last: an older one in another root must never become visible.
                gone = [(fd, _take_out(fd, key)) for fd, _ in reversed(found)]
            _remove(gone)
        return any(name is not None for _, name in gone)

    def clean(self) -> list[Path]:
        """Remove the unfinished directories of writers that died; return their paths."""
        removed = []
        with self._directories() as found:
            for directory, path in found:
                for name in os.listdir(directory):
                    if name.startswith(".") and _is_abandoned(name) and locks.remove_unlocked(directory, name):
                        removed.append(path / name)
        return removed


def stores() -> list[str]:
    """The names of all shelves of this user."""
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


def _no_root(taken: list[Path], failure: BaseException | None = None) -> PermissionError:
    """The error when other users have taken the names of the roots, and no other root serves."""
    others = f" ({failure})" if failure is not None else ""
    return PermissionError(
        f"there is no directory for persistent objects: other users have taken {', '.join(map(str, taken))}{others}; "
        "set ARROWPOOL_SHELF_DIR to a directory that you own, for all processes that share the shelf"
    )


def _open(directory: int, key: str, *, with_parts: bool = True) -> tuple[About, list[int]] | None:
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
            now = (_identity(place) if place >= 0 else None, content)
            if now == before:
                raise ShelfKeyError(f"the object under {key!r} is damaged: {error}") from error
            before = now
        finally:
            if place >= 0:
                os.close(place)


def _fits(directory: int, nbytes: int) -> bool:
    """Whether `nbytes` are free in the file system of a directory. A file system without blocks has no limit of its own."""
    found = os.fstatvfs(directory)
    return not found.f_blocks or nbytes <= found.f_bavail * found.f_frsize


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _take_out(directory: int, key: str) -> str | None:
    """Rename the object under a key for its removal; return the new name, or None where there is no object."""
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
            if not directories.exchange(directory, name, key):
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


def _unfinished(why: str) -> str:
    """A name for a directory that is not an object. `_is_abandoned` tells from the name whether its writer has died."""
    try:
        started = int(psutil.Process().create_time() * 1000)
    except (psutil.Error, OSError):  # without /proc, only the lock protects the directory
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
    """Make a file of `size` bytes, and let `write` fill it through a map."""
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        if not platform.is_on_disk(fd) and size > limits.memory()[1]:
            raise ArenaFullError(f"the shelf needs {size:,} bytes, more than all memory")
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
