"""Questions to the owner of an object: for tasks that only the owner can do, and where its memory cannot be opened from outside.

An owner that computes in C with the interpreter's lock held, or is stopped, does not answer at once. It has
`PATIENCE_SECONDS`; the kernel says whether it has ended. An answer is read only if the kernel says that the process belongs to
this user. Where the kernel names the user of an address beforehand, a process of another user is not even connected to.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import time
from typing import Any

from arrowpool.errors import ShelfKeyError
from arrowpool.interrupts import slices
from arrowpool.memory import facilities
from arrowpool.shelf import addresses, users
from arrowpool.shelf.addresses import address_of, parse_address, peer
from arrowpool.shelf.keys import ProcessKey
from arrowpool.waiting import wait_readable

#: The answer to a process of another user.
REFUSED = b"refused"
#: How long an owner may take to answer.
PATIENCE_SECONDS = 60.0
#: How long a process may take to accept a connection if the kernel does not say whose it is.
_STRANGER_SECONDS = 1.0
_MESSAGE_BYTES = 1 << 16
_MAX_FDS = 8


def ask(key: ProcessKey, what: str) -> tuple[Any, list[int]]:
    """Ask the owner of a key. Return its answer and the descriptors that came with it, which the caller closes.

    Raises
    ------
    ShelfKeyError
        When the owner is gone.
    PermissionError
        When the owner is another user's process, or this process cannot tell whose process it is.
    TimeoutError
        When the owner is there and does not answer.
    OSError
        When the owner cannot do it, or this process has too few descriptors.
    """
    trusted = users.trusted()
    if not trusted:
        raise PermissionError(f"the owner of {str(key)!r} cannot be asked: {users.ambiguity()}")
    of_sockets = addresses.listeners()
    for user in sorted(trusted):
        address = address_of(user, key.pid, key.token)
        if of_sockets is not None and of_sockets.get(address.encode()) not in trusted:
            continue  # there is no listener, or a stranger has taken the address
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.setblocking(False)
            try:
                pid = _connect(connection, address, key, is_known=of_sockets is not None)
                if pid is not None:
                    return _converse(connection, key, what, pid)
            except ConnectionError as error:
                raise _ended(key) from error
    for taken, user in (of_sockets or {}).items():
        if parse_address(taken) == (user, key.pid, key.token):
            raise PermissionError(f"the owner of {str(key)!r} is a process of another user ({user})")
    raise _ended(key)


def _connect(connection: socket.socket, address: str, key: ProcessKey, *, is_known: bool) -> int | None:
    """Connect; return the process that listens, or None when it is another user's."""
    patience = PATIENCE_SECONDS if is_known else _STRANGER_SECONDS
    until = time.monotonic() + patience
    pause = 0.001
    while True:
        try:
            connection.connect(address)
            break
        except BlockingIOError:  # the queue of waiting connections is full
            if time.monotonic() > until:
                raise _silent(key, patience) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    user, pid = peer(connection)
    return pid if user in users.trusted() else None


def _converse(connection: socket.socket, key: ProcessKey, what: str, pid: int) -> tuple[Any, list[int]]:
    connection.send(json.dumps([what, key.number]).encode())
    began = _started(pid)
    for seconds in slices(PATIENCE_SECONDS):
        if wait_readable([connection.fileno()], seconds):
            break
        if began is not None and _started(pid) != began:
            raise _ended(key)  # the socket is still open in a child of the owner that did not close it
    else:
        raise _silent(key, PATIENCE_SECONDS)
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
            raise PermissionError(f"the owner of {str(key)!r} does not answer processes of this user")
        if not answer:
            raise _ended(key)
        said = json.loads(answer)
        if isinstance(said, dict):
            raise OSError(f"process {key.pid}, the owner of {str(key)!r}, failed: {said.get('error')}")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return said, fds


def _ended(key: ProcessKey) -> ShelfKeyError:
    return ShelfKeyError(f"no key {str(key)!r}: its owner, process {key.pid}, has ended or never had it")


def _silent(key: ProcessKey, seconds: float) -> TimeoutError:
    return TimeoutError(
        f"process {key.pid}, which holds {str(key)!r}, is there and has not answered within {seconds:g} s: it is stopped, "
        "or computes in compiled code that does not let other threads run; try again later"
    )


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None when it has ended, or cannot be looked at."""
    try:
        with open(facilities.proc(f"{pid}/stat")) as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if fields[0] not in "ZX" else None
