"""Which key leads where. Words only: nothing here opens or asks.

    key                 module functions    Shelf("features")   Shelf() (private)
    ------------------  ------------------  ------------------  ------------------
    1234-ab12cd34-7     object 7 of process 1234, everywhere
    features/rsi        "rsi" on the shelf "features", everywhere
    rsi                 "rsi" on "default"  "rsi" on "features" an error: no names
    default/rsi         "rsi" on the shelf "default", everywhere

A persistent object cannot have a name of the first form, so a key has one meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from arrowpool.errors import ShelfKeyError

DEFAULT = "default"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# A process id has up to 7 digits on Linux: dates such as 20240115 are none.
_LIVING = re.compile(r"([1-9][0-9]{0,6})-([0-9a-f]{8})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Living:
    """An object that a process holds: goes with it."""

    pid: int
    token: str
    number: int

    def __str__(self) -> str:
        return f"{self.pid}-{self.token}-{self.number}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A persistent object: stays until it is deleted."""

    shelf: str
    name: str

    def __str__(self) -> str:
        return self.name if self.shelf == DEFAULT else f"{self.shelf}/{self.name}"


def parse(key: str, shelf: str | None = DEFAULT) -> Living | Kept:
    """Where a key leads, asked on that shelf; None is a private one.

    Raises
    ------
    ShelfKeyError
        When it is no key.
    """
    if not isinstance(key, str) or len(key) > 300:
        raise ShelfKeyError(f"that is no key: {key!r}")
    living = _LIVING.fullmatch(key)
    if living is not None:
        return Living(int(living[1]), living[2], int(living[3]))
    named, slash, name = key.rpartition("/")
    try:
        if slash:
            return Kept(check_shelf(named), check_name(name))
        name = check_name(name)
    except ValueError as error:
        raise ShelfKeyError(f"that is no key: {key!r}") from error
    if shelf is None:
        raise ShelfKeyError(f"no key {key!r} on this shelf: objects of a private shelf have no names of your choice")
    return Kept(shelf, name)


def check_name(name: str) -> str:
    """`name`, if a persistent object can have it.

    Raises
    ------
    ValueError
        When it could reach elsewhere, is too long, or means something else already.
    """
    _check(name, "key")
    if _LIVING.fullmatch(name):
        raise ValueError(f"a key like {name!r} is that of an object which a process holds; choose another form")
    return name


def check_shelf(name: str) -> str:
    """`name`, if a shelf can have it.

    Raises
    ------
    ValueError
        When it could reach elsewhere, or is too long.
    """
    return _check(name, "shelf")


def is_name(name: str) -> bool:
    """Whether a file of that name is a shelf or an object, and not something unfinished or somebody else's."""
    return _NAME.fullmatch(name) is not None


def _check(name: str, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a {what} has up to 100 letters, digits, '_', '-' and '.', and begins with neither of the last: {name!r}"
        )
    return name
