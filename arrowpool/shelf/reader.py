"""The memory of the object under a key: large parts are mapped privately, small parts are copied."""

from __future__ import annotations

import os

import numpy as np

from arrowpool.errors import ShelfKeyError
from arrowpool.memory.views import private_view
from arrowpool.shelf import keys, remote, this_process, users
from arrowpool.shelf.keys import ProcessKey
from arrowpool.shelf.layout import Memory
from arrowpool.shelf.places import COPIED
from arrowpool.shelf.remote import Found
from arrowpool.shelf.store import Store


def open_parts(key: str, shelf: str | None, only: str | None = None) -> dict[str, Memory]:
    """The parts of an object by name, or only the part named `only`, as memory of this process.

    Raises
    ------
    ShelfKeyError, PermissionError, TimeoutError
        See `arrowpool.get`.
    """
    parsed = keys.parse(key, shelf)
    if isinstance(parsed, ProcessKey):
        return _open_of_process(parsed, only)
    about, fds, _ = Store(parsed.shelf).open(parsed.name)
    try:
        return {
            name: take(fd, 0, size, key)
            for (name, (_, size)), fd in zip(about.parts.items(), fds, strict=True)
            if only in (None, name)
        }
    finally:
        for fd in fds:
            os.close(fd)


def _open_of_process(key: ProcessKey, only: str | None) -> dict[str, Memory]:
    found = find(key)
    try:
        taken = {
            name: take(found.fds[name], location.offset, location.size, str(key))
            for name, location in found.record.parts.items()
            if only in (None, name)
        }
        is_there = found.is_there()
    except ShelfKeyError:
        if found.is_there():
            raise
        is_there = False
    finally:
        found.close()
    if not is_there:
        raise remote.deleted(key)
    return taken


def find(key: ProcessKey, *, with_parts: bool = True) -> Found:
    """Look up an object that a process holds, this one or another; open its parts if wanted.

    Raises
    ------
    ShelfKeyError, PermissionError, TimeoutError
        See `remote.find`.
    """
    mine = this_process.current()
    if mine is None or not mine.has(key):
        return remote.find(key, with_parts=with_parts)
    opened = mine.objects.open(key.number)
    if opened is None:
        raise remote.deleted(key)
    return remote.found(key, *opened)


def take(fd: int, offset: int, size: int, key: str) -> Memory:
    """A range of an open file as memory of this process: writeable, and private to it.

    Raises
    ------
    ShelfKeyError
        When the file is shorter.
    PermissionError
        When another user owns the file.
    """
    found = os.fstat(fd)
    if found.st_uid not in users.own():
        raise PermissionError(f"the object under {key!r} belongs to another user ({found.st_uid})")
    if found.st_size < offset + size:
        raise ShelfKeyError(f"the object under {key!r} is damaged: it is cut off")
    if size > COPIED:
        return private_view(fd, offset, size)
    memory: Memory = np.empty(size, dtype=np.uint8)
    done = 0
    while done < size:
        count = os.preadv(fd, [memory[done:].data], offset + done)
        if count == 0:
            raise ShelfKeyError(f"the object under {key!r} is damaged: it is cut off")
        done += count
    return memory
