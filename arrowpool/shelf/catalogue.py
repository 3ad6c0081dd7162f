"""The catalogue of an owner: a list of its objects that other processes read without asking it.

It is a memory file: a header, and a slot of fixed size for each object. A reader that may open the owner's descriptors
(``/proc/<pid>/fd``, which the kernel allows processes of the same user) reads the catalogue there, also while the owner
computes in C or is stopped.

Race: the owner deletes an object while a reader opens it.

1. The owner writes 0 over the object's number.
2. The owner asks the kernel whether another process has the object's file open, and reuses the file if none has.
3. The reader opens the file, and maps or copies it.
4. The reader looks whether the number is still in the catalogue.

If the reader sees the number in 4, then 3 came before 1: in 2 the owner finds the file open and leaves it alone, or the reader's
copy was complete. Otherwise the reader drops what it opened and reports that the object was deleted. Verdict: a reader gets the
whole object or an error. Numbers are never used twice. A slot that is read while it is written has a wrong checksum, and is read
again.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from arrowpool.shelf import files
from arrowpool.shelf.layout import EXACT, TABLE

_SLOT = 256
_HEADER = struct.Struct("<8sQ8s")
_MAGIC = b"ARROWPC1"
_NUMBER = struct.Struct("<Q")
# Number, checksum of everything else, length of the kind, time; descriptor, inode, offset and size of each part; kind.
_RECORD = struct.Struct("<QIHxxd" + "qQQQ" * 2 + "168s")
_AFTER_CHECKSUM = 12
_PARTS = (TABLE, EXACT)
#: An object's number is that of its slot, counted from 1, plus this many times the count of reuses so far if the slot is reused.
_SLOTS = 1 << 24
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Location:
    """Where a part of an object lies: in a memory file that its owner has open as descriptor `fd`, at an offset."""

    fd: int
    inode: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """One object: its number, the name of its type, when it was put (seconds since 1970), and where its parts lie."""

    number: int
    kind: str
    created: float
    parts: dict[str, Location]

    @property
    def nbytes(self) -> int:
        """Bytes of all its parts."""
        return sum(location.size for location in self.parts.values())


class Catalogue:
    """The catalogue of this process.

    Any thread may call `add` and `remove`, also a finalizer or signal handler that interrupts another call. There is no lock:
    a call writes only to a slot that it alone has, since slots are handed out in single steps.
    """

    def __init__(self, pid: int, token: str):
        self.fd = files.create(files.CATALOGUE + token, _SLOT)
        #: Slots that are free again. Any thread appends and pops, each a single step of the list.
        self._free: list[int] = []
        #: The next slot that was never used, and the number of reuses. Any thread takes the next one; `itertools.count` makes
        #: that a single step, also on a free-threaded build.
        self._fresh = itertools.count(1)
        self._reuses = itertools.count(1)
        os.pwrite(self.fd, _HEADER.pack(_MAGIC, pid, token.encode()), 0)

    def add(self, kind: str, created: float, parts: dict[str, Location]) -> Record:
        """Enter an object, under a number that no other object ever had.

        Raises
        ------
        OSError
            When the file cannot grow.
        """
        try:
            number = self._free.pop() + next(self._reuses) * _SLOTS
        except IndexError:
            number = next(self._fresh)
        slot = number % _SLOTS
        record = Record(number, kind, created, parts)
        packed = _pack(record)
        try:
            # The number comes last: it makes the slot valid.
            os.pwrite(self.fd, packed[_NUMBER.size :], _SLOT * slot + _NUMBER.size)
            os.pwrite(self.fd, packed[: _NUMBER.size], _SLOT * slot)
        except BaseException:
            self.remove(record.number)
            raise
        return record

    def remove(self, number: int) -> None:
        """Strike an object out: readers do not find it from now on."""
        slot = number % _SLOTS
        try:
            os.pwrite(self.fd, bytes(_NUMBER.size), _SLOT * slot)
        finally:
            self._free.append(slot)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def is_of(fd: int, pid: int, token: str) -> bool:
    """Whether this file is the catalogue of that owner."""
    return os.pread(fd, _HEADER.size, 0) == _HEADER.pack(_MAGIC, pid, token.encode())


def has(fd: int, number: int) -> bool:
    """Whether an object is in a catalogue."""
    return os.pread(fd, _NUMBER.size, _SLOT * (number % _SLOTS)) == _NUMBER.pack(number)


def find(fd: int, number: int) -> Record | None:
    """The record of an object; None when it is not in the catalogue."""
    if not 0 < number < 1 << 64:
        return None
    for _ in range(_TRIES):
        packed = os.pread(fd, _SLOT, _SLOT * (number % _SLOTS))
        if packed[: _NUMBER.size] != _NUMBER.pack(number):
            return None
        record = _unpack(packed)
        if record is not None:
            return record
    raise OSError(f"the catalogue's entry of object {number} cannot be read")


def read(fd: int) -> Iterator[Record]:
    """The records of all objects in a catalogue."""
    at = _SLOT
    while True:
        block = os.pread(fd, 1024 * _SLOT, at)
        for start in range(0, len(block) - len(block) % _SLOT, _SLOT):
            packed = block[start : start + _SLOT]
            (number,) = _NUMBER.unpack_from(packed)
            if number:
                record = _unpack(packed) or find(fd, number)
                if record is not None:
                    yield record
        if len(block) < 1024 * _SLOT:
            return
        at += len(block)


def _pack(record: Record) -> bytes:
    kind = record.kind.encode(errors="replace")[:168].decode(errors="ignore").encode()
    packed_parts: list[int] = []
    for name in _PARTS:
        part = record.parts.get(name)
        packed_parts += (part.fd, part.inode, part.offset, part.size) if part is not None else (-1, 0, 0, 0)
    packed = bytearray(_RECORD.pack(record.number, 0, len(kind), record.created, *packed_parts, kind))
    struct.pack_into("<I", packed, _NUMBER.size, _checksum(packed))
    return bytes(packed)


def _unpack(packed: bytes) -> Record | None:
    """The record in a slot; None when the slot was read while it was written."""
    if len(packed) != _SLOT:
        return None
    number, checksum, length, created, *places, kind = _RECORD.unpack(packed)
    if checksum != _checksum(packed):
        return None
    parts = {name: Location(*places[4 * i : 4 * i + 4]) for i, name in enumerate(_PARTS) if places[4 * i] >= 0}
    return Record(number, kind[:length].decode(), created, parts)


def _checksum(packed: bytes | bytearray) -> int:
    return zlib.crc32(packed[_AFTER_CHECKSUM:], zlib.crc32(packed[: _NUMBER.size]))
