"""The objects that this process has put: in memory of its own, handed out to other processes of the same user on request.

A thread answers on a socket in the abstract namespace, which needs no file, is seen from every mount namespace, and is
gone with the process, however that ends. What it hands out are read-only descriptors of memory files: whoever has one goes
on reading, also after the object was deleted and after this process has ended.

Who may ask: processes with the user id that this process has, or had when it put its first object. The kernel says who
asks (SO_PEERCRED).
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from arrowpool.errors import ArenaFullError, ShelfKeyError
from arrowpool.memory import limits, system
from arrowpool.service import Service
from arrowpool.shelf.layout import Memory, Plan

_PREFIX = "\0arrowpool-shelf"
_PEER = struct.Struct("3i")
_MESSAGE_BYTES = 1 << 20
_REFUSED = b"refused"
_TIMEOUT_SECONDS = 10.0
#: Memory of deleted objects is kept for the next ones up to this share of what is available.
_SPARE_SHARE = 8


class MemoryFile:
    """A file in memory, mapped for writing for as long as it is ours: the next object that it takes finds its pages there.

    Parameters
    ----------
    fd : int
        Its descriptor, this object's own from here on.
    size : int
        Its bytes.
    """

    def __init__(self, fd: int, size: int):
        self.fd = fd
        self.size = size
        self._mapped = system.page_ceil(size)
        #: Whether all its pages exist, and are mapped.
        self._is_warm = False
        try:
            self._address = system.map_shared(fd, self._mapped) if size else 0
        except BaseException:
            os.close(fd)
            raise

    def fill(self, write: Callable[[Memory], None]) -> None:
        """Have it written.

        Raises
        ------
        MemoryError
            When the kernel has no memory for it.
        """
        if self.size:
            if not system.is_in_memory(self.fd):
                system.reserve(self.fd, 0, self.size)
            if not self._is_warm:
                system.populate(self._address, system.page_ceil(self.size))
                self._is_warm = True
            write(system.bytes_at(self._address, self.size))

    def take_for(self, size: int) -> bool:
        """Make it a file of fewer bytes, for another object, if nobody else sees it any more; whether that was so."""
        if not size <= self.size <= 2 * size + system.PAGE or not system.is_exclusive(self.fd):
            return False
        os.ftruncate(self.fd, size)
        self.size = size
        return True

    def close(self) -> None:
        """Let go of it. Who has it open goes on reading."""
        self.forget()
        if self._address:
            system.unmap(self._address, self._mapped)

    def forget(self) -> None:
        """In a forked child, which has the descriptor but not the map."""
        os.close(self.fd)


@dataclass(slots=True)
class Stored:
    """One object: its files by name, and what is known of it."""

    kind: str
    created: float
    files: dict[str, MemoryFile] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files.values())

    def describe(self) -> dict[str, Any]:
        """What others may know of it."""
        return {
            "kind": self.kind,
            "created": self.created,
            "nbytes": self.nbytes,
            "files": {name: file.size for name, file in self.files.items()},
            "paths": {name: f"/proc/{os.getpid()}/fd/{file.fd}" for name, file in self.files.items()},
        }


class Owner(Service):
    """All that this process has on the shelf."""

    def __init__(self) -> None:
        super().__init__("arrowpool-shelf")
        self.pid = os.getpid()
        self._users = {os.geteuid()}
        self._lock = threading.Lock()
        self._objects: dict[str, Stored] = {}
        self._spare: list[MemoryFile] = []
        self._count = 0
        self._token = secrets.token_hex(4)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(_address(os.geteuid(), self.pid, self._token))
        self._socket.listen(128)

    # For this process

    def put(self, plan: Plan) -> str:
        """Take an object in; return its key.

        Raises
        ------
        ArenaFullError
            When there is no memory for it. Nothing is held then.
        """
        stored = Stored(plan.kind, time.time())
        try:
            for planned in plan.files:
                file = stored.files[planned.name] = self._file(planned.size)
                file.fill(planned.write)
        except BaseException:
            for file in stored.files.values():
                file.close()
            raise
        with self._lock:
            self._count += 1
            key = f"{self.pid}-{self._token}-{self._count}"
            self._objects[key] = stored
        return key

    def _file(self, size: int) -> MemoryFile:
        """A memory file of that size: one that nobody sees any more, warm, or a new one."""
        with self._lock:
            for number, spare in enumerate(self._spare):
                if spare.take_for(size):
                    del self._spare[number]
                    return spare
        fd = system.create_resizable("arrowpool-shelf", size)
        available = limits.headroom(fd)
        if size > available:
            os.close(fd)
            raise ArenaFullError(f"{size:,} bytes are wanted for the shelf and {max(0, available):,} available")
        return MemoryFile(fd, size)

    def get(self, key: str) -> Stored | None:
        """The object under a key of this process's."""
        with self._lock:
            return self._objects.get(key)

    def list_keys(self) -> list[str]:
        with self._lock:
            return list(self._objects)

    def delete(self, key: str) -> bool:
        """Let go of an object; whether it was there. Who reads it goes on reading."""
        with self._lock:
            stored = self._objects.pop(key, None)
            if stored is None:
                return False
            total, available = limits.memory()
            kept = sum(spare.size for spare in self._spare)
            for file in stored.files.values():
                if kept + file.size <= available // _SPARE_SHARE and available > total // 4:
                    kept += file.size
                    self._spare.append(file)
                else:
                    file.close()
            return True

    def close(self) -> None:
        """Answer no more, and let go of everything."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join()
        with self._lock:
            for file in self._files():
                file.close()
            self._objects.clear()
            self._spare.clear()

    def forget(self) -> None:
        """In a forked child: this is the parent's, who alone answers for it."""
        self._socket.close()
        for file in self._files():
            file.forget()

    def _files(self) -> list[MemoryFile]:
        return [file for stored in self._objects.values() for file in stored.files.values()] + self._spare

    # For others

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, ValueError, KeyError):
                connection.settimeout(_TIMEOUT_SECONDS)
                if _peer(connection) in self._users | {os.geteuid()}:
                    self._answer(connection)
                else:
                    connection.send(_REFUSED)

    def _answer(self, connection: socket.socket) -> None:
        what, key = json.loads(connection.recv(_MESSAGE_BYTES))
        if what == "list":
            with self._lock:
                _send(connection, {key: stored.describe() for key, stored in self._objects.items()}, [])
        elif what == "delete":
            _send(connection, self.delete(key), [])
        elif what == "get":
            with self._lock:
                stored = self._objects.get(key)
                fds = [system.read_only(file.fd) for file in stored.files.values()] if stored is not None else []
            try:
                _send(connection, stored.describe() if stored is not None else None, fds)
            finally:
                for fd in fds:
                    os.close(fd)


def _address(user: int, pid: int, token: str) -> str:
    return f"{_PREFIX}/{user}/{pid}/{token}"


def _peer(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(credentials)[1])


def _send(connection: socket.socket, answer: Any, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    connection.sendmsg([json.dumps(answer).encode()], rights)


# The other side: asking another process.


def ask(key: str, what: str) -> tuple[Any, list[int]]:
    """Ask the owner of a key; return its answer and descriptors, now this process's own.

    Raises
    ------
    ShelfKeyError
        When the owner is gone, or the key is none.
    PermissionError
        When the owner is another user's process.
    """
    pid, _, rest = key.partition("-")
    token = rest.partition("-")[0]
    for user, address in _addresses():
        if address.endswith(f"/{pid}/{token}"):
            return _ask(address, user, [what, key])
    raise ShelfKeyError(f"no key {key!r}: its owner, process {pid}, has ended or never had it")


def everything() -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and description of all that other processes of this user have put."""
    for user, address in _addresses():
        with contextlib.suppress(ShelfKeyError, PermissionError):
            yield from _ask(address, user, ["list", ""])[0].items()


def _ask(address: str, user: int, question: list[str]) -> tuple[Any, list[int]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        try:
            connection.connect(address)
            if _peer(connection) not in (user, os.geteuid()) or user not in _own_users():
                raise PermissionError(f"the owner is a process of another user ({_peer(connection)})")
            connection.send(json.dumps(question).encode())
            answer, rights, flags, _ = connection.recvmsg(
                _MESSAGE_BYTES, socket.CMSG_SPACE(8 * array.array("i").itemsize)
            )
        except (ConnectionError, TimeoutError) as error:
            raise ShelfKeyError(f"no key {question[1]!r}: its owner has ended") from error
    fds = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError("too few descriptors left in this process to read from the shelf; raise RLIMIT_NOFILE")
    if answer == _REFUSED:
        raise PermissionError("the owner does not answer processes of this user")
    if not answer:
        raise ShelfKeyError(f"no key {question[1]!r}: its owner has ended")
    return json.loads(answer), list(fds)


def _own_users() -> set[int]:
    """The user ids that this process runs with, or has run with."""
    return set(os.getresuid())


def _addresses() -> Iterator[tuple[int, str]]:
    """User id and address of every process that has put something."""
    with open("/proc/net/unix") as file:
        for line in file:
            path = line.rstrip("\n").rpartition(" ")[2]
            if path.startswith("@" + _PREFIX[1:] + "/"):
                parts = path.split("/")
                if len(parts) == 4 and parts[1].isdigit():
                    yield int(parts[1]), "\0" + path[1:]
