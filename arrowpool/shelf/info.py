"""The facts about an object, without opening it: `Info`. And those of all objects of this user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from arrowpool.shelf import client, keys, reader, remote, store, this_process
from arrowpool.shelf.about import About
from arrowpool.shelf.catalogue import Record
from arrowpool.shelf.keys import PersistentKey, ProcessKey
from arrowpool.shelf.layout import TABLE
from arrowpool.shelf.store import Store


@dataclass(frozen=True, slots=True)
class Info:
    """Facts about an object on the shelf.

    Attributes
    ----------
    key : str
        Its key.
    kind : str
        Name of its type.
    nbytes : int
        Bytes that it takes, in memory or on disk.
    created : datetime
        When it was put, in UTC.
    persistent : bool
        Whether it stays when the process that put it ends.
    owner : int or None
        Process that holds it; None for a persistent object.
    arrow : bool
        Whether it can be read as an Arrow table.
    """

    key: str
    kind: str
    nbytes: int
    created: datetime
    persistent: bool
    owner: int | None
    arrow: bool
    _path: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str | None:
        """Path of an Arrow IPC file with the object, for readers without arrowpool; None when `arrow` is False.

        The file is there for as long as the object. For an object in memory that shares a file with others, the owner makes it
        when the path is first asked for.

        Raises
        ------
        ShelfKeyError
            When the object is gone.
        PermissionError
            When its owner cannot be identified; see :func:`arrowpool.delete`.
        TimeoutError
            When its owner is there and does not answer.
        """
        if self._path is not None or not self.arrow:
            return self._path
        parsed = keys.parse(self.key)
        assert isinstance(parsed, ProcessKey)
        mine = this_process.current()
        if mine is not None and mine.has(parsed):
            path = mine.objects.path(parsed.number)
        else:
            path = client.ask(parsed, "path")[0]
        if path is None:
            raise remote.deleted(parsed)
        return path


def info_of(key: str, shelf: str | None) -> Info:
    """The facts about the object under a key of that shelf; see `arrowpool.info`."""
    parsed = keys.parse(key, shelf)
    if isinstance(parsed, PersistentKey):
        about, fds, place = Store(parsed.shelf).open(parsed.name)
        for fd in fds:
            os.close(fd)
        return _of_persistent(parsed, about, place)
    found = reader.find(parsed, with_parts=False)
    found.close()
    return _of_process(parsed, found.record)


def list_infos() -> list[Info]:
    """The facts about all objects of this user: those of running processes, and persistent ones."""
    return [*_all_of_processes(), *_all_persistent()]


def _all_of_processes() -> Iterator[Info]:
    mine = this_process.current()
    if mine is not None:
        for record in mine.records():
            yield _of_process(ProcessKey(mine.pid, mine.token, record.number), record)
    for key, record in remote.everything(but=(mine.pid, mine.token) if mine is not None else None):
        yield _of_process(key, record)


def _all_persistent() -> Iterator[Info]:
    for name in store.stores():
        for key, about, place in Store(name).items():
            yield _of_persistent(PersistentKey(name, key), about, place)


def _of_persistent(key: PersistentKey, about: About, place: Path) -> Info:
    table = about.parts.get(TABLE)
    return Info(
        key=str(key),
        kind=about.kind,
        nbytes=about.nbytes,
        created=datetime.fromtimestamp(about.created, timezone.utc),
        persistent=True,
        owner=None,
        arrow=table is not None,
        _path=str(place / table[0]) if table is not None else None,
    )


def _of_process(key: ProcessKey, record: Record) -> Info:
    return Info(
        key=str(key),
        kind=record.kind,
        nbytes=record.nbytes,
        created=datetime.fromtimestamp(record.created, timezone.utc),
        persistent=False,
        owner=key.pid,
        arrow=TABLE in record.parts,
    )
