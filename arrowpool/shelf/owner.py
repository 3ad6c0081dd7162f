"""The owner of this process's objects: a thread that answers other processes and gives memory back.

Other processes find objects in the catalogue and open them through ``/proc``, without the owner (`remote`). Where the kernel does
not allow that, and for tasks that only the owner can do, they ask it (`client`). The owner's thread answers on a socket
(`addresses`). It passes read-only descriptors.

The owner answers processes with the user id that this process has, or had when it put its first object. The kernel names the user
(SO_PEERCRED). Ids that several users may have are refused (`users`).

Questions are ``[what, number]`` as JSON, one per connection:

    get        the names of the object's parts, with descriptors of the catalogue and of each; null when it was deleted
    catalogue  true, with its descriptor
    path       the path of a file of the table alone, which others may open; null when it was deleted
    delete     whether the object was there
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import secrets
import socket
import time
from typing import Any

from arrowpool.shelf import files, users
from arrowpool.shelf.addresses import address_of, peer
from arrowpool.shelf.catalogue import Record
from arrowpool.shelf.client import REFUSED
from arrowpool.shelf.keys import ProcessKey
from arrowpool.shelf.layout import Plan
from arrowpool.shelf.objects import Objects
from arrowpool.threads import Service
from arrowpool.waiting import POLLERR, POLLHUP, POLLIN, POLLNVAL, poll

_MESSAGE_BYTES = 1 << 16
#: A process that has connected must ask within this time.
_TIMEOUT_SECONDS = 10.0
#: At most this many connections are open at a time. More wait in the queue of the kernel, which is as long as it allows.
_CONVERSATIONS = 32
_BACKLOG = 1 << 16
#: How often memory is given back, while some is kept.
_TEND_SECONDS = 1.0
#: The pause after a connection that could not be accepted for want of descriptors.
_WAIT_SECONDS = 0.1


class Owner(Service):
    """Answers for all objects of this process.

    Any thread may call the methods under "For this process", also a signal handler or finalizer that interrupts another call. The
    other methods run in the owner's thread.
    """

    def __init__(self) -> None:
        super().__init__("arrowpool-shelf")
        self.pid = os.getpid()
        self.token = secrets.token_hex(4)
        #: The user id under which the address was made.
        self._user = os.geteuid()
        #: Whether the owner's thread will call `Objects.tend` without being woken. Any thread reads and writes it; see `_wake`.
        self._tends = False
        self.objects = Objects(self.pid, self.token)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind(address_of(self._user, self.pid, self.token))
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            self.objects.close()
            raise

    # For this process

    def has(self, key: ProcessKey) -> bool:
        """Whether that is a key of this process."""
        return (key.pid, key.token) == (self.pid, self.token)

    def put(self, plan: Plan, keys: set[str] | None = None) -> str:
        """See `Objects.put`."""
        return self.objects.put(plan, keys)

    def records(self) -> list[Record]:
        """The records of all objects."""
        return self.objects.records()

    def delete(self, number: int) -> bool:
        """Delete an object, without waiting; return whether it was there. Readers that already opened it keep it."""
        was_there, lingers = self.objects.delete(number)
        if lingers:
            self._wake()
        return was_there

    def delete_all(self) -> None:
        """Delete all objects, and give back all memory that is kept for the next ones."""
        for record in self.records():
            self.delete(record.number)
        self.objects.give_back()

    def _wake(self) -> None:
        """Make the thread give back memory after a while, unless it will do so anyway.

        Race: a thread deletes an object while the owner's thread tends.

        1. The owner's thread sets `_tends` to False.
        2. It looks for memory to give back, and sets `_tends` to True if more remains.
        3. The other thread has freed the memory, and reads `_tends`.

        If 3 reads True from before 1, the memory was freed before 2, which sees it. If it reads False, it wakes the owner's
        thread. Verdict: freed memory is always looked at again.
        """
        if self._tends:
            return
        self._tends = True
        # A connection wakes the thread, which drops it, since it asks nothing. If connecting fails, the queue is full of other
        # connections, which wake the thread as well.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bell:
            bell.setblocking(False)
            bell.connect(self._socket.getsockname())

    def close(self) -> None:
        """Stop answering, and give everything back."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()
        self.objects.close()

    def forget(self) -> None:
        """Close all descriptors in a forked child, whose parent alone answers for the objects."""
        self._socket.close()
        self.objects.forget()

    # In its thread

    def run(self) -> None:
        poller = poll()
        asking: dict[int, tuple[socket.socket, float]] = {}
        listener = self._socket.fileno()
        try:
            while True:
                # Without an event mask, poll still reports that the socket was shut down.
                poller.register(listener, POLLIN if len(asking) < _CONVERSATIONS else 0)
                for fd, event in poller.poll(1000 * _TEND_SECONDS if asking or self._tends else None):
                    if fd != listener:
                        self._answer(asking.pop(fd)[0], poller)
                    elif event & (POLLHUP | POLLNVAL | POLLERR) or not self._accept(poller, asking):
                        return
                late = time.monotonic() - _TIMEOUT_SECONDS
                for fd in [fd for fd, (_, since) in asking.items() if since < late]:
                    poller.unregister(fd)
                    asking.pop(fd)[0].close()
                if self._tends:
                    self._tends = False
                    if self.objects.tend():
                        self._tends = True
        finally:
            for connection, _ in asking.values():
                connection.close()

    def _accept(self, poller: poll, asking: dict[int, tuple[socket.socket, float]]) -> bool:
        """Accept a connection; return False when the owner is closed."""
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_WAIT_SECONDS)  # the connection stays in the queue
                return True
            return error.errno in (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EPERM)
        connection.setblocking(False)
        user = peer(connection)[0]
        if user in (self._user, os.geteuid()) and not users.is_ambiguous(user):
            asking[connection.fileno()] = connection, time.monotonic()
            poller.register(connection.fileno(), POLLIN)
        else:
            with connection, contextlib.suppress(OSError):
                connection.send(REFUSED)
        return True

    def _answer(self, connection: socket.socket, poller: poll) -> None:
        poller.unregister(connection.fileno())
        with connection, contextlib.suppress(OSError, ValueError, TypeError):
            what, number = json.loads(connection.recv(_MESSAGE_BYTES))
            answer: Any = None
            fds: list[int] = []
            try:
                if what == "get":
                    answer, fds = self.objects.open(number) or (None, [])
                elif what == "catalogue":
                    answer, fds = True, [files.read_only(self.objects.catalogue.fd)]
                elif what == "path":
                    answer = self.objects.path(number)
                elif what == "delete":
                    answer = self.delete(number)
            except (OSError, MemoryError, KeyError) as error:
                answer = {"error": str(error)}  # an error of this process, such as too few descriptors
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                connection.sendmsg([json.dumps(answer).encode()], rights)
            finally:
                for fd in fds:
                    os.close(fd)
