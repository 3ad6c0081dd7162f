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
import enum
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from arrowpool.errors import ArenaFullError, ShelfKeyError
from arrowpool.shelf import directories, entries, files, keys, locks
from arrowpool.shelf.about import About
from arrowpool.shelf.layout import Plan

#: Errors after which a writer tries the next root: this one is full, or cannot be written to.
_TRY_ELSEWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EFBIG)

_log = logging.getLogger(__name__)


class _Outcome(enum.Enum):
    """The result of an attempt to put an object below one root."""

    PUT = enum.auto()
    #: The root has too little free space, or another process has just removed the shelf's directory there.
    NO_ROOM = enum.auto()
    #: Another user has taken the name of the root.
    TAKEN = enum.auto()


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
        taken: list[Path] = []
        failure: BaseException | None = None
        try:
            for path in paths:
                try:
                    outcome = self._put_below(path, is_chosen, plan, key)
                except (MemoryError, OSError) as error:
                    # The error for a root that others can enter has no number.
                    if isinstance(error, OSError) and error.errno not in _TRY_ELSEWHERE:
                        raise
                    failure = error
                    continue
                if outcome is _Outcome.PUT:
                    return
                if outcome is _Outcome.TAKEN:
                    taken.append(path)
            if failure is not None and files.is_for_want_of_room(failure):
                raise ArenaFullError(f"the shelf needs {plan.nbytes:,} bytes: {failure}") from failure
            if taken and (failure is not None or len(taken) == len(paths)):
                raise _no_root(taken, failure) from failure
            if failure is not None:
                raise failure
            where = ", ".join(str(path) for path in paths if path not in taken)
            raise ArenaFullError(f"the shelf needs {plan.nbytes:,} bytes, which are not free in any of: {where}")
        finally:
            failure = None  # the error and this frame would refer to each other, and to the objects of all callers

    def _put_below(self, path: Path, is_chosen: bool, plan: Plan, key: str) -> _Outcome:
        """Put an object into this shelf's directory below a root."""
        root = directory = None
        try:
            root = directories.open_root(path, is_chosen, create=True)
            if root is None:
                return _Outcome.TAKEN
            directory = directories.open_below(root, self._name, path / self._name, create=True)
            if directory is None or not _fits(directory, plan.nbytes):
                return _Outcome.NO_ROOM
            self._put_in(directory, plan, key)
            return _Outcome.PUT
        finally:
            for fd in (directory, root):
                if fd is not None:
                    os.close(fd)

    def _put_in(self, directory: int, plan: Plan, key: str) -> None:
        with locks.made_and_locked(directory, lambda: entries.unfinished_name("new")) as (name, building):
            try:
                about = entries.write(building, plan)
                self._publish(directory, name, building, about, key)
            finally:
                directories.remove(directory, name)  # or the old object, which it was exchanged for

    def _publish(self, directory: int, name: str, building: int, about: About, key: str) -> None:
        here = entries.identity(directory)
        with self._directories() as found:
            with locks.locked([fd for fd, _ in found]):
                entries.put_under(directory, name, building, about, key)
                # Readers see the new object now if its root is better than the old one's, else once the old object is gone.
                gone = [(fd, entries.take_out(fd, key)) for fd, _ in reversed(found) if entries.identity(fd) != here]
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
                opened = entries.open_parts(directory, key)
                if opened is not None:
                    return *opened, path / key
        # A writer may have moved it from a root that this loop had not reached to one that it had.
        with self._directories() as found, locks.locked([fd for fd, _ in found], shared=True):
            for directory, path in found:
                opened = entries.open_parts(directory, key)
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
                        opened = entries.open_parts(directory, key, with_parts=False)
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
                gone = [(fd, entries.take_out(fd, key)) for fd, _ in reversed(found)]
            _remove(gone)
        return any(name is not None for _, name in gone)

    def clean(self) -> list[Path]:
        """Remove the unfinished directories of writers that died; return their paths."""
        removed = []
        with self._directories() as found:
            for directory, path in found:
                for name in os.listdir(directory):
                    if name.startswith(".") and entries.is_abandoned(name) and locks.remove_unlocked(directory, name):
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
            with os.scandir(root) as listed:
                names |= {one.name for one in listed if keys.is_name(one.name) and one.is_dir(follow_symlinks=False)}
        finally:
            os.close(root)
    return sorted(names)


def remove_unfinished() -> list[Path]:
    """Remove the unfinished objects of writers that died, on all shelves; return their paths.

    Examples
    --------
    >>> from arrowpool import shelf
    >>> shelf.remove_unfinished()
    []
    """
    return [place for name in stores() for place in Store(name).clean()]


def _no_root(taken: list[Path], failure: BaseException | None = None) -> PermissionError:
    """The error when other users have taken the names of the roots, and no other root serves."""
    others = f" ({failure})" if failure is not None else ""
    return PermissionError(
        f"there is no directory for persistent objects: other users have taken {', '.join(map(str, taken))}{others}; "
        "set ARROWPOOL_SHELF_DIR to a directory that you own, for all processes that share the shelf"
    )


def _fits(directory: int, nbytes: int) -> bool:
    """Whether `nbytes` are free in the file system of a directory. A file system without blocks has no limit of its own."""
    found = os.fstatvfs(directory)
    return not found.f_blocks or nbytes <= found.f_bavail * found.f_frsize


def _remove(gone: list[tuple[int, str | None]]) -> None:
    for fd, name in gone:
        if name is not None:
            directories.remove(fd, name)
