"""The encoder: a call's next task, from live objects to a parcel, with its function and repeated objects encoded once.

Used by the feeder, in its thread. Decides what travels as plain values, in the stream, or in segments; whether there is
room for that is the feeder's to say.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from arrowpool.codecs import Extent, extents
from arrowpool.errors import ArenaFullError, contained
from arrowpool.functions import is_stateless
from arrowpool.lane import Blob, Call, Failed, Task
from arrowpool.ledger import Ledger
from arrowpool.memory import system
from arrowpool.room import Room
from arrowpool.settings import OWN_SEGMENT
from arrowpool.windows import find, stretches
from arrowpool.wire import Parcel, Reduced, Sender, is_plain
from arrowpool.worker import Star

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
    room : Room
        Asked whether so many bytes more may be placed now.
    ledger : Ledger
        Where it is noted down.
    """

    def __init__(self, sender: Sender, room: Room, ledger: Ledger):
        self._sender = sender
        self._ledger = ledger
        sender.pickled = ledger.pickled
        self._room = room
        self._numbers = itertools.count()
        self._known_functions: dict[bytes, Blob] = {}
        #: What users have said shall stay, by id: the object, kept alive, and its blobs, the newest last.
        self._pinned: dict[int, tuple[Any, list[Blob]]] = {}
        #: While a task or a function is reduced: its call, and the blobs it turned out to need.
        self._current: tuple[Call, list[Blob]] | None = None
        sender.reducer.shared_number = self._shared_number
        sender.reducer.find_window = self._find_window

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
        star = Star.MAP if function is mapstar else Star.STARMAP if function is starmapstar else Star.CALL
        payload: Any = (args, kwds)
        if star is not Star.CALL:
            function, payload = args[0]
        if call.failure is not None:
            return Failed(job, index, call.failure)
        try:
            if not call.blobs or call.function is not function:
                self._encode_function(call, function)
            if call.blobs[0].parcel.nbytes:
                self._ledger.saved(call.blobs[0].parcel.nbytes)
            # Only what is a tuple and a dict itself goes through marshal; a subclass may be anything.
            if type(args) is tuple and (
                is_plain(payload) if star is not Star.CALL else not kwds and type(kwds) is dict and is_plain(args)
            ):
                return Task(call, index, star, Parcel((payload,), (), 0), call.blobs)
            self._current = (call, blobs := [*call.blobs])
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
        blobs: list[Blob] = []
        self._current = (call, blobs)
        try:
            reduced = self._sender.reduce(function)
            stateless = is_stateless(function)
            plain = stateless and not reduced.units
            blob = self._known_functions.get(reduced.stream) if plain else None
            if blob is None:
                blob = self._place_lasting(reduced, stateless)
                if plain and len(self._known_functions) < _FUNCTIONS_KEPT:
                    self._known_functions[reduced.stream] = blob
                    blob.holds += 1
            else:
                blob.holds += 1
        except BaseException as error:
            call.failure = contained(error, "pickling it")
            raise
        finally:
            self._current = None
        call.held.add(blob)
        call.function, call.blobs = function, (blob, *blobs)

    def _place_lasting(self, reduced: Reduced, stateless: bool = False) -> Blob:
        """Place what there is no choice about, however large it is. It is not counted as in flight."""
        self._room.make(reduced.nbytes)
        parcel = self._sender.place(reduced)
        self._room.pinned += parcel.nbytes
        if parcel.nbytes:
            self._ledger.placed_for_many(parcel.nbytes)
        return Blob(next(self._numbers), stateless, parcel, pinned=parcel.nbytes)

    # What tasks share

    def _shared_number(self, obj: Any) -> int | None:
        """The number under which an object goes that a user has shared, or that occurs several times in a call's list."""
        if self._current is None:
            return None
        call, blobs = self._current
        if id(obj) in self._pinned:
            blob: Blob | None = self._pinned[id(obj)][1][-1]
        else:
            blob = self._share(call, obj)
        if blob is None:
            return None
        self._refer(call, blobs, blob)
        self._ledger.saved(blob.parcel.nbytes)
        return blob.number

    def _refer(self, call: Call, blobs: list[Blob], blob: Blob) -> None:
        if blob not in call.held:
            blob.holds += 1
            call.held.add(blob)
        if blob not in blobs:
            blobs.append(blob)

    def _share(self, call: Call, obj: Any) -> Blob | None:
        if call.items is None:
            return None
        if call.repeated is None:
            call.repeated = _repeated(call.items)
        if id(obj) not in call.repeated:
            return None
        if id(obj) in call.shared:
            return call.shared[id(obj)]
        # A reducer of its own: this one is in the middle of the task that refers to the object.
        reduced = self._sender.reduce_apart(obj)
        if reduced.nbytes < OWN_SEGMENT:
            call.shared[id(obj)] = None
            return None
        blob = self._place_for(call, reduced)
        if blob is not None:
            call.shared[id(obj)] = blob
        return blob

    def _place_for(self, call: Call, reduced: Reduced) -> Blob | None:
        """Place what several tasks of a call refer to, if there is room for it beside them."""
        if not self._room.make(reduced.nbytes, lasting=True):
            return None
        try:
            parcel = self._sender.place(reduced)
        except ArenaFullError:
            return None  # each task with a copy of its own may have to wait, and can
        blob = Blob(next(self._numbers), False, parcel)
        call.held.add(blob)
        self._ledger.placed_for_many(parcel.nbytes)
        return blob

    def _find_window(self, address: int, nbytes: int) -> tuple[int, int] | None:
        """The number of the blob that holds this memory for all tasks of the call, and where in it."""
        if self._current is None:
            return None
        call, blobs = self._current
        if call.stretches is None:
            call.stretches = stretches(_extents(call.items)) if call.items is not None and len(call.items) > 1 else []
        if not call.stretches:
            return None
        stretch = find(call.stretches, address, nbytes)
        if stretch is None:
            return None
        if stretch.blob is None:
            whole = system.bytes_at(stretch.start, stretch.stop - stretch.start)
            stretch.blob = self._place_for(call, self._sender.reduce_apart(whole))
            if stretch.blob is None:
                return None
        self._refer(call, blobs, stretch.blob)
        self._ledger.saved(nbytes)
        return stretch.blob.number, address - stretch.start

    def pin(self, obj: Any) -> Blob:
        """Place an object, to be referred to by all calls from now on instead of being copied again.

        Raises
        ------
        Exception
            Whatever pickling it raises; ArenaFullError when there is no room.
        """
        self._sender.reducer.refresh()
        reduced = self._sender.reduce_apart(obj)
        blob = self._place_lasting(reduced)
        self._pinned.setdefault(id(obj), (obj, []))[1].append(blob)
        self._sender.reducer.shared_types.add(type(obj))
        return blob

    def unpin(self, obj: Any, blob: Blob) -> list[Blob]:
        """Refer to this no more; return the blobs that no task will refer to again."""
        blobs = self._pinned[id(obj)][1]
        blobs.remove(blob)
        if not blobs:
            del self._pinned[id(obj)]
        return self._let_go([blob])

    def finish(self, call: Call) -> list[Blob]:
        """The call is over: let go of its blobs; return those that no task will refer to again."""
        ended = self._let_go(call.held)
        call.held.clear()
        call.shared.clear()
        call.function, call.blobs, call.items, call.stretches = None, (), None, None
        return ended

    def _let_go(self, blobs: Iterable[Blob]) -> list[Blob]:
        ended = []
        for blob in blobs:
            blob.holds -= 1
            if not blob.holds:
                self._sender.unpin(blob.parcel.segments)
                self._room.pinned -= blob.pinned
                ended.append(blob)
        return ended


def _members(items: Iterable[Any]) -> Iterator[Any]:
    """The items, or the members of items that are containers."""
    for item in items:
        if isinstance(item, (tuple, list)):
            yield from item
        elif isinstance(item, dict):
            yield from item.values()
        else:
            yield item


def _extents(items: Iterable[Any]) -> Iterator[Extent]:
    """Where the large memory of all members lies."""
    for member in {id(member): member for member in _members(items)}.values():
        yield from extents(member)


def _repeated(items: list[Any] | tuple[Any, ...]) -> frozenset[int]:
    """Ids of the objects that occur more than once among the items, or among the members of items that are containers."""
    counts: Counter[int] = Counter()
    for item in items:
        counts.update({id(member) for member in _members((item,))})
    return frozenset(number for number, count in counts.items() if count > 1)
