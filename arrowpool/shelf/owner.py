"""The objects that this process has put: in memory of its own, which other processes of the same user read.

They find them in the catalogue (see there) and open them through `/proc`, without a word to this process. Where they may not,
and for what only the owner can do, they ask: a thread answers on a socket in the abstract namespace, which needs no file, is
seen from every mount namespace, and is gone with the process, however that ends. What it hands out are read-only
descriptors.

Who may ask: processes with the user id that this process has, or had when it put its first object. The kernel says who
asks (SO_PEERCRED).

Questions are ``[what, number]`` as JSON, one a connection:

    get        the names of the object's pieces, with descriptors of the catalogue and of each; null when it was deleted
    catalogue  true, with its descriptor
    path       a file of the table alone that others may open; null when it was deleted
    delete     whether it was there
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import secrets
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from arrowpool.errors import ArenaFullError
from arrowpool.shelf import files
from arrowpool.shelf.catalogue import Catalogue, Record
from arrowpool.shelf.keys import Living
from arrowpool.shelf.layout import TABLE, Plan
from arrowpool.shelf.places import MemoryFile, Place, Places
from arrowpool.threads import Service

_PREFIX = "\0arrowpool-shelf"
_PEER = struct.Struct("3i")
_MESSAGE_BYTES = 1 << 16
REFUSED = b"refused"
#: Who has connected says what it wants within this time, or is not waited for any more.
_TIMEOUT_SECONDS = 10.0
#: So many are listened to at a time; more wait for their turn in the kernel, which keeps as many as it may.
_CONVERSATIONS = 32
_BACKLOG = 1 << 16
#: How often is looked what can be given back, while there is anything.
_TEND_SECONDS = 1.0
#: After which time a thread that could get no descriptor tries again.
_WAIT_SECONDS = 0.1


@dataclass(slots=True)
class Stored:
    """One object: what is known of it, and where its pieces lie."""

    record: Record
    places: dict[str, Place]
    #: A file of its own for a table that lies in a file with others, if any; made for the first who wants a path to it.
    shown: list[MemoryFile] = field(default_factory=list)


class Owner(Service):
    """All that this process has on the shelf."""

    def __init__(self) -> None:
        super().__init__("arrowpool-shelf")
        self.pid = os.getpid()
        self.token = secrets.token_hex(4)
        self._users = {os.geteuid()}
        #: Held by whoever puts, or shows, an object: against `close` only, since a signal handler or a finalizer that puts one may
        #: interrupt this thread in the middle of that, and takes it again. Not by who deletes one.
        self._lock = threading.RLock()
        #: By number, as in the catalogue. What is deleted goes from here first, by one step of Python's.
        self._objects: dict[int, Stored] = {}
        self._catalogue = Catalogue(self.pid, self.token)
        self._places = Places()
        #: Whether the thread comes by again without being asked.
        self._tends = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind(address_of(os.geteuid(), self.pid, self.token))
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            self._catalogue.close()
            raise

    # For this process

    def has(self, living: Living) -> bool:
        """Whether that is a key of this process's."""
        return (living.pid, living.token) == (self.pid, self.token)

    def put(self, plan: Plan) -> str:
        """Take an object in; return its key.

        Raises
        ------
        ArenaFullError
            When there is no memory for it. Nothing is held then.
        """
        places: dict[str, Place] = {}
        try:
            for file in plan.files:
                places[file.name] = self._places.put(file.size, file.write)
            pieces = {name: place.piece for name, place in places.items()}
            with self._lock:
                record = self._catalogue.add(plan.kind, time.time(), pieces)
                self._objects[record.number] = Stored(record, places)
        except BaseException as error:
            for place in places.values():
                self._places.free(place, keep=False)
            if files.is_for_want_of_room(error):
                raise ArenaFullError(f"{plan.nbytes:,} bytes are wanted for the shelf: {error}") from error
            raise
        return str(Living(self.pid, self.token, record.number))

    def open(self, number: int) -> tuple[list[str], list[int]] | None:
        """The names of an object's pieces; descriptors of the catalogue and of each. None when it was deleted."""
        stored = self._objects.get(number)
        fds: list[int] = []
        try:
            if stored is not None:
                fds.append(files.read_only(self._catalogue.fd))
                for place in stored.places.values():
                    piece = place.piece
                    fds.append(files.read_only(piece.fd))
                    if os.fstat(fds[-1]).st_ino != piece.inode:
                        raise OSError(errno.EBADF, "another file has its number by now")
            if stored is not None and number in self._objects:
                return list(stored.places), fds
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, OSError) and number not in self._objects:
                return None  # it was deleted meanwhile
            raise
        for fd in fds:
            os.close(fd)
        return None

    def records(self) -> list[Record]:
        """What is known of each object."""
        return [stored.record for stored in self._objects.copy().values()]

    def path(self, number: int) -> str | None:
        """Where others may open the table of an object as a file of its own; None when it was deleted."""
        with self._lock:
            stored = self._objects.get(number)
            if stored is None:
                return None
            table = stored.places[TABLE]
            if not isinstance(table, MemoryFile):
                if not stored.shown:
                    stored.shown.append(self._copy_of(table))
                table = stored.shown[0]
            path = f"/proc/{self.pid}/fd/{table.piece.fd}"
        if number not in self._objects:
            self._hide(stored)
            return None
        return path

    def _copy_of(self, place: Place) -> MemoryFile:
        piece = place.piece
        file = MemoryFile(piece.size)
        try:
            file.write(lambda memory: _read_into(piece.fd, memory.data, piece.offset))
        except BaseException:
            file.close()
            raise
        return file

    def delete(self, number: int) -> bool:
        """Let go of an object; whether it was there. Who reads it goes on reading. Waits for nobody."""
        stored = self._objects.pop(number, None)
        if stored is None:
            return False
        self._catalogue.remove(number)
        for place in stored.places.values():
            self._places.free(place)
        self._hide(stored)
        if any(place.lingers for place in stored.places.values()):
            self._come_by()
        return True

    def _hide(self, stored: Stored) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._places.free(stored.shown.pop(), keep=False)

    def delete_all(self) -> None:
        """Let go of all objects, and of all that is kept for the next ones."""
        for record in self.records():
            self.delete(record.number)
        self._places.give_back()

    def _come_by(self) -> None:
        """Have the thread look after what is kept for a while, if it does not already.

        Race: the thread says that it does not any more, and only then looks whether it has to, and if so says that it does.
        Whoever has deleted something before that look is seen by it; who does so after it has said so wakes it up.
        """
        if self._tends:
            return
        self._tends = True
        # It waits for who asks; who says nothing is no matter to it.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bell:
            bell.setblocking(False)
            bell.connect(self._socket.getsockname())

    def close(self) -> None:
        """Answer no more, and let go of everything."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()
        with self._lock:
            self._catalogue.close()
        while self._objects:
            self._hide(self._objects.popitem()[1])
        self._places.close()

    def forget(self) -> None:
        """In a forked child: this is the parent's, who alone answers for it."""
        self._socket.close()
        self._catalogue.close()
        for stored in self._objects.values():
            for file in stored.shown:
                file.forget()
        self._places.forget()

    # For others

    def run(self) -> None:
        poll = select.poll()
        asking: dict[int, tuple[socket.socket, float]] = {}
        listener = self._socket.fileno()
        try:
            while True:
                listens = len(asking) < _CONVERSATIONS
                poll.register(listener, select.POLLIN if listens else 0)  # closed is said in any case
                for fd, event in poll.poll(1000 * _TEND_SECONDS if asking or self._tends else None):
                    if fd != listener:
                        self._answer(asking.pop(fd)[0], poll)
                    elif event & (select.POLLHUP | select.POLLNVAL | select.POLLERR) or not self._accept(poll, asking):
                        return
                late = time.monotonic() - _TIMEOUT_SECONDS
                for fd in [fd for fd, (_, since) in asking.items() if since < late]:
                    poll.unregister(fd)
                    asking.pop(fd)[0].close()
                if self._tends:
                    self._tends = False
                    if self._places.tend():
                        self._tends = True
        finally:
            for connection, _ in asking.values():
                connection.close()

    def _accept(self, poll: select.poll, asking: dict[int, tuple[socket.socket, float]]) -> bool:
        """Listen to one more; False when this is over."""
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_WAIT_SECONDS)  # it is still there then
                return True
            return error.errno in (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EPERM)
        connection.setblocking(False)
        if peer(connection)[0] in self._users | {os.geteuid()}:
            asking[connection.fileno()] = connection, time.monotonic()
            poll.register(connection.fileno(), select.POLLIN)
        else:
            with connection, contextlib.suppress(OSError):
                connection.send(REFUSED)
        return True

    def _answer(self, connection: socket.socket, poll: select.poll) -> None:
        poll.unregister(connection.fileno())
        with connection, contextlib.suppress(OSError, ValueError, TypeError):
            what, number = json.loads(connection.recv(_MESSAGE_BYTES))
            answer: Any = None
            fds: list[int] = []
            try:
                if what == "get":
                    answer, fds = self.open(number) or (None, [])
                elif what == "catalogue":
                    answer, fds = True, [files.read_only(self._catalogue.fd)]
                elif what == "path":
                    answer = self.path(number)
                elif what == "delete":
                    answer = self.delete(number)
            except (OSError, MemoryError, KeyError) as error:
                answer = {"error": str(error)}  # of this process: too few descriptors, say
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                connection.sendmsg([json.dumps(answer).encode()], rights)
            finally:
                for fd in fds:
                    os.close(fd)


def address_of(user: int, pid: int, token: str) -> str:
    """Where an owner answers."""
    return f"{_PREFIX}/{user}/{pid}/{token}"


def parse_address(address: bytes) -> tuple[int, int, str] | None:
    """User, process and token of an owner who answers there; None for an address of another form."""
    parts = address.decode(errors="replace").split("/")
    if len(parts) == 4 and parts[0] == _PREFIX and parts[1].isdecimal() and parts[2].isdecimal():
        user, pid, token = int(parts[1]), int(parts[2]), parts[3]
        if address_of(user, pid, token).encode() == address:
            return user, pid, token
    return None


def peer(connection: socket.socket) -> tuple[int, int]:
    """The user id and the process at the other end, as the kernel says: who listens, or who has connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, user, _ = _PEER.unpack(credentials)
    return user, pid


def _read_into(fd: int, memory: memoryview, offset: int) -> None:
    done = 0
    while done < len(memory):
        count = os.preadv(fd, [memory[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the object is cut off")
        done += count
