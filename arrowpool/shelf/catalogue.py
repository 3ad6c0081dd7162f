"""What a process has on the shelf, written down where others can read it without asking.

A memory file of the owner's: a header, and a slot of fixed size for each object. A reader that may open the owner's
descriptors (`/proc/<pid>/fd`: processes of the same user may) reads it there, also while the owner computes in C, or is
stopped.

Race: the owner deletes an object while a reader opens it.

1. The owner writes 0 over the object's number, and only then looks whether anybody has its file open, and uses it again.
2. The reader opens the file and maps or copies it, and only then looks whether the number is still there.

If it is, the file was open before the owner looked, and stays as it is; or the copy was whole. If it is not, the reader
lets go, and says that the object was deleted. Numbers are never used twice. A slot that is read while it is written has a
wrong checksum, and is read again.
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
# Number, checksum of all else, length of the kind, time; descriptor, inode, offset and size of each piece; kind.
_RECORD = struct.Struct("<QIHxxd" + "qQQQ" * 2 + "168s")
_AFTER_CHECKSUM = 12
_PIECES = (TABLE, EXACT)
#: A number is the slot's, counted from 1; and, if it was used before, this many times how often slots have been used again.
_SLOTS = 1 << 24
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a file of an object lies: in which file, open in its owner under which number, and where in that."""

    fd: int
    inode: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one object: its number, the name of its type, when it was put (seconds since 1970), and its pieces."""

    number: int
    kind: str
    created: float
    pieces: dict[str, Piece]

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return sum(piece.size for piece in self.pieces.values())


class Catalogue:
    """The catalogue of this process. Any thread may add and remove, also in a finalizer or signal handler that interrupts another."""

    def __init__(self, pid: int, token: str):
        self.fd = files.create(files.CATALOGUE + token, _SLOT)
        #: Slots that have been used and are free, the next one that has not, and how often one was used again; each is taken in
        #: one step of Python's.
        self._free: list[int] = []
        self._fresh = itertools.count(1)
        self._reuses = itertools.count(1)
        os.pwrite(self.fd, _HEADER.pack(_MAGIC, pid, token.encode()), 0)

    def add(self, kind: str, created: float, pieces: dict[str, Piece]) -> Record:
        """Write an object down, under a number that no other ever had.

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
        record = Record(number, kind, created, pieces)
        packed = _pack(record)
        try:
            # The number last: by it the slot counts.
            os.pwrite(self.fd, packed[_NUMBER.size :], _SLOT * slot + _NUMBER.size)
            os.pwrite(self.fd, packed[: _NUMBER.size], _SLOT * slot)
        except BaseException:
            self.remove(record.number)
            raise
        return record

    def remove(self, number: int) -> None:
        """From now on nobody finds it."""
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
    """Whether that is the catalogue of a process."""
    return os.pread(fd, _HEADER.size, 0) == _HEADER.pack(_MAGIC, pid, token.encode())


def has(fd: int, number: int) -> bool:
    """Whether the object is still written down in a catalogue."""
    return os.pread(fd, _NUMBER.size, _SLOT * (number % _SLOTS)) == _NUMBER.pack(number)


def find(fd: int, number: int) -> Record | None:
    """What is written down of an object; None when it is not, any more."""
    if not 0 < number < 1 << 64:
        return None
    for _ in range(_TRIES):
        packed = os.pread(fd, _SLOT, _SLOT * (number % _SLOTS))
        if packed[: _NUMBER.size] != _NUMBER.pack(number):
            return None
        record = _unpack(packed)
        if record is not None:
            return record
    raise OSError(f"object {number} is written down in a way that cannot be read")


def read(fd: int) -> Iterator[Record]:
    """All objects in a catalogue."""
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
    places: list[int] = []
    for name in _PIECES:
        piece = record.pieces.get(name)
        places += (piece.fd, piece.inode, piece.offset, piece.size) if piece is not None else (-1, 0, 0, 0)
    packed = bytearray(_RECORD.pack(record.number, 0, len(kind), record.created, *places, kind))
    struct.pack_into("<I", packed, _NUMBER.size, _checksum(packed))
    return bytes(packed)


def _unpack(packed: bytes) -> Record | None:
    """None when it was read while it was written."""
    if len(packed) != _SLOT:
        return None
    number, checksum, length, created, *places, kind = _RECORD.unpack(packed)
    if checksum != _checksum(packed):
        return None
    pieces = {name: Piece(*places[4 * i : 4 * i + 4]) for i, name in enumerate(_PIECES) if places[4 * i] >= 0}
    return Record(number, kind[:length].decode(), created, pieces)


def _checksum(packed: bytes | bytearray) -> int:
    return zlib.crc32(packed[_AFTER_CHECKSUM:], zlib.crc32(packed[: _NUMBER.size]))
