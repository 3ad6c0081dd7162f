"""The objects that this process has put. Used by this process, and by its owner for other processes.

Any thread may call every method of `Objects`, also a signal handler or finalizer that interrupts another call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from dataclasses import dataclass, field

from arrowpool.errors import ArenaFullError
from arrowpool.shelf import files
from arrowpool.shelf.catalogue import Catalogue, Record
from arrowpool.shelf.keys import ProcessKey
from arrowpool.shelf.layout import TABLE, Plan
from arrowpool.shelf.part_files import MemoryFile, Place
from arrowpool.shelf.places import Places


@dataclass(slots=True)
class Stored:
    """One object: its record, the places of its parts, and the shelf whose key it has."""

    record: Record
    places: dict[str, Place]
    #: The keys of the private shelf that it was put on, if any; see `Objects.put`.
    keys: set[str] | None
    #: A copy of a table that shares a file with other parts, as a file of its own. Made when a path to it is first asked for; at
    #: most one.
    shown: list[MemoryFile] = field(default_factory=list)


class Objects:
    """All objects of this process, and the catalogue that lists them for others.

    Parameters
    ----------
    pid, token : int, str
        Identify this process in keys.
    """

    def __init__(self, pid: int, token: str):
        self.pid = pid
        self.token = token
        #: Held while an object is added or shown, against `close`. Reentrant: a signal handler or finalizer that puts an object
        #: may interrupt this thread in the middle of that. `delete` does not take it.
        self._lock = threading.RLock()
        #: By number, as in the catalogue. `put` adds, and any thread removes, with one atomic operation each. So only one of several
        #: threads that delete an object gets it.
        self._stored: dict[int, Stored] = {}
        self._places = Places()
        self.catalogue = Catalogue(pid, token)

    def put(self, plan: Plan, keys: set[str] | None = None) -> str:
        """Take an object in; return its key.

        Parameters
        ----------
        keys : set of str, optional
            Contains the key for as long as the object is there.

        Raises
        ------
        ArenaFullError
            When there is no memory for it. Nothing is left behind.
        """
        places: dict[str, Place] = {}
        try:
            for part in plan.parts:
                places[part.name] = self._places.put(part.size, part.write)
            locations = {name: place.location for name, place in places.items()}
            with self._lock:
                record = self.catalogue.add(plan.kind, time.time(), locations)
                key = str(ProcessKey(self.pid, self.token, record.number))
                # The key first: as soon as the object is in `_stored`, another thread may delete it, which removes the key.
                if keys is not None:
                    keys.add(key)
                self._stored[record.number] = Stored(record, places, keys)
        except BaseException as error:
            for place in places.values():
                self._places.free(place, keep=False)
            if files.is_for_want_of_room(error):
                raise ArenaFullError(f"the shelf needs {plan.nbytes:,} bytes: {error}") from error
            raise
        return key

    def open(self, number: int) -> tuple[list[str], list[int]] | None:
        """The names of an object's parts, and descriptors of the catalogue and of each part. None when it was deleted."""
        stored = self._stored.get(number)
        fds: list[int] = []
        try:
            if stored is not None:
                fds.append(files.read_only(self.catalogue.fd))
                for place in stored.places.values():
                    location = place.location
                    fds.append(files.read_only(location.fd))
                    if os.fstat(fds[-1]).st_ino != location.inode:
                        raise OSError(errno.EBADF, "the descriptor now belongs to another file")
            if stored is not None and number in self._stored:
                return list(stored.places), fds
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, OSError) and number not in self._stored:
                return None  # it was deleted meanwhile
            raise
        for fd in fds:
            os.close(fd)
        return None

    def records(self) -> list[Record]:
        """The records of all objects."""
        return [stored.record for stored in self._stored.copy().values()]

    def path(self, number: int) -> str | None:
        """A path under which other processes can open the table of an object as a file; None when it was deleted."""
        with self._lock:
            stored = self._stored.get(number)
            if stored is None:
                return None
            table = stored.places[TABLE]
            if not isinstance(table, MemoryFile):
                if not stored.shown:
                    stored.shown.append(_copy_of(table))
                table = stored.shown[0]
            path = f"/proc/{self.pid}/fd/{table.location.fd}"
        if number not in self._stored:
            self._hide(stored)
            return None
        return path

    def delete(self, number: int) -> tuple[bool, bool]:
        """Delete an object, without waiting; return whether it was there, and whether some of its memory is kept for a while."""
        stored = self._stored.pop(number, None)
        if stored is None:
            return False, False
        self.catalogue.remove(number)
        if stored.keys is not None:
            stored.keys.discard(str(ProcessKey(self.pid, self.token, number)))
        for place in stored.places.values():
            self._places.free(place)
        self._hide(stored)
        return True, any(place.lingers for place in stored.places.values())

    def _hide(self, stored: Stored) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._places.free(stored.shown.pop(), keep=False)

    def tend(self) -> bool:
        """Give back memory that need not be kept any longer; return whether more remains to be given back."""
        return self._places.tend()

    def give_back(self) -> None:
        """Give back all memory that is kept for the next objects."""
        self._places.give_back()

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            self.catalogue.close()
        while self._stored:
            self._hide(self._stored.popitem()[1])
        self._places.close()

    def forget(self) -> None:
        """Close all descriptors in a forked child, whose parent alone keeps the objects. Takes no lock."""
        self.catalogue.close()
        for stored in self._stored.values():
            for file in stored.shown:
                file.forget()
        self._places.forget()


def _copy_of(place: Place) -> MemoryFile:
    location = place.location
    file = MemoryFile(location.size)
    try:
        file.write(lambda memory: _read_into(location.fd, memory.data, location.offset))
    except BaseException:
        file.close()
        raise
    return file


def _read_into(fd: int, memory: memoryview, offset: int) -> None:
    done = 0
    while done < len(memory):
        count = os.preadv(fd, [memory[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the object is cut off")
        done += count
