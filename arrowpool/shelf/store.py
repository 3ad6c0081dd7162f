"""Objects that outlive their owner: one directory each, below a directory that only this user can enter.

    <root>/<shelf>/<key>/table.arrow, exact.bin, about.json

An object is written under another name and renamed when it is whole, and renamed before it is removed: what is there under
its key is complete. What a process that died has left half-done carries its id and start time, and is removed by the next
one that comes by.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from arrowpool.errors import ArenaFullError, ShelfKeyError
from arrowpool.memory import limits, system
from arrowpool.shelf.layout import Memory, Plan

_ABOUT = "about.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check_name(name: str, what: str = "key") -> str:
    """`name`, if it can be the name of a file and nothing else.

    Raises
    ------
    ValueError
        When it could reach elsewhere, or is too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a {what} has up to 100 letters, digits, '_', '-' and '.', and begins with neither of the last: {name!r}"
        )
    return name


def _roots() -> list[Path]:
    """Where shelves lie: in memory if there is room for them, else in the temporary directory."""
    chosen = os.environ.get("ARROWPOOL_SHELF_DIR")
    if chosen:
        return [Path(chosen)]
    name = f"arrowpool-{os.geteuid()}"
    return [Path("/dev/shm") / name, Path(tempfile.gettempdir()) / name]


def _is_ours(directory: Path) -> bool:
    """Whether the directory is there.

    Raises
    ------
    PermissionError
        When it is, but others could read or replace what is in it.
    """
    try:
        found = directory.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{directory} must be a directory of this user alone (mode 0700); remove it, or make it so"
        )
    return True


class Store:
    """The objects of one name."""

    def __init__(self, name: str):
        self._name = check_name(name, "shelf")

    def _directories(self) -> list[Path]:
        found = []
        for root in _roots():
            if _is_ours(root) and _is_ours(root / self._name):
                found.append(root / self._name)
        return found

    def _directory_for(self, nbytes: int) -> Path:
        """Where an object of that size goes."""
        failure: OSError | None = None
        for root in _roots():
            try:
                free = shutil.disk_usage(root.parent).free
                if nbytes > free:
                    continue
                for directory in (root, root / self._name):
                    with contextlib.suppress(FileExistsError):
                        directory.mkdir(mode=0o700, parents=directory is root)
                    _is_ours(directory)
                return root / self._name
            except PermissionError:
                raise
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        raise ArenaFullError(f"{nbytes:,} bytes are wanted for the shelf; no directory of {_roots()} has so many free")

    def put(self, plan: Plan, key: str) -> None:
        """Write an object, in the place of one that has the key already.

        Raises
        ------
        ArenaFullError
            When there is no room for it.
        """
        if plan.nbytes > limits.memory()[1] and self._directory_for(plan.nbytes).is_relative_to("/dev/shm"):
            raise ArenaFullError(f"{plan.nbytes:,} bytes are wanted for the shelf, more than there is memory")
        directory = self._directory_for(plan.nbytes)
        self.clean()
        building = directory / _unfinished("new")
        building.mkdir(mode=0o700)
        try:
            about = {
                "kind": plan.kind,
                "created": time.time(),
                "nbytes": plan.nbytes,
                "files": {file.name: file.size for file in plan.files},
            }
            for file in plan.files:
                fd = os.open(building / file.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    os.ftruncate(fd, file.size)
                    _fill(fd, file.size, file.write)
                finally:
                    os.close(fd)
            (building / _ABOUT).write_text(json.dumps(about))
            while True:
                try:
                    building.rename(directory / key)
                    return
                except OSError:
                    # It has one already: that goes away first.
                    if not self.delete(key):
                        raise
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise

    def open(self, key: str) -> tuple[dict[str, Any], list[int]]:
        """Description of an object and descriptors of its files, in the description's order.

        Raises
        ------
        ShelfKeyError
            When there is no such object, or it is damaged.
        """
        for directory in self._directories():
            place = directory / key
            try:
                about = json.loads((place / _ABOUT).read_text())
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ShelfKeyError(f"the object under {key!r} is damaged: {error}") from error
            fds: list[int] = []
            try:
                for name in about["files"]:
                    fds.append(os.open(place / check_name(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            except (OSError, ValueError, TypeError) as error:
                for fd in fds:
                    os.close(fd)
                raise ShelfKeyError(f"the object under {key!r} is damaged: {error}") from error
            return about, fds
        raise ShelfKeyError(f"no key {key!r} on the shelf {self._name!r}")

    def path(self, key: str) -> Path | None:
        """The directory of an object."""
        return next((d / key for d in self._directories() if (d / key / _ABOUT).exists()), None)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and description of every object."""
        for directory in self._directories():
            for place in sorted(directory.iterdir()):
                if not place.name.startswith("."):
                    with contextlib.suppress(OSError, ValueError):
                        yield place.name, json.loads((place / _ABOUT).read_text())

    def delete(self, key: str) -> bool:
        """Remove an object; whether it was there."""
        for directory in self._directories():
            gone = directory / _unfinished("old")
            try:
                (directory / key).rename(gone)
            except FileNotFoundError:
                continue
            shutil.rmtree(gone, ignore_errors=True)
            return True
        return False

    def clean(self) -> list[Path]:
        """Remove what dead processes have left half-done; return what that was."""
        removed = []
        for directory in self._directories():
            for place in directory.glob(".*"):
                if _is_abandoned(place.name):
                    shutil.rmtree(place, ignore_errors=True)
                    removed.append(place)
        return removed


def stores() -> list[str]:
    """Names of all shelves of this user that there are."""
    names = set()
    for root in _roots():
        if _is_ours(root):
            names |= {place.name for place in root.iterdir() if _NAME.fullmatch(place.name) and place.is_dir()}
    return sorted(names)


def _unfinished(why: str) -> str:
    started = int(psutil.Process().create_time() * 1000)
    return f".{why}-{os.getpid()}-{started}-{secrets.token_hex(4)}"


def _is_abandoned(name: str) -> bool:
    parts = name.split("-")
    if len(parts) != 4 or not (parts[1].isdigit() and parts[2].isdigit()):
        return False
    try:
        return abs(psutil.Process(int(parts[1])).create_time() * 1000 - int(parts[2])) > 1500
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _fill(fd: int, size: int, write: Callable[[Memory], None]) -> None:
    """Write a file of that size through a map of it."""
    if size == 0:
        return
    if not system.is_in_memory(fd):
        system.reserve(fd, 0, size)
    mapped = system.page_ceil(size)
    address = system.map_shared(fd, mapped)
    try:
        system.populate(address, mapped)
        write(system.bytes_at(address, size))
    finally:
        system.unmap(address, mapped)
