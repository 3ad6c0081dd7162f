"""`Shelf`: a group of objects, private or under a name. The module functions are the methods of the default shelf."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.errors import ShelfKeyError
from arrowpool.shelf import client, keys, layout, reader, this_process
from arrowpool.shelf.info import Info, info_of
from arrowpool.shelf.keys import PersistentKey
from arrowpool.shelf.layout import EXACT, TABLE
from arrowpool.shelf.store import Store


class Shelf:
    """A group of objects, with the module functions as methods.

    Parameters
    ----------
    name : str, optional
        A shelf with a name is persistent: its objects stay until they are deleted, and every process of this user that opens a
        shelf of that name has them. A shelf without a name is private: its objects are deleted at the end of a ``with`` block,
        by `delete_all`, or when the process ends.

    Raises
    ------
    ValueError
        When the name is not up to 100 letters, digits, ``_``, ``-`` and ``.``.

    Notes
    -----
    A key without a slash means an object of this shelf, with the key that was given to `put`. A key that `put` has returned
    means the same object on every shelf, and for the module functions: ``features/rsi``, or the key of an object that a process
    holds.

    Examples
    --------
    >>> import numpy as np
    >>> from arrowpool import Shelf, get
    >>> with Shelf() as shelf:
    ...     keys = [shelf.put(np.arange(count)) for count in (2, 3)]
    ...     shelf.get(keys[1])
    array([0, 1, 2])
    >>> features = Shelf("features")
    >>> features.put(np.array([30.5, 71.2]), "rsi")
    'features/rsi'
    >>> features.get("rsi")
    array([30.5, 71.2])
    >>> get("features/rsi")
    array([30.5, 71.2])
    >>> features.delete_all()
    """

    def __init__(self, name: str | None = None):
        self.name = name
        self._store = Store(name) if name is not None else None
        #: The keys of a private shelf's objects. `Objects.put` adds a key, and the thread that deletes the object removes it, with
        #: one atomic operation each. The set is copied before it is iterated over.
        self._keys: set[str] = set()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Shelf {self.name or 'private'}: {len(self.list_keys())} objects>"

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A child that is forked in the block leaves it as well; the objects are its parent's.
        if self._store is None and self._pid == os.getpid():
            self.delete_all()

    def put(self, obj: Any, key: str | None = None) -> str:
        """Put an object; return its key. See :func:`put`."""
        if self.name is None or self._store is None:
            if key is not None:
                raise ValueError("only a shelf with a name, or put(..., persist=True), can have keys of your choice")
            return this_process.owner().put(layout.plan(obj), self._keys)
        made = PersistentKey(self.name, keys.check_name(key) if key is not None else _new_name())
        self._store.put(layout.plan(obj), made.name)
        return str(made)

    def put_many(self, objects: Iterable[Any]) -> list[str]:
        """Put several objects. See :func:`put_many`."""
        return put_all(objects, self.put, self.delete)

    def list_keys(self) -> list[str]:
        """The keys of this shelf's objects."""
        if self.name is None or self._store is None:
            return sorted(key for key in self._keys.copy() if self.exists(key))
        return [str(PersistentKey(self.name, key)) for key, _, _ in self._store.items()]

    def get(self, key: str) -> Any:
        """Get an object. See :func:`get`."""
        parts = reader.open_parts(key, self.name)
        return layout.rebuild(parts.get(TABLE), parts.get(EXACT))

    def get_many(self, keys: Iterable[str]) -> list[Any]:
        """Get several objects. See :func:`get_many`."""
        return [self.get(key) for key in keys]

    def get_arrow(self, key: str) -> pa.Table:
        """Get an object as an Arrow table. See :func:`get_arrow`."""
        table = reader.open_parts(key, self.name, only=TABLE).get(TABLE)
        if table is None:
            raise TypeError(f"the object under {key!r} ({self.info(key).kind}) is not an Arrow table; use get()")
        return layout.open_table(table)

    def get_numpy(self, key: str, column: str | None = None) -> np.ndarray[Any, Any]:
        """Get an array, or a column as one. See :func:`get_numpy`."""
        if column is None:
            obj = self.get(key)
            if not isinstance(obj, np.ndarray):
                remedy = "say which column" if self.info(key).arrow else "use get()"
                raise TypeError(f"the object under {key!r} ({type(obj).__name__}) is not an array; {remedy}")
            return obj
        table = reader.open_parts(key, self.name, only=TABLE).get(TABLE)
        if table is None:
            kind = self.info(key).kind
            raise TypeError(f"the object under {key!r} ({kind}) is not kept as a table with columns; use get()")
        return layout.column(table, key, column)

    def exists(self, key: str) -> bool:
        """Whether there is an object under a key. See :func:`exists`."""
        try:
            self.info(key)
        except (KeyError, PermissionError):
            return False
        return True

    def info(self, key: str) -> Info:
        """The facts about an object. See :func:`info`."""
        return info_of(key, self.name)

    def memory_usage(self, key: str | None = None) -> int:
        """Bytes that one object takes, or all objects of this shelf."""
        return sum(self.info(one).nbytes for one in ([key] if key is not None else self.list_keys()))

    def delete(self, *keys: str) -> None:
        """Delete objects. See :func:`delete`."""
        missing: list[str] = []
        failure: Exception | None = None
        for key in keys:
            try:
                if not _delete(key, self.name):
                    missing.append(key)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        if missing:
            raise ShelfKeyError(f"nothing to delete under {', '.join(map(repr, missing))}")

    def delete_all(self) -> None:
        """Delete all objects of this shelf."""
        if self._store is not None:
            for key in self._store.names():
                self._store.delete(key)
            return
        for one in self._keys.copy():
            with contextlib.suppress(ShelfKeyError):  # another thread or process has deleted it
                self.delete(one)


def put_all(objects: Iterable[Any], put: Callable[[Any], str], delete: Callable[[str], None]) -> list[str]:
    """Put all objects, or none: if one cannot be put, delete those that were."""
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


def _delete(key: str, shelf: str | None) -> bool:
    """Delete one object; return whether it was there."""
    try:
        parsed = keys.parse(key, shelf)
        if isinstance(parsed, PersistentKey):
            return Store(parsed.shelf).delete(parsed.name)
        mine = this_process.current()
        if mine is not None and mine.has(parsed):
            return mine.delete(parsed.number)
        return bool(client.ask(parsed, "delete")[0])
    except ShelfKeyError:
        return False


def _new_name() -> str:
    return secrets.token_urlsafe(9).lstrip("-_") or _new_name()
