"""The encoder: turns the live objects of a call's next task into a parcel. Functions and repeated objects are encoded once.

Used by the acting thread (see `mailbox`). Decides whether data travels as plain values, in the stream, or in segments. The budget
decides when segments are placed.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import Any

from arrowpool.engine.budget import Budget
from arrowpool.engine.calls import PLAIN, Blob, Call, EncodedFunction, Task, Unplaced, parts_of
from arrowpool.engine.events import Failed
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.placing import Placing
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.refusals import refused
from arrowpool.engine.shared import SharedByCall
from arrowpool.engine.snapshot import Snapshots
from arrowpool.errors import ArenaFullError, contained
from arrowpool.transport import protocol
from arrowpool.transport.culprits import explain, explained, in_function
from arrowpool.transport.error_packing import sendable
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.protocol import KEEPS_GOING, NO_ITEM
from arrowpool.transport.reducer import dumps_stream
from arrowpool.transport.resolution import constants_of, is_stateless
from arrowpool.transport.sender import Relieve, Sender

#: Number of functions without data that a pool remembers: each worker gets such a function once, not once a call.
_FUNCTIONS_KEPT = 1000


class Encoder:
    """Encodes the tasks of all calls of a pool, one at a time.

    Parameters
    ----------
    sender : Sender
        Encodes into the parent's arena.
    budget : Budget
        Says whether an object fits. Gets the bytes of objects that do not count as in flight.
    reclaim : Reclaim
        Gets memory back when the system has none.
    metrics : Metrics
        Counts copies saved and objects pickled.
    snapshots : Snapshots
        Learns which snapshots are used up.
    placing : Placing
        Copies what was taken apart into segments.
    """

    def __init__(
        self,
        sender: Sender,
        budget: Budget,
        reclaim: Reclaim,
        metrics: Metrics,
        snapshots: Snapshots,
        placing: Placing,
    ):
        self._sender = sender
        self._placing = placing
        self._snapshots = snapshots
        self._metrics = metrics
        self._budget = budget
        self._reclaim = reclaim
        self._numbers = itertools.count()
        #: Functions without data, by their streams: at most `_FUNCTIONS_KEPT`, none of which is forgotten.
        self._known_functions: dict[bytes, Blob] = {}
        #: Blobs that no call or task refers to any more, until they are returned by `settled`, `finish` or `unpin`.
        self._ended: list[Blob] = []

    def adopt(self, call: Call) -> None:
        """Hold the objects that a new call refers to."""
        for share in call.shares:
            blob = share.blob
            if blob is not None and blob.holds:
                call.hold(blob)
                call.pins[blob.number] = blob
                call.pinned[id(share.obj)] = blob.number
            elif call.snapshot is not None:
                # The block of this object has ended in another thread while the call was made. Encode the call as if it had been
                # made after that.
                self._snapshots.drop(call.snapshot)
                call.snapshot = None

    def take(self, call: Call, most: int = 1) -> list[Task | Unplaced | Failed]:
        """Take and encode the next tasks of a call, up to `most`. All but the last one have payloads of a few plain values.

        Empty when the call has no more tasks.
        """
        taken: list[Task | Unplaced | Failed] = []
        while len(taken) < most:
            try:
                job, index, function, args, kwds = next(call.tasks)
            except StopIteration:
                break
            except BaseException as error:
                # Seldom an Exception: `tasks_of` makes tasks of those.
                call.last_index += 1
                taken.append(Failed(call, call.last_index, contained(error, "the iterable"), at=NO_ITEM))
                break
            call.job, call.last_index = job, index
            star, function, payload, plain = parts_of(function, args, kwds, call.on_error)
            known = call.encoded
            if (
                not plain
                or known is None
                or known.may_change
                or call.function is not function
                or call.failure is not None
            ):
                began = self._placing.begin()
                taken.append(self._encode(call, index, star, function, payload, plain))
                if began:
                    self._placing.took_apart(began, call, index, len(payload) if star else 1)
                break
            if known.nbytes:
                self._metrics.saved(known.nbytes)
            count = len(payload) if star else 1
            taken.append(Task(call, index, star, PLAIN, call.blobs, plain=protocol.plain(payload), count=count))
        return taken

    def _encode(
        self, call: Call, index: int, star: int, function: Any, payload: Any, plain: bool
    ) -> Task | Unplaced | Failed:
        if call.failure is not None:
            return Failed(call, index, call.failure, at=NO_ITEM)
        count = len(payload) if star else 1
        snapshot, call.snapshot = call.snapshot, None
        try:
            if snapshot is not None and snapshot.failure is not None:
                raise snapshot.failure
            changed = None
            if not self._is_encoded(call, function):
                changed = self._encode_function(call, function, snapshot.function if snapshot is not None else None)
            encoded = changed or call.encoded
            assert encoded is not None
            if encoded.nbytes:
                self._metrics.saved(encoded.nbytes)
            if index == 0 and star:
                call.expect(count)
            needed = self._sharing(call, encoded.blobs)
            taken: Parcel | Reduced
            if plain:
                taken = Parcel(protocol.plain(payload), (), 0)
            else:
                if snapshot is not None and snapshot.payload is not None:
                    taken = snapshot.payload
                else:
                    taken = self._sender.reduce(payload, encoded.seen, needed)
                self._note_pickled(payload, taken)
                needed.refer_to_pins(taken)
                if not taken.units:
                    taken = Parcel(protocol.encoded(taken.stream), (), 0)
        except BaseException as error:
            by_function = call.encoded is None or call.failure is not None
            of_items = star in KEEPS_GOING and not by_function
            rest = sendable(payload, self._sender.reduce, star, dumps_stream) if of_items else None
            if rest is None:
                return Failed(call, index, *refused(error, star, payload, by_function=by_function))
            return self._encode(call, index, star, function, rest, False)
        finally:
            self._snapshots.drop(snapshot)
        blobs = tuple(needed.blobs)  # the function is added when it is placed
        if changed is not None or not isinstance(taken, Parcel):
            return Unplaced(call, index, star, count, taken, blobs, changed)
        return self._task(call, index, star, count, taken, blobs)

    def place(self, unplaced: Unplaced, relieve: Relieve | None) -> Task:
        """Copy a task's large memory into segments.

        Parameters
        ----------
        unplaced : Unplaced
            The task.
        relieve : callable or None
            Gets memory back when the system has none; see `Sender.place`.

        Raises
        ------
        ArenaFullError
            When there is no memory. Nothing is held then.
        """
        call, index, star, count, payload, blobs, function = unplaced
        place = self._placing.place
        parcel = place(payload, relieve, call, index, count) if isinstance(payload, Reduced) else payload
        if function is not None:
            assert function.reduced is not None
            try:
                blob = self._new_blob(place(function.reduced, relieve, call))
            except BaseException:
                self._sender.unpin(parcel.segments)
                raise
            self._install(call, call.function, function, blob)
        return self._task(call, index, star, count, parcel, blobs)

    def _task(self, call: Call, index: int, star: int, count: int, parcel: Parcel, others: tuple[Blob, ...]) -> Task:
        function = call.blobs[0]
        own = None
        if call.encoded is not None and call.encoded.may_change:
            own = function
            own.holds += 1
        return Task(call, index, star, parcel, (function, *others), own, count=count)

    def _is_encoded(self, call: Call, function: Any) -> bool:
        """Whether the function surely has the state in which it was encoded last. False when only encoding it again can tell."""
        encoded = call.encoded
        if encoded is None or call.function is not function:
            return False
        if not encoded.may_change:
            return True
        if encoded.constants is None:
            return False
        constants = constants_of(function)
        return constants is not None and all(map(operator.is_, constants, encoded.constants))

    def _encode_function(self, call: Call, function: Any, reduced: Reduced | None) -> EncodedFunction | None:
        """Encode a call's function, with everything that it has captured: once, unless user code runs between the tasks.

        `reduced` is the function's state when the call was made, if there is a snapshot. Returns the function if it has changed
        and has large memory: the caller places it when the budget allows it. Otherwise the function is installed, and None is
        returned.
        """
        stateless = is_stateless(function)
        needed = self._sharing(call)
        try:
            seen = None
            if reduced is None:
                if call.encoded is None:
                    self._sender.refresh()
                if stateless:
                    reduced = self._sender.reduce(function, None, needed)
                else:
                    reduced, seen = self._sender.reduce_and_note(function, needed)
            self._note_pickled(function, reduced)
            needed.refer_to_pins(reduced)
            may_change = call.lazy and not stateless
            encoded = EncodedFunction(
                reduced if may_change else None,
                reduced.nbytes,
                seen,
                constants_of(function) if may_change else None,
                may_change,
                tuple(needed.blobs),
            )
            known = call.encoded
            if known is not None and known.reduced is not None and call.function is function:
                blob = call.blobs[0]
                if self._sender.is_placed(reduced, known.reduced, blob.parcel):
                    call.encoded = encoded
                    if not blob.pinned:
                        self._pin(blob)  # it does not change, so it stays, and does not count as in flight
                    return None
                if reduced.nbytes:
                    return encoded
            self._install(call, function, encoded, self._function_blob(call, reduced, stateless))
            return None
        except BaseException as error:
            explain(error, in_function(function))
            if stateless or not call.lazy:
                call.failure = contained(error, "pickling it")
            raise

    def _function_blob(self, call: Call, reduced: Reduced, stateless: bool) -> Blob:
        plain = stateless and not reduced.units
        blob = self._known_functions.get(reduced.stream) if plain else None
        if blob is None:
            blob = self._place_lasting(reduced, stateless, call)
            if not plain or len(self._known_functions) >= _FUNCTIONS_KEPT:
                return blob
            self._known_functions[reduced.stream] = blob
        blob.holds += 1
        return blob

    def _install(self, call: Call, function: Any, encoded: EncodedFunction, blob: Blob) -> None:
        """Have the next tasks use this blob as their function. The blob's hold passes to the call."""
        for before in call.blobs[:1]:
            call.held.discard(before)
            self._let_go([before])
        call.held.add(blob)
        call.function, call.encoded, call.blobs = function, encoded, (blob, *encoded.blobs)

    def _place_lasting(self, reduced: Reduced, stateless: bool = False, call: Call | None = None) -> Blob:
        """Place an object of any size that stays, such as a function. It does not count as in flight."""
        self._reclaim.reap()
        blob = self._new_blob(self._placing.place(reduced, self._reclaim.relieve, call), stateless)
        self._pin(blob)
        return blob

    def _new_blob(self, parcel: Parcel, stateless: bool = False) -> Blob:
        if parcel.nbytes:
            self._metrics.placed_for_many(parcel.nbytes)
        return Blob(next(self._numbers), stateless, parcel)

    def _pin(self, blob: Blob) -> None:
        blob.pinned = blob.parcel.nbytes
        self._budget.pinned += blob.pinned

    # What tasks share

    def _sharing(self, call: Call, blobs: Iterable[Blob] = ()) -> SharedByCall:
        sharing = SharedByCall(call, self._take_apart, self._place_for, self._metrics.saved)
        sharing.blobs.extend(blobs)
        return sharing

    def _take_apart(self, obj: Any) -> Reduced:
        reduced = self._sender.reduce_apart(obj)
        self._note_pickled(obj, reduced)
        return reduced

    def _note_pickled(self, obj: Any, reduced: Reduced) -> None:
        if reduced.placed_stream_bytes:
            self._metrics.pickled(obj, reduced.placed_stream_bytes)

    def _place_for(self, call: Call, reduced: Reduced) -> Blob | None:
        """Place an object that several tasks of a call refer to, if it fits next to their own memory; otherwise return None."""
        if not self._budget.fits_for_many(reduced.nbytes):
            return None
        try:
            parcel = self._placing.place(reduced, self._reclaim.relieve, call)
        except ArenaFullError:
            return None  # each task then gets a copy of its own, for which it may wait
        blob = self._new_blob(parcel)
        call.held.add(blob)
        return blob

    def pin(self, obj: Any) -> Blob:
        """Place an object that a user shares. Calls that are made later refer to it.

        Raises
        ------
        Exception
            The error of pickling it; ArenaFullError when there is no memory.
        """
        self._sender.refresh()
        with explained([("the shared object", obj)]):
            reduced = self._take_apart(obj)
        return self._place_lasting(reduced)

    # Ends. Each method returns the blobs that no task will refer to again.

    def holds(self, task: Task) -> bool:
        """Whether `settled` has something to release: memory of this task, or blobs that ended before."""
        return bool(task.parcel.segments or task.own is not None or self._ended)

    def unpin(self, blob: Blob) -> list[Blob]:
        """Release an object that a user has shared: later calls do not refer to it."""
        self._let_go([blob])
        return self._take_ended()

    def settled(self, task: Task) -> list[Blob]:
        """End a task: release the memory that only this task held."""
        self._sender.unpin(task.parcel.segments)
        if task.own is not None:
            self._let_go([task.own])
        return self._take_ended()

    def finish(self, call: Call) -> list[Blob]:
        """End a call: release its blobs."""
        call.note_item_seconds()
        self._let_go(call.held)
        self._snapshots.drop(call.snapshot)
        call.held.clear()
        call.shares, call.snapshot = (), None
        call.function, call.blobs, call.encoded = None, (), None
        return self._take_ended()

    def _let_go(self, blobs: Iterable[Blob]) -> None:
        for blob in blobs:
            blob.holds -= 1
            if not blob.holds:
                self._sender.unpin(blob.parcel.segments)
                self._budget.pinned -= blob.pinned
                self._ended.append(blob)

    def _take_ended(self) -> list[Blob]:
        ended, self._ended = self._ended, []
        return ended
