"""The shelf where there is no shared memory: one file for each object, in a directory of this user.

Objects are pickled, and each reader gets a copy. The directory is ``ARROWPOOL_SHELF_DIR``, else ``LOCALAPPDATA``, else ``.cache`` in the
home directory. So files are private to the user, as far as the home directory is.

A file is written under another name and then renamed: readers get the old object or the new one, whole. Objects that do not persist
are deleted when the process that put them exits; after a crash, by the next process that lists keys. `Info.path` is None: there are no
Arrow files.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pickle
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from arrowpool.errors import ShelfKeyError

if TYPE_CHECKING:  # at run time in the methods: a worker that needs none of these should not wait for them
    import numpy as np
    import pyarrow as pa

DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_OF_PROCESS = re.compile(r"([1-9][0-9]*)-([0-9a-f]{8})-([1-9][0-9]*)")
_PROCESSES = ".processes"
#: In front of an object's pickle, in its file: the name of its type, and whether it is a table.
_HEADER = 256
_TOKEN = {os.getpid(): secrets.token_hex(4)}
_numbers = itertools.count(1)
_TABLES = ("DataFrame", "Series", "Table", "RecordBatch")


@dataclass(frozen=True, slots=True)
class Info:
    """Facts about an object on the shelf; see `arrowpool.shelf.Info`."""

    key: str
    kind: str
    nbytes: int
    created: datetime
    persistent: bool
    owner: int | None
    arrow: bool

    @property
    def path(self) -> None:
        """None: there is no Arrow IPC file."""


def _root() -> Path:
    chosen = os.environ.get("ARROWPOOL_SHELF_DIR")
    local = os.environ.get("LOCALAPPDATA")
    root = Path(chosen) if chosen else (Path(local) if local else Path.home() / ".cache") / "arrowpool-shelf"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return root


def _escaped(name: str) -> str:
    """The name of a file or directory for a key or a shelf.

    Windows does not tell capitals from small letters, drops dots at the end, and has devices with names such as ``con`` or ``aux.txt``.
    """
    return "k-" + re.sub("[A-Z]", lambda found: f"={found[0].lower()}", name) + "-"


def _unescaped(name: str) -> str:
    return re.sub("=(.)", lambda found: found[1].upper(), name[2:-1])


def _file(key: str, shelf: str | None) -> tuple[Path, str]:
    """The file of a key, and the key that means it on every shelf."""
    if _OF_PROCESS.fullmatch(key):
        return _root() / _PROCESSES / key, key
    name, slash, rest = key.partition("/")
    if not slash:
        if shelf is None:
            raise ShelfKeyError(f"no key {key!r}: a private shelf has no names")
        name, rest = shelf, key
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(rest)):
        raise ShelfKeyError(f"no key {key!r}: not a key")
    return _root() / _escaped(name) / _escaped(rest), rest if name == DEFAULT else f"{name}/{rest}"


def _write(path: Path, obj: Any) -> None:
    kind = type(obj).__name__
    is_table = kind in _TABLES and type(obj).__module__.partition(".")[0] in ("pandas", "pyarrow")
    header = f"{kind[:200]}\n{is_table:d}\n".encode().ljust(_HEADER, b" ")
    from arrowpool.portable.parcels import dumps

    content = dumps(obj)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    unfinished = path.with_name(f".{path.name[:60]}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(unfinished, "xb") as file:
            file.write(header)
            file.write(content)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _info(path: Path, key: str) -> Info:
    try:
        with open(path, "rb") as file:
            kind, is_table = file.read(_HEADER).decode().split("\n")[:2]
        status = path.stat()
    except (OSError, ValueError) as error:
        raise ShelfKeyError(f"no key {key!r}: it was deleted, or was never put") from error
    owner = _OF_PROCESS.fullmatch(path.name) if path.parent.name == _PROCESSES else None
    return Info(
        key=key,
        kind=kind,
        nbytes=status.st_size - _HEADER,
        created=datetime.fromtimestamp(status.st_mtime, timezone.utc),
        persistent=owner is None,
        owner=int(owner[1]) if owner else None,
        arrow=is_table == "1",
    )


class Shelf:
    """A group of objects; see `arrowpool.shelf.Shelf`."""

    def __init__(self, name: str | None = None):
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"a shelf's name has up to 100 letters, digits, '_', '-' and '.', not {name!r}")
        self.name = name
        #: Keys of a private shelf's objects. Any thread adds and removes, with one atomic operation each.
        self._keys: set[str] = set()

    def __repr__(self) -> str:
        return f"<Shelf {self.name or 'private'}: {len(self.list_keys())} objects>"

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.name is None:
            self.delete_all()

    def put(self, obj: Any, key: str | None = None) -> str:
        """Put an object; return its key."""
        if self.name is None:
            if key is not None:
                raise ValueError("only a shelf with a name, or put(..., persist=True), can have keys of your choice")
            made = _put_for_this_process(obj)
            self._keys.add(made)
            return made
        if key is not None and (not _NAME.fullmatch(key) or _OF_PROCESS.fullmatch(key)):
            raise ValueError(f"a key has up to 100 letters, digits, '_', '-' and '.', not {key!r}")
        path, whole = _file(key or f"o{secrets.token_hex(8)}", self.name)
        _write(path, obj)
        return whole

    def put_many(self, objects: Iterable[Any]) -> list[str]:
        """Put several objects; if one of them cannot be put, none stays."""
        return _put_all(objects, self.put, self.delete)

    def get(self, key: str) -> Any:
        """Get an object."""
        path, whole = _file(key, self.name)
        try:
            with open(path, "rb") as file:
                file.seek(_HEADER)
                return pickle.load(file)
        except FileNotFoundError as error:
            raise ShelfKeyError(f"no key {whole!r}: it was deleted, or was never put") from error

    def get_many(self, keys: Iterable[str]) -> list[Any]:
        """Get several objects."""
        return [self.get(key) for key in keys]

    def get_arrow(self, key: str) -> pa.Table:
        """Get a frame or table as an Arrow table."""
        import pandas as pd
        import pyarrow as pa

        obj = self.get(key)
        if isinstance(obj, pd.Series):
            obj = obj.to_frame()
        if isinstance(obj, pd.DataFrame):
            return pa.Table.from_pandas(obj)
        if isinstance(obj, pa.RecordBatch):
            return pa.Table.from_batches([obj])
        if not isinstance(obj, pa.Table):
            raise TypeError(f"the object under {key!r} ({type(obj).__name__}) is not an Arrow table; use get()")
        return obj

    def get_numpy(self, key: str, column: str | None = None) -> np.ndarray[Any, Any]:
        """Get an array, or a column as one."""
        import numpy as np

        obj = self.get(key)
        if column is None:
            if not isinstance(obj, np.ndarray):
                raise TypeError(f"the object under {key!r} ({type(obj).__name__}) is not an array; use get()")
            return obj
        table = self.get_arrow(key)
        if column not in table.column_names:
            raise ShelfKeyError(f"the object under {key!r} has no column {column!r}")
        found = table[column]
        if found.null_count:
            raise ValueError(f"column {column!r} has {found.null_count} nulls")
        values: np.ndarray[Any, Any] = np.array(found.to_numpy())
        return values

    def exists(self, key: str) -> bool:
        """Whether there is an object under a key."""
        try:
            self.info(key)
        except KeyError:
            return False
        return True

    def info(self, key: str) -> Info:
        """The facts about an object."""
        return _info(*_file(key, self.name))

    def memory_usage(self, key: str | None = None) -> int:
        """Bytes of one object's file, or of all objects of this shelf."""
        return sum(self.info(one).nbytes for one in ([key] if key is not None else self.list_keys()))

    def list_keys(self) -> list[str]:
        """The keys of this shelf's objects."""
        if self.name is None:
            return sorted(key for key in self._keys.copy() if self.exists(key))
        place = _root() / _escaped(self.name)
        return sorted(one.key for one in list_infos() if one.persistent and _file(one.key, DEFAULT)[0].parent == place)

    def delete(self, *keys: str) -> None:
        """Delete objects."""
        missing = []
        for key in keys:
            path, whole = _file(key, self.name)
            self._keys.discard(key)
            try:
                path.unlink()
            except FileNotFoundError:
                missing.append(whole)
        if missing:
            raise ShelfKeyError(f"no key {', '.join(map(repr, missing))}: it was deleted, or was never put")

    def delete_all(self) -> None:
        """Delete all objects of this shelf."""
        for key in self.list_keys():
            with contextlib.suppress(ShelfKeyError):
                self.delete(key)


def _put_for_this_process(obj: Any) -> str:
    pid = os.getpid()
    if pid not in _TOKEN:  # a forked child
        _TOKEN.clear()
        _TOKEN[pid] = secrets.token_hex(4)
    key = f"{pid}-{_TOKEN[pid]}-{next(_numbers)}"
    _write(_root() / _PROCESSES / key, obj)
    return key


@atexit.register
def _delete_own() -> None:
    token = _TOKEN.get(os.getpid())
    if token is None:  # a forked child that has put nothing
        return
    with contextlib.suppress(OSError):
        for path in (_root() / _PROCESSES).glob(f"{os.getpid()}-{token}-*"):
            path.unlink()


def _put_all(objects: Iterable[Any], put: Callable[[Any], str], delete: Callable[..., None]) -> list[str]:
    keys: list[str] = []
    try:
        for obj in objects:
            keys.append(put(obj))
    except BaseException:
        with contextlib.suppress(ShelfKeyError):
            delete(*keys)
        raise
    return keys


def list_infos() -> list[Info]:
    """The facts about all objects of this user."""
    remove_unfinished()
    found = []
    for path in sorted(_root().glob("*/*")):
        if not (path.name.startswith("k-") or path.parent.name == _PROCESSES) or path.name.startswith("."):
            continue
        if path.parent.name == _PROCESSES:
            key = path.name
        else:
            shelf, name = _unescaped(path.parent.name), _unescaped(path.name)
            key = name if shelf == DEFAULT else f"{shelf}/{name}"
        with contextlib.suppress(ShelfKeyError):
            found.append(_info(path, key))
    return found


def remove_unfinished() -> list[Path]:
    """Remove what ended processes have left: unfinished files, and objects that should have ended with them."""
    import psutil

    removed = []
    for path in _root().glob("*/*"):
        owner = _OF_PROCESS.fullmatch(path.name) if path.parent.name == _PROCESSES else None
        pid = owner[1] if owner else path.name.rsplit("-", 2)[-2] if path.name.startswith(".") else None
        if pid is not None and pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


_default = Shelf(DEFAULT)


def put(obj: Any, *, persist: bool = False, key: str | None = None) -> str:
    """Put an object on the shelf, where every process of this user can get it; see `arrowpool.put`."""
    if persist:
        return _default.put(obj, key)
    if key is not None:
        raise ValueError("only a persistent object can have a key of your choice: put(..., persist=True)")
    return _put_for_this_process(obj)


def put_many(objects: Iterable[Any], *, persist: bool = False) -> list[str]:
    """Put several objects; if one of them cannot be put, none stays."""
    return _put_all(objects, lambda obj: put(obj, persist=persist), delete)


get, get_many = _default.get, _default.get_many
get_arrow, get_numpy = _default.get_arrow, _default.get_numpy
exists, info, delete = _default.exists, _default.info, _default.delete


def delete_all() -> None:
    """Delete all objects that this process has put, and all persistent objects of the default shelf."""
    _delete_own()
    _default.delete_all()


def list_keys() -> list[str]:
    """The keys of all objects of this user."""
    return [one.key for one in list_infos()]


def memory_usage(key: str | None = None) -> int:
    """Bytes of one object's file, or of all objects of this user."""
    return info(key).nbytes if key is not None else sum(one.nbytes for one in list_infos())
