"""The objects that other processes of this user have put.

Guarantees: only data of processes of this user is read. The kernel names the user.

Where this process may open the owner's descriptors, it reads an object without help from the owner (`catalogue`). Elsewhere it
asks the owner (`client`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from arrowpool.errors import ShelfKeyError
from arrowpool.memory import facilities
from arrowpool.shelf import addresses, catalogue, client, users
from arrowpool.shelf.catalogue import Record
from arrowpool.shelf.files import CATALOGUE, leads_to, open_to_read
from arrowpool.shelf.keys import ProcessKey

#: Descriptor numbers are remembered for this many owners.
_HINTS = 256
#: The number under which an owner has its catalogue open, by process and token: only where to look first. Any thread reads and
#: writes it, by single dictionary operations; a stale number is noticed when it is opened.
_hints: dict[tuple[int, str], str] = {}


@dataclass(slots=True)
class Found:
    """An object of a running process: its record, and descriptors of this process to read it by."""

    record: Record
    catalogue: int
    fds: dict[str, int]

    def is_there(self) -> bool:
        """Whether it has not been deleted. Then all data that was opened, and mapped or copied, before this call is the object's."""
        return catalogue.has(self.catalogue, self.record.number)

    def close(self) -> None:
        for fd in (self.catalogue, *self.fds.values()):
            os.close(fd)


def find(key: ProcessKey, *, with_parts: bool = True) -> Found:
    """Look an object up.

    Raises
    ------
    ShelfKeyError
        When it was deleted, or its owner has ended.
    PermissionError
        When the owner is another user's process.
    TimeoutError
        When the owner is there and does not answer.
    """
    with _opened_files(key.pid, key.token) as (files, fd):
        if files >= 0:
            fds = _open_parts(key, fd, files) if with_parts else {}
            return found(key, list(fds), [os.dup(fd), *fds.values()])
    names, received = client.ask(key, "get")
    if names is None:
        raise deleted(key)
    return found(key, names, received)


def found(key: ProcessKey, names: list[str], fds: list[int]) -> Found:
    """An object by descriptors of its owner's catalogue and of its parts; the result owns the descriptors."""
    try:
        record = catalogue.find(fds[0], key.number)
        parts = dict(zip(names, fds[1:], strict=True))
        if record is None or (parts and parts.keys() != record.parts.keys()):
            raise deleted(key)
        return Found(record, fds[0], parts)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _open_parts(key: ProcessKey, fd: int, files: int) -> dict[str, int]:
    record = catalogue.find(fd, key.number)
    if record is None:
        raise deleted(key)
    fds: dict[str, int] = {}
    try:
        for name, location in record.parts.items():
            fds[name] = _open_file(files, str(location.fd))
            if os.fstat(fds[name]).st_ino != location.inode:
                raise deleted(key)
    except BaseException as error:
        for one in fds.values():
            os.close(one)
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.ENXIO):
            raise deleted(key) from error
        raise
    return fds


def deleted(key: ProcessKey) -> ShelfKeyError:
    """The error for an object that its owner does not have."""
    return ShelfKeyError(f"no key {str(key)!r}: it was deleted, or was never put")


def everything(*, but: tuple[int, str] | None) -> Iterator[tuple[ProcessKey, Record]]:
    """Key and record of all objects of this user's processes, except those of the owner `but`.

    Raises
    ------
    TimeoutError
        When an owner cannot be looked into and does not answer.
    """
    for pid, token in addresses.owners():
        if (pid, token) != but:
            for record in _records(pid, token):
                yield ProcessKey(pid, token, record.number), record


def _records(pid: int, token: str) -> list[Record]:
    with _opened_files(pid, token) as (files, fd):
        if files >= 0:
            return list(catalogue.read(fd))
    try:
        _, fds = client.ask(ProcessKey(pid, token, 0), "catalogue")
    except (ShelfKeyError, PermissionError):
        return []
    try:
        return [record for fd in fds for record in catalogue.read(fd)]
    finally:
        for fd in fds:
            os.close(fd)


# Looking into an owner's descriptors


@contextlib.contextmanager
def _opened_files(pid: int, token: str) -> Iterator[tuple[int, int]]:
    """Descriptors of the directory of an owner's descriptors, and of its catalogue; -1 where this process may not look."""
    with contextlib.ExitStack() as opened:
        yield _look_into(pid, token, opened)


def _look_into(pid: int, token: str, opened: contextlib.ExitStack) -> tuple[int, int]:
    nothing = -1, -1
    try:
        # The directory belongs to this one process: after its end, the descriptor does not lead to another process with the same
        # number. The kernel lets a process open it only for its own user, or with privileges over that process. So the user id
        # that is compared next need not be a proof by itself.
        files = os.open(facilities.proc(f"{pid}/fd"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, files)
        if os.fstat(files).st_uid not in users.own():
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
        When the descriptor is another file, or another user's.
    """
    if not leads_to(files, number):
        raise FileNotFoundError(errno.ENOENT, f"descriptor {number} is not memory of the shelf")
    fd = open_to_read(number, files)
    if os.fstat(fd).st_uid not in users.own():
        os.close(fd)
        raise PermissionError(errno.EACCES, "memory of another user")
    return fd
