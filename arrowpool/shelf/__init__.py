"""The shelf: put an object once, read it from any process of the same user under a short key.

>>> import arrowpool
>>> key = arrowpool.put(df)
>>> subprocess.run([sys.executable, "features.py", key])       # there: df = arrowpool.get(sys.argv[1])

There is no daemon and nothing to clean up: an object lives until it is deleted or the process that put it ends, and who
has read it by then goes on reading. With ``persist=True`` it stays until it is deleted.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.errors import ShelfKeyError
from arrowpool.shelf import directories, files, keys, layout, others, store
from arrowpool.shelf.about import About
from arrowpool.shelf.catalogue import Record
from arrowpool.shelf.keys import DEFAULT, Kept, Living
from arrowpool.shelf.layout import EXACT, TABLE, Memory
from arrowpool.shelf.others import Found
from arrowpool.shelf.owner import Owner
from arrowpool.shelf.reading import take
from arrowpool.shelf.store import Store

__all__ = [
    "Info",
    "Shelf",
    "delete",
    "delete_all",
    "exists",
    "get",
    "get_arrow",
    "get_many",
    "get_numpy",
    "info",
    "list_keys",
    "memory_usage",
    "put",
    "put_many",
]

_owner: Owner | None = None
#: By process id: the first that was made for it. See `_this_owner`.
_owners: dict[int, Owner] = {}
_starting = threading.RLock()


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of an object on the shelf.

    Attributes
    ----------
    key : str
        Where it is.
    kind : str
        Name of its type.
    nbytes : int
        Bytes it takes, in memory or on disk.
    created : datetime
        When it was put, in UTC.
    persistent : bool
        Whether it outlives its owner.
    owner : int or None
        Process that holds it; None for a persistent one.
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
        """The Arrow IPC file, for readers without arrowpool; there for as long as the object. None when `arrow` is False.

        The owner of an object in memory makes one when it is first asked for, if the object lies in a file with others.

        Raises
        ------
        ShelfKeyError
            When the object is gone.
        TimeoutError
            When its owner is there and does not answer.
        """
        if self._path is not None or not self.arrow:
            return self._path
        return _path_of_living(self.key)


class Shelf:
    """Objects put together. Its methods are those of this module, for a shelf of its own.

    Parameters
    ----------
    name : str, optional
        A shelf with a name is persistent: its objects stay until they are deleted, and any process of this user that opens
        a shelf of that name has them. Without a name it is private: its objects go at the end of a ``with`` block, by
        `delete_all`, or with the process.

    Notes
    -----
    A key without a slash is one of this shelf, as it was given to `put`. What `put` has returned leads to the same object
    on every shelf, and with the functions of this module: ``features/rsi``, or the key of an object that a process holds.

    Examples
    --------
    >>> with Shelf() as shelf:
    ...     keys = [shelf.put(chunk) for chunk in chunks]
    >>> features = Shelf("features")
    >>> features.put(rsi, "rsi")
    'features/rsi'
    >>> features.get("rsi"), arrowpool.get("features/rsi")
    """

    def __init__(self, name: str | None = None):
        self.name = name
        self._store = Store(name) if name is not None else None
        self._keys: set[str] = set()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Shelf {self.name or 'private'}: {len(self.list_keys())} objects>"

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A child that was forked in the block leaves it, too; the objects are its parent's.
        if self._store is None and self._pid == os.getpid():
            self.delete_all()

    def put(self, obj: Any, key: str | None = None) -> str:
        """Put an object; return its key. See :func:`put`."""
        if self.name is None or self._store is None:
            if key is not None:
                raise ValueError("only a shelf with a name, or put(..., persist=True), can have keys of your choice")
            made = _this_owner().put(layout.plan(obj))
            self._keys.add(made)
            return made
        kept = Kept(self.name, keys.check_name(key) if key is not None else _new_name())
        self._store.put(layout.plan(obj), kept.name)
        return str(kept)

    def put_many(self, objects: Iterable[Any]) -> list[str]:
        """See :func:`put_many`."""
        return _put_all(objects, self.put, self.delete)

    def list_keys(self) -> list[str]:
        """The keys of this shelf's objects."""
        if self.name is None or self._store is None:
            return sorted(key for key in self._keys if exists(key))
        return [str(Kept(self.name, key)) for key, _, _ in self._store.items()]

    def get(self, key: str) -> Any:
        """See :func:`get`."""
        return _get(key, self.name)

    def get_many(self, keys: Iterable[str]) -> list[Any]:
        """See :func:`get_many`."""
        return [self.get(key) for key in keys]

    def get_arrow(self, key: str) -> pa.Table:
        """See :func:`get_arrow`."""
        return _get_arrow(key, self.name)

    def get_numpy(self, key: str, column: str | None = None) -> np.ndarray[Any, Any]:
        """See :func:`get_numpy`."""
        return _get_numpy(key, column, self.name)

    def exists(self, key: str) -> bool:
        """See :func:`exists`."""
        return _exists(key, self.name)

    def info(self, key: str) -> Info:
        """See :func:`info`."""
        return _info(key, self.name)

    def memory_usage(self, key: str | None = None) -> int:
        """Bytes that one object takes, or all objects of this shelf."""
        return sum(self.info(one).nbytes for one in ([key] if key is not None else self.list_keys()))

    def delete(self, *keys: str) -> None:
        """See :func:`delete`."""
        try:
            _delete(keys, self.name)
        finally:
            self._keys.difference_update(keys)

    def delete_all(self) -> None:
        """Delete all objects of this shelf."""
        if self._store is not None:
            for key in self._store.names():
                self._store.delete(key)
            return
        for one in list(self._keys):
            with contextlib.suppress(ShelfKeyError):  # somebody was faster
                self.delete(one)


def put(obj: Any, *, persist: bool = False, key: str | None = None) -> str:
    """Put an object on the shelf, from where every process of this user can get it.

    Parameters
    ----------
    obj : object
        Frames, tables and arrays are copied once, into shared memory. Anything else that can be pickled may be put, too.
    persist : bool
        Keep it until it is deleted, also after this process has ended. Else it goes with this process.
    key : str, optional
        A key of your choice, for a persistent object: up to 100 letters, digits, ``_``, ``-`` and ``.``; ``2024-01-15``, say.
        What is there under that key is replaced in one step: readers get the old object or the new one, and who reads the
        old one goes on reading it. When several processes put one at a time, the last one wins.

    Returns
    -------
    str
        The key: short, and fit for argv, environment variables and JSON.

    Raises
    ------
    ValueError
        When an object cannot have that key.
    ArenaFullError
        When there is no memory (or disk space) for it.
    Exception
        Whatever pickling it raises.
    """
    if persist:
        return Shelf(DEFAULT).put(obj, key)
    if key is not None:
        raise ValueError("only a persistent object can have a key of your choice: put(..., persist=True)")
    return _this_owner().put(layout.plan(obj))


def put_many(objects: Iterable[Any], *, persist: bool = False) -> list[str]:
    """Put several objects; return their keys in that order. When one of them cannot be put, none stays."""
    return _put_all(objects, functools.partial(put, persist=persist), delete)


def _put_all(objects: Iterable[Any], put: Callable[[Any], str], delete: Callable[[str], None]) -> list[str]:
    made: list[str] = []
    try:
        for obj in objects:
            made.append(put(obj))
    except BaseException:
        for key in made:
            with contextlib.suppress(ShelfKeyError, OSError):
                delete(key)
        raise
    return made


def get(key: str) -> Any:
    """The object, as pickling would give it back, and private: what is written to it is seen by nobody else.

    A large object is not copied; its memory is shared until it is written to, and valid for as long as it is in use.

    Raises
    ------
    ShelfKeyError
        A `KeyError`: when there is nothing under that key (any more).
    PermissionError
        When it belongs to another user.
    TimeoutError
        When the process that holds it must be asked (``/proc`` does not show what it has open, in another container say),
        is there, and does not answer within a minute.
    """
    return _get(key, DEFAULT)


def _get(key: str, shelf: str | None) -> Any:
    files = _open(key, shelf)
    return layout.rebuild(files.get(TABLE), files.get(EXACT))


def get_many(keys: Iterable[str]) -> list[Any]:
    """The objects under several keys, in that order."""
    return [get(key) for key in keys]


def get_arrow(key: str) -> pa.Table:
    """The object as an Arrow table, without a copy.

    Raises
    ------
    ShelfKeyError
        When there is nothing under that key (any more).
    TypeError
        When the object is none that Arrow can express as a table.
    """
    return _get_arrow(key, DEFAULT)


def _get_arrow(key: str, shelf: str | None) -> pa.Table:
    table = _open(key, shelf, only=TABLE).get(TABLE)
    if table is None:
        raise TypeError(f"what lies under {key!r} ({_info(key, shelf).kind}) is no Arrow table; use get()")
    return layout.open_table(table)


def get_numpy(key: str, column: str | None = None) -> np.ndarray[Any, Any]:
    """A column as an array; without a copy for numbers and datetimes, then writeable and private.

    Parameters
    ----------
    column : str, optional
        Its name; none when the object itself is an array.

    Raises
    ------
    ShelfKeyError
        When there is nothing under that key (any more), or no such column.
    ValueError
        When the column has nulls, which NumPy's numbers cannot express. Dates and times are NaT then.
    TypeError
        When the object is not what was asked for, or the column of a type that NumPy does not have (periods, say).
    """
    return _get_numpy(key, column, DEFAULT)


def _get_numpy(key: str, column: str | None, shelf: str | None) -> np.ndarray[Any, Any]:
    if column is None:
        obj = _get(key, shelf)
        if not isinstance(obj, np.ndarray):
            what = f"what lies under {key!r} is no array ({type(obj).__name__})"
            raise TypeError(f"{what}; {'say which column' if _info(key, shelf).arrow else 'use get()'}")
        return obj
    memory = _open(key, shelf, only=TABLE).get(TABLE)
    if memory is None:
        kind = _info(key, shelf).kind
        raise TypeError(f"what lies under {key!r} ({kind}) is not kept as a table with columns; use get()")
    return layout.column(memory, key, column)


def delete(*keys: str) -> None:
    """Let go of objects. Who has read them goes on reading.

    Raises
    ------
    ShelfKeyError
        When there is nothing under one of the keys; the others are deleted all the same.
    TimeoutError
        When the process that holds one is there and does not answer within a minute. It may delete it later.
    """
    _delete(keys, DEFAULT)


def _delete(keys: Iterable[str], shelf: str | None) -> None:
    missing: list[str] = []
    failure: Exception | None = None
    for key in keys:
        try:
            if not _delete_one(key, shelf):
                missing.append(key)
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure
    if missing:
        raise ShelfKeyError(f"nothing to delete under {', '.join(map(repr, missing))}")


def delete_all() -> None:
    """Delete all that this process has put, and all persistent objects of the default shelf."""
    if _owner is not None and _owner.pid == os.getpid():
        _owner.delete_all()
    Shelf(DEFAULT).delete_all()


def exists(key: str) -> bool:
    """Whether there is something under that key.

    Raises
    ------
    TimeoutError
        When only the process that holds it could tell, and it does not answer; see :func:`get`.
    """
    return _exists(key, DEFAULT)


def _exists(key: str, shelf: str | None) -> bool:
    try:
        _info(key, shelf)
    except (KeyError, PermissionError):
        return False
    return True


def list_keys() -> list[str]:
    """The keys of all that this user's processes have on the shelf, and of all persistent objects."""
    return [one.key for one in list_infos()]


def list_infos() -> list[Info]:
    """All objects of this user: of running processes, and persistent ones."""
    return [*_living(), *_persistent()]


def _living() -> Iterator[Info]:
    mine = _owner
    if mine is not None and mine.pid == os.getpid():
        for record in mine.records():
            yield _info_of_living(str(Living(mine.pid, mine.token, record.number)), record)
    else:
        mine = None
    for key, record in others.everything(but=(mine.pid, mine.token) if mine is not None else None):
        yield _info_of_living(key, record)


def _persistent() -> Iterator[Info]:
    for name in store.stores():
        for key, about, place in Store(name).items():
            yield _info_of_kept(Kept(name, key), about, place)


def memory_usage(key: str | None = None) -> int:
    """Bytes that one object takes, or all that this user has on the shelf."""
    return info(key).nbytes if key is not None else sum(one.nbytes for one in list_infos())


def info(key: str) -> Info:
    """What is known of an object, without opening it.

    Raises
    ------
    ShelfKeyError
        When there is nothing under that key (any more).
    """
    return _info(key, DEFAULT)


def _info(key: str, shelf: str | None) -> Info:
    where = keys.parse(key, shelf)
    if isinstance(where, Kept):
        about, fds, place = Store(where.shelf).open(where.name)
        for fd in fds:
            os.close(fd)
        return _info_of_kept(where, about, place)
    found = _find(where, with_pieces=False)
    found.close()
    return _info_of_living(key, found.record)


def _info_of_kept(key: Kept, about: About, place: Path) -> Info:
    table = about.files.get(TABLE)
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


def _info_of_living(key: str, record: Record) -> Info:
    return Info(
        key=key,
        kind=record.kind,
        nbytes=record.nbytes,
        created=datetime.fromtimestamp(record.created, timezone.utc),
        persistent=False,
        owner=int(key.partition("-")[0]),
        arrow=TABLE in record.pieces,
    )


def _path_of_living(key: str) -> str:
    where = keys.parse(key)
    assert isinstance(where, Living)
    mine = _owner
    if mine is not None and mine.pid == os.getpid() and mine.has(where):
        path = mine.path(where.number)
    else:
        path = others.ask(where, "path")[0]
    if path is None:
        raise others.deleted(where)
    return path


def _find(living: Living, *, with_pieces: bool = True) -> Found:
    """An object that a process holds, open if wanted."""
    mine = _owner
    if mine is None or mine.pid != os.getpid() or not mine.has(living):
        return others.find(living, with_pieces=with_pieces)
    opened = mine.open(living.number)
    if opened is None:
        raise others.deleted(living)
    return others.found(living, *opened)


def _delete_one(key: str, shelf: str | None) -> bool:
    try:
        where = keys.parse(key, shelf)
        if isinstance(where, Kept):
            return Store(where.shelf).delete(where.name)
        if _owner is not None and _owner.pid == os.getpid() and _owner.has(where):
            return _owner.delete(where.number)
        return bool(others.ask(where, "delete")[0])
    except ShelfKeyError:
        return False


def _open(key: str, shelf: str | None, only: str | None = None) -> dict[str, Memory]:
    """The files of an object by name, or only the one; memory of this process's."""
    where = keys.parse(key, shelf)
    if isinstance(where, Living):
        return _open_living(where, key, only)
    about, fds, _ = Store(where.shelf).open(where.name)
    try:
        return {
            name: take(fd, 0, size, key)
            for (name, (_, size)), fd in zip(about.files.items(), fds, strict=True)
            if only in (None, name)
        }
    finally:
        for fd in fds:
            os.close(fd)


def _open_living(living: Living, key: str, only: str | None) -> dict[str, Memory]:
    found = _find(living)
    try:
        taken = {
            name: take(found.fds[name], piece.offset, piece.size, key)
            for name, piece in found.record.pieces.items()
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
        raise others.deleted(living)
    return taken


# The owner in this process


def _this_owner() -> Owner:
    """Made by the first who puts an object.

    Race: a signal handler (or a finalizer) that puts an object interrupts this thread while it makes the owner. The lock lets it
    pass, and it makes one as well; the first that is in `_owners`, which takes one step of Python's, is the owner.
    """
    global _owner
    with _starting:
        if _owner is None or _owner.pid != os.getpid():
            made = Owner()
            first = _owners.setdefault(made.pid, made)
            if first is made:
                made.start()
                atexit.register(_close)
            else:
                made.close()
            _owner = first
        return _owner


def _close() -> None:
    global _owner
    if _owner is not None and _owner.pid == os.getpid():
        _owners.clear()
        _owner.close()
        _owner = None


def _forget_in_child() -> None:
    global _owner, _starting
    _starting = threading.RLock()
    directories.forget_locks()
    for one in _owners.values():
        one.forget()
    _owners.clear()
    _owner = None
    if not _is_at_work(sys._getframe().f_back):
        files.close_inherited()


def _is_at_work(frame: FrameType | None) -> bool:
    """Whether this thread was at work here when a signal handler or a finalizer forked; the child may go on with it."""
    while frame is not None:
        if frame.f_globals.get("__package__") == __name__:
            return True
        frame = frame.f_back
    return False


def _new_name() -> str:
    return secrets.token_urlsafe(9).lstrip("-_") or _new_name()


os.register_at_fork(after_in_child=_forget_in_child)
