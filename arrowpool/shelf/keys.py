"""The meaning of keys. Pure functions of text, without IO.

    key                 module functions    Shelf("features")   Shelf() (private)
    ------------------  ------------------  ------------------  ------------------
    1234-ab12cd34-7     object 7 of process 1234, everywhere
    features/rsi        "rsi" on the shelf "features", everywhere
    rsi                 "rsi" on "default"  "rsi" on "features" an error: no names
    default/rsi         "rsi" on the shelf "default", everywhere

A persistent object cannot have a name of the first form, so every key has one meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from arrowpool.errors import ShelfKeyError

DEFAULT = "default"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# A process id has up to 7 digits on Linux, so dates such as 20240115 do not match.
_OF_PROCESS = re.compile(r"([1-9][0-9]{0,6})-([0-9a-f]{8})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """The key of an object that a process holds. The object ends with the process."""

    pid: int
    token: str
    number: int

    def __str__(self) -> str:
        return f"{self.pid}-{self.token}-{self.number}"


@dataclass(frozen=True, slots=True)
class PersistentKey:
    """The key of an object that stays until it is deleted."""

    shelf: str
    name: str

    def __str__(self) -> str:
        return self.name if self.shelf == DEFAULT else f"{self.shelf}/{self.name}"


def parse(key: str, shelf: str | None = DEFAULT) -> ProcessKey | PersistentKey:
    """The meaning of a key on the shelf of that name; None stands for a private shelf.

    Raises
    ------
    ShelfKeyError
        When the text is not a key.
    """
    if not isinstance(key, str) or len(key) > 300:
        raise ShelfKeyError(f"not a key: {key!r}")
    found = _OF_PROCESS.fullmatch(key)
    if found is not None:
        return ProcessKey(int(found[1]), found[2], int(found[3]))
    named, slash, name = key.rpartition("/")
    try:
        if slash:
            return PersistentKey(check_shelf(named), check_name(name))
        name = check_name(name)
    except ValueError as error:
        raise ShelfKeyError(f"not a key: {key!r}") from error
    if shelf is None:
        raise ShelfKeyError(f"no key {key!r} on this shelf: the keys of a private shelf cannot be chosen")
    return PersistentKey(shelf, name)


def check_name(name: str) -> str:
    """Return `name` if a persistent object can have it.

    Raises
    ------
    ValueError
        When it could reach another directory, is too long, or already means something else.
    """
    _check(name, "key")
    if _OF_PROCESS.fullmatch(name):
        raise ValueError(f"{name!r} has the form of a key of an object that a process holds; choose another form")
    return name


def check_shelf(name: str) -> str:
    """Return `name` if a shelf can have it.

    Raises
    ------
    ValueError
        When it could reach another directory, or is too long.
    """
    return _check(name, "shelf")


def is_name(name: str) -> bool:
    """Whether a file of that name is a shelf or an object: neither unfinished, nor another program's."""
    return _NAME.fullmatch(name) is not None


def _check(name: str, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a {what} has up to 100 letters, digits, '_', '-' and '.', and does not begin with '-' or '.': {name!r}"
        )
    return name
