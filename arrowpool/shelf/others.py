"""What other processes of this user have on the shelf.

An owner is believed when the kernel says that it is a process of this user; nothing that another user's process says is read,
and none is connected to where the kernel tells beforehand whose socket it is (`listeners`).

Reading needs nothing of the owner where this process may open what is open in that one (see `catalogue`). Else it is asked,
and has a while to answer: an owner that computes in C with the interpreter's lock held, or is stopped, does not hear. What
the kernel says tells it from one that has ended.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from arrowpool.errors import ShelfKeyError
from arrowpool.interrupts import slices
from arrowpool.memory import facilities
from arrowpool.shelf import catalogue, owner
from arrowpool.shelf.catalogue import Record
from arrowpool.shelf.files import CATALOGUE, leads_to, open_to_read
from arrowpool.shelf.keys import Living
from arrowpool.shelf.owner import REFUSED, address_of, parse_address, peer
from arrowpool.waiting import wait_readable

_MESSAGE_BYTES = 1 << 16
_MAX_FDS = 8
#: How long an owner that does not answer is waited for.
PATIENCE_SECONDS = 60.0
#: And somebody of whom the kernel does not say who it is, while it takes no connection.
_STRANGER_SECONDS = 1.0
#: Numbers of descriptors are forgotten beyond so many owners.
_HINTS = 256

#: Under which descriptor an owner has its catalogue: only where to look first.
_hints: dict[tuple[int, str], str] = {}


@dataclass(slots=True)
class Found:
    """An object of a running process: what is known of it, and descriptors of this process's to read it by."""

    record: Record
    catalogue: int
    fds: dict[str, int]

    def is_there(self) -> bool:
        """Whether it has not been deleted. What was opened, and mapped or copied, before this was so, is the object."""
        return catalogue.has(self.catalogue, self.record.number)

    def close(self) -> None:
        for fd in (self.catalogue, *self.fds.values()):
            os.close(fd)


def find(living: Living, *, with_pieces: bool = True) -> Found:
    """Look an object up.

    Raises
    ------
    ShelfKeyError
        When it was deleted, its owner has ended, or the key is none.
    PermissionError
        When the owner is another user's process.
    TimeoutError
        When the owner is there and does not answer.
    """
    with _opened_files(living.pid, living.token) as (files, fd):
        if files >= 0:
            fds = _open_pieces(living, fd, files) if with_pieces else {}
            return found(living, list(fds), [os.dup(fd), *fds.values()])
    names, received = ask(living, "get")
    if names is None:
        raise deleted(living)
    return found(living, names, received)


def found(living: Living, names: list[str], fds: list[int]) -> Found:
    """An object by descriptors of its owner's catalogue and of its pieces; they are the result's from here on."""
    try:
        record = catalogue.find(fds[0], living.number)
        pieces = dict(zip(names, fds[1:], strict=True))
        if record is None or (pieces and pieces.keys() != record.pieces.keys()):
            raise deleted(living)
        return Found(record, fds[0], pieces)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _open_pieces(living: Living, fd: int, files: int) -> dict[str, int]:
    record = catalogue.find(fd, living.number)
    if record is None:
        raise deleted(living)
    fds: dict[str, int] = {}
    try:
        for name, piece in record.pieces.items():
            fds[name] = _open_file(files, str(piece.fd))
            if os.fstat(fds[name]).st_ino != piece.inode:
                raise deleted(living)
    except BaseException as error:
        for one in fds.values():
            os.close(one)
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.ENXIO):
            raise deleted(living) from error
        raise
    return fds


def deleted(living: Living) -> ShelfKeyError:
    """The error for an object that is there no more, or never was."""
    return ShelfKeyError(f"no key {str(living)!r}: it was deleted, or never was")


def _ended(living: Living) -> ShelfKeyError:
    return ShelfKeyError(f"no key {str(living)!r}: its owner, process {living.pid}, has ended or never had it")


def everything(*, but: tuple[int, str] | None) -> Iterator[tuple[str, Record]]:
    """Key and description of all that processes of this user have put, but for one owner.

    Raises
    ------
    TimeoutError
        When an owner cannot be read and does not answer.
    """
    for user, pid, token in _owners():
        if user not in _own_users() or (pid, token) == but:
            continue
        records: list[Record] = []
        with _opened_files(pid, token) as (files, fd):
            if files >= 0:
                records = list(catalogue.read(fd))
        if files < 0:
            try:
                _, fds = ask(Living(pid, token, 0), "catalogue")
            except (ShelfKeyError, PermissionError):
                continue
            try:
                records = [record for fd in fds for record in catalogue.read(fd)]
            finally:
                for fd in fds:
                    os.close(fd)
        for record in records:
            yield str(Living(pid, token, record.number)), record


# Looking into the owner's descriptors


@contextlib.contextmanager
def _opened_files(pid: int, token: str) -> Iterator[tuple[int, int]]:
    """Descriptors of the directory of an owner's descriptors, and of its catalogue; -1 where this process may not look."""
    with contextlib.ExitStack() as opened:
        yield _look_into(pid, token, opened)


def _look_into(pid: int, token: str, opened: contextlib.ExitStack) -> tuple[int, int]:
    nothing = -1, -1
    try:
        # The directory is that of this very process: when that has ended, another one with its number is not found here.
        files = os.open(facilities.proc(f"{pid}/fd"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, files)
        if os.fstat(files).st_uid not in _own_users():
            return nothing
        name = CATALOGUE + token
        number = _hints.get((pid, token), "")
        if not leads_to(files, number, name):
            number = next((one for one in os.listdir(files) if leads_to(files, one, name)), "")
            if not number:
                return nothing
            if len(_hints) >= _HINTS:
                _hints.clear()
            _hints[pid, token] = number
        fd = _open_file(files, number)
        opened.callback(os.close, fd)
        return (files, fd) if catalogue.is_of(fd, pid, token) else nothing
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return nothing


def _open_file(files: int, number: str) -> int:
    """Open a memory file of an owner for reading.

    Raises
    ------
    OSError
        When it is not that, or not this user's.
    """
    if not leads_to(files, number):
        raise FileNotFoundError(errno.ENOENT, f"descriptor {number} is no memory of the shelf")
    fd = open_to_read(number, files)
    if os.fstat(fd).st_uid not in _own_users():
        os.close(fd)
        raise PermissionError(errno.EACCES, "memory of another user")
    return fd


# Asking


def ask(living: Living, what: str) -> tuple[Any, list[int]]:
    """Ask the owner of a key; return its answer and descriptors, now this process's own.

    Raises
    ------
    ShelfKeyError
        When the owner is gone.
    PermissionError
        When the owner is another user's process.
    TimeoutError
        When it is there and does not answer.
    OSError
        When it cannot do what it was asked for, or this process has too few descriptors.
    """
    users = listeners()
    stranger = None
    for user in sorted(_own_users()):
        address = address_of(user, living.pid, living.token)
        if users is not None and users.get(address.encode()) not in _own_users():
            continue  # nobody is there, or somebody who has taken the name
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.setblocking(False)
            try:
                who = _connect(connection, address, living, is_known=users is not None)
                if who is not None:
                    return _converse(connection, living, what, who)
            except ConnectionError as error:
                raise _ended(living) from error
    for address_bytes, user in (users or {}).items():
        parsed = parse_address(address_bytes)
        if parsed is not None and parsed == (user, living.pid, living.token):
            stranger = user
    if stranger is not None:
        raise PermissionError(f"the owner of {str(living)!r} is a process of another user ({stranger})")
    raise _ended(living)


def _connect(connection: socket.socket, address: str, living: Living, *, is_known: bool) -> int | None:
    """Connect; the process that listens, or None when it is another user's."""
    until = time.monotonic() + (PATIENCE_SECONDS if is_known else _STRANGER_SECONDS)
    pause = 0.001
    while True:
        try:
            connection.connect(address)
            break
        except BlockingIOError:  # as many wait already as may
            if time.monotonic() > until:
                raise _silent(living, PATIENCE_SECONDS if is_known else _STRANGER_SECONDS) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    user, pid = peer(connection)
    return pid if user in _own_users() else None


def _converse(connection: socket.socket, living: Living, what: str, pid: int) -> tuple[Any, list[int]]:
    connection.send(json.dumps([what, living.number]).encode())
    began = _started(pid)
    for seconds in slices(PATIENCE_SECONDS):
        if wait_readable([connection.fileno()], seconds):
            break
        if began is not None and _started(pid) != began:
            raise _ended(living)  # somebody else has its socket, a child that was not told to close it
    else:
        raise _silent(living, PATIENCE_SECONDS)
    answer, rights, flags, _ = connection.recvmsg(
        _MESSAGE_BYTES, socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    received = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    fds = list(received)
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError(
                errno.EMFILE, "too few descriptors left in this process to read from the shelf; raise RLIMIT_NOFILE"
            )
        if answer == REFUSED:
            raise PermissionError(f"the owner of {str(living)!r} does not answer processes of this user")
        if not answer:
            raise _ended(living)
        said = json.loads(answer)
        if isinstance(said, dict):
            raise OSError(f"the owner of {str(living)!r}, process {living.pid}, cannot: {said.get('error')}")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return said, fds


def _silent(living: Living, seconds: float) -> TimeoutError:
    return TimeoutError(
        f"process {living.pid}, which holds {str(living)!r}, is there and has not answered within {seconds:g} s: it is "
        "stopped, or computes in compiled code that does not let other threads run. Try again later."
    )


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None when it has ended, or nobody can tell."""
    try:
        with open(facilities.proc(f"{pid}/stat")) as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if fields[0] not in "ZX" else None


def _own_users() -> set[int]:
    """The user ids that this process runs with, or has run with."""
    return set(os.getresuid())


# Who listens

_DIAG_REQUEST = struct.Struct("=IHHIIBBHIIIII")
_DIAG_HEADER = struct.Struct("=IHHII")
_DIAG_MESSAGE = 32
_ATTRIBUTE = struct.Struct("=HH")
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _DUMP = 4, 20, 0x301
_LISTENING, _SHOW_NAME, _SHOW_USER = 1 << 10, 0x1, 0x40
_NAME, _USER = 0, 7
_ERROR, _DONE = 2, 3


def listeners() -> dict[bytes, int] | None:
    """Addresses of our form on which somebody listens, and whose sockets they are; None where the kernel does not tell.

    By sock_diag(7), which says the user id of a socket since Linux 5.3.
    """
    found: dict[bytes, int] = {}
    prefix = owner._PREFIX.encode() + b"/"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_STRANGER_SECONDS)
            kernel.sendto(
                _DIAG_REQUEST.pack(
                    *(_DIAG_REQUEST.size, _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0),
                    *(socket.AF_UNIX, 0, 0, _LISTENING, 0, _SHOW_NAME | _SHOW_USER, 0, 0),
                ),
                (0, 0),
            )
            while True:
                block = kernel.recv(1 << 18)
                at = 0
                while at + _DIAG_HEADER.size <= len(block):
                    length, kind, *_ = _DIAG_HEADER.unpack_from(block, at)
                    if kind == _DONE:
                        return found
                    if kind == _ERROR or length < _DIAG_HEADER.size:
                        return None
                    name, user = _attributes(block[at + _DIAG_MESSAGE : at + length])
                    if name.startswith(prefix):
                        if user is None:
                            return None
                        found[name] = user
                    at += -(-length // 4) * 4
    except OSError:
        return None


def _attributes(block: bytes) -> tuple[bytes, int | None]:
    name, user = b"", None
    at = 0
    while at + _ATTRIBUTE.size <= len(block):
        length, kind = _ATTRIBUTE.unpack_from(block, at)
        if length < _ATTRIBUTE.size:
            break
        value = block[at + _ATTRIBUTE.size : at + length]
        if kind == _NAME:
            name = value
        elif kind == _USER and len(value) == 4:
            user = int.from_bytes(value, sys.byteorder)
        at += -(-length // 4) * 4
    return name, user


def _owners() -> Iterator[tuple[int, int, str]]:
    """User, process and token of every owner: of whom the kernel says so, or who says so itself where the kernel does not."""
    users = listeners()
    if users is not None:
        for address, user in users.items():
            parsed = parse_address(address)
            if parsed is not None and user in _own_users():
                yield parsed
        return
    with open(facilities.proc("net/unix"), encoding="utf-8", errors="replace") as file:
        for line in file:
            path = line.rstrip("\n").rpartition(" ")[2]
            parsed = parse_address(b"\0" + path[1:].encode()) if path.startswith("@") else None
            if parsed is not None:
                yield parsed
