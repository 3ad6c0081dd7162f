"""The encoder: a call's next task, from live objects to a parcel, with its function and repeated objects encoded once.

Used by the feeder, in its thread. Decides what travels as plain values, in the stream, or in segments; whether there is
room for that is the feeder's to say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from arrowpool.errors import contained
from arrowpool.functions import is_stateless
from arrowpool.lane import Blob, Call, Failed, Task
from arrowpool.service import forking
from arrowpool.settings import OWN_SEGMENT
from arrowpool.wire import Parcel, Reduced, Sender, is_plain
from arrowpool.worker import Star

_STARS = {mapstar: Star.MAP, starmapstar: Star.STARMAP}
#: Functions without data that a pool remembers, and so sends to each worker once and not once a call.
_FUNCTIONS_KEPT = 1000


class Unplaced(NamedTuple):
    """A task whose large memory has no room yet."""

    call: Call
    at: int
    star: int
    reduced: Reduced
    blobs: tuple[Blob, ...]


class Encoder:
    """Encodes the tasks of all calls of a pool, one at a time.

    Parameters
    ----------
    sender : Sender
        Encodes into the parent's arena.
    make_room : callable
        Asked whether so many bytes more may be placed now; frees what can be freed first.
    """

    def __init__(self, sender: Sender, make_room: Callable[[int], bool]):
        self._sender = sender
        self._make_room = make_room
        self._numbers = itertools.count()
        self._known_functions: dict[bytes, Blob] = {}
        #: While a task is reduced: its call, and the blobs it turned out to need.
        self._current: tuple[Call, list[Blob]] | None = None
        sender.reducer.shared_number = self._shared_number

    def take(self, call: Call) -> Task | Unplaced | Failed | None:
        """Take the next task off a call and apart; None when the call has no more."""
        try:
            job, index, function, args, kwds = next(call.tasks)
        except StopIteration:
            return None
        except BaseException as error:
            # Only what is no Exception gets here out of a user's iterable.
            call.last_index += 1
            return Failed(call.job, call.last_index, contained(error, "the iterable"))
        call.job, call.last_index = job, index
        star = _STARS.get(function, Star.CALL)
        payload: Any = (args, kwds)
        if star is not Star.CALL:
            function, payload = args[0]
        if call.failure is not None:
            return Failed(job, index, call.failure)
        try:
            if not call.blobs or call.function is not function:
                self._encode_function(call, function)
            if is_plain(payload) if star is not Star.CALL else (not kwds and is_plain(args)):
                return Task(call, index, star, Parcel((payload,), (), 0), call.blobs)
            self._current = (call, blobs := [*call.blobs])
            with forking:
                reduced = self._sender.reduce(payload)
        except BaseException as error:
            return Failed(job, index, contained(error, "pickling it"))
        finally:
            self._current = None
        if reduced.units:
            return Unplaced(call, index, star, reduced, tuple(blobs))
        return Task(call, index, star, Parcel((reduced.stream, ()), (), 0), tuple(blobs))

    def place(self, unplaced: Unplaced) -> Task:
        """Copy a task's large memory to where its worker will read it.

        Raises
        ------
        ArenaFullError
            When there is no room.
        """
        call, index, star, reduced, blobs = unplaced
        return Task(call, index, star, self._sender.place(reduced), blobs)

    def _encode_function(self, call: Call, function: Any) -> None:
        """Encode the call's function once, with all that it captured."""
        self._sender.reducer.refresh()
        try:
            with forking:
                reduced = self._sender.reduce(function)
            stateless = is_stateless(function)
            plain = stateless and not reduced.units
            blob = self._known_functions.get(reduced.stream) if plain else None
            if blob is None:
                # However large it is: without its function the call can never run.
                self._make_room(reduced.nbytes)
                blob = Blob(next(self._numbers), stateless, self._sender.place(reduced))
                if plain and len(self._known_functions) < _FUNCTIONS_KEPT:
                    self._known_functions[reduced.stream] = blob
        except BaseException as error:
            call.failure = contained(error, "pickling it")
            raise
        call.function, call.blobs = function, (blob,)
        call.functions.append(blob)

    def _shared_number(self, obj: Any) -> int | None:
        """The number under which an object goes that occurs several times in one call's list."""
        if self._current is None:
            return None
        call, blobs = self._current
        if call.items is None:
            return None
        if call.repeated is None:
            call.repeated = _repeated(call.items)
        if id(obj) not in call.repeated:
            return None
        blob = call.shared.get(id(obj))
        if id(obj) not in call.shared:
            blob = self._share(call, obj)
        if blob is None:
            return None
        if blob not in blobs:
            blobs.append(blob)
        return blob.number

    def _share(self, call: Call, obj: Any) -> Blob | None:
        # A reducer of its own: this one is in the middle of the task that refers to the object.
        reduced = self._sender.reduce_apart(obj)
        if reduced.nbytes < OWN_SEGMENT:
            call.shared[id(obj)] = None
            return None
        if not self._make_room(reduced.nbytes):
            return None
        call.shared[id(obj)] = blob = Blob(next(self._numbers), False, self._sender.place(reduced))
        return blob

    def finish(self, call: Call) -> list[Blob]:
        """The call is over: let go of its blobs; return those that no task will refer to again."""
        ended = []
        for blob in (*call.functions, *call.shared.values()):
            if blob is not None and self._known_functions.get(blob.stream) is not blob:
                self._sender.unpin(blob.parcel.segments)
                ended.append(blob)
        call.shared.clear()
        call.functions.clear()
        call.function, call.blobs, call.items = None, (), None
        return ended


def _repeated(items: list[Any] | tuple[Any, ...]) -> frozenset[int]:
    """Ids of the objects that occur more than once among the items, or among the members of items that are containers."""
    counts: Counter[int] = Counter()
    for item in items:
        if isinstance(item, (tuple, list)):
            counts.update({id(member) for member in item})
        elif isinstance(item, dict):
            counts.update({id(member) for member in item.values()})
        else:
            counts[id(item)] += 1
    return frozenset(number for number, count in counts.items() if count > 1)
