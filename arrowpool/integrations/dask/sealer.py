"""Seals the tasks of calls: their functions once, their arguments one by one, what several tasks have in common once.

In the feeder's thread, except `snapshot`. Runs the user's code: the reductions of arguments.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arrowpool.engine.calls import Blob, Call, Share, Snapshot, parts_of
from arrowpool.engine.events import Failed
from arrowpool.engine.refusals import refused
from arrowpool.engine.shared import SharedByCall
from arrowpool.errors import contained
from arrowpool.integrations.dask.events import Item
from arrowpool.integrations.dask.sealed import Sealed, sealed
from arrowpool.transport import protocol
from arrowpool.transport.culprits import explain, explained, in_function, in_task
from arrowpool.transport.error_packing import sendable
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.protocol import KEEPS_GOING, NO_ITEM, Star
from arrowpool.transport.reducer import Reducer, Seen, dumps_stream
from arrowpool.transport.resolution import Reach
from arrowpool.transport.sharing import PinnedOnly
from arrowpool.tuning import INLINE_LIMIT

#: A function of so many bytes is placed once on a node; a smaller one goes with each batch.
_PLACED_BYTES = 64 << 10


@dataclass(slots=True, eq=False)
class SealedFunction:
    """The function of a call: sealed, or its number where it is shared; what it refers to; what payloads are reduced after."""

    function: Sealed | int
    shared: list[int]
    seen: Seen


@dataclass(slots=True, eq=False)
class SealedCall:
    """What is sealed of one call."""

    call: Call
    function: SealedFunction | None = None
    #: Shared objects that are this call's own, by number.
    own: dict[int, Sealed] = field(default_factory=dict)


class Sealer:
    """Takes tasks apart."""

    def __init__(self) -> None:
        self._reach = Reach(forks=False)
        self._reach.worker_has({})  # a node has nothing of this program's main module: it goes by value
        self._numbers = itertools.count()
        #: Reducers that are not in use. Any thread takes one out, or makes one, and puts it back: atomic operations.
        self._idle: deque[Reducer] = deque()
        #: Objects that users share, by number. A thread that shares adds, the feeder removes.
        self.pinned: dict[int, Sealed] = {}

    @contextlib.contextmanager
    def _reducer(self) -> Iterator[Reducer]:
        try:
            reducer = self._idle.pop()
            reducer.refresh()
        except IndexError:
            reducer = Reducer(inline_limit=INLINE_LIMIT, reach=self._reach)
        try:
            yield reducer
        finally:
            self._idle.append(reducer)

    # From the threads that make calls

    def snapshot(
        self, function: Callable[..., Any], args: Any, kwds: Mapping[str, Any], shares: Sequence[Share]
    ) -> Snapshot:
        """A single call as it is now; large arrays are read when it is sent."""
        pinned = {id(share.obj): share.blob.number for share in shares if share.blob is not None}
        try:
            with self._reducer() as reducer:
                return Snapshot(payload=Reduced(*reducer.reduce((function, (args, kwds)), sharing=PinnedOnly(pinned))))
        except BaseException as error:
            # The arguments first: a function that fails has none of them.
            if explain(error, in_task(Star.CALL, (args, kwds))) is None:
                explain(error, in_function(function))
            return Snapshot(failure=contained(error, "pickling it"))

    def initializer(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Sealed:
        """An initializer with its arguments: sets the globals of the nodes' processes."""
        return sealed(
            *Reducer(inline_limit=INLINE_LIMIT, reach=self._reach, for_initializer=True).reduce((function, args))
        )

    def share(self, share: Share) -> None:
        """Seal an object for the calls that are made later, as it is now."""
        number = next(self._numbers)
        with explained([("the shared object", share.obj)]), self._reducer() as reducer:
            self.pinned[number] = sealed(*reducer.reduce(share.obj), copies=True)
        share.blob = _blob(number, self.pinned[number].nbytes)

    # The feeder

    def adopt(self, call: Call) -> SealedCall:
        """Begin with a call: it holds the objects that it may refer to."""
        for share in call.shares:
            blob = share.blob
            if blob is not None and blob.holds:
                blob.holds += 1
                call.pins[blob.number] = blob
                call.pinned[id(share.obj)] = blob.number
            else:  # the block has ended in another thread while the call was made: it is sealed as if made after that
                call.snapshot = None
        return SealedCall(call)

    def end(self, state: SealedCall) -> list[int]:
        """End a call; return the numbers of the objects that no call refers to any more."""
        released = [number for blob in state.call.pins.values() for number in self.release(blob)]
        return [*state.own, *released]

    def release(self, blob: Blob) -> list[int]:
        """End one hold of an object that users share; return its number if that was the last one."""
        blob.holds -= 1
        if blob.holds:
            return []
        del self.pinned[blob.number]
        return [blob.number]

    def seal(self, state: SealedCall, task: Any) -> Item | Failed:
        """Seal a task. The error of one that cannot be pickled is its outcome."""
        call = state.call
        _, index, function, args, kwds = task
        star, function, payload, _ = parts_of(function, args, kwds, call.on_error)
        call.function = function
        count = len(payload) if star else 1
        snapshot, call.snapshot = call.snapshot, None
        if call.failure is not None:
            return Failed(call, index, call.failure, at=NO_ITEM)
        if snapshot is not None:
            if snapshot.failure is not None:
                return Failed(call, index, snapshot.failure, at=NO_ITEM)
            assert snapshot.payload is not None
            return Item(call, index, sealed(*snapshot.payload), Star.CALL)
        try:
            return Item(call, index, self._seal_payload(state, function, payload), star, count)
        except BaseException as error:
            of_items = star in KEEPS_GOING and state.function is not None
            rest = sendable(payload, self._reduce, star, dumps_stream) if of_items else None
            if rest is None:
                return Failed(call, index, *refused(error, star, payload, by_function=state.function is None))
        return Item(call, index, self._seal_payload(state, function, rest), star, count)

    def _seal_payload(self, state: SealedCall, function: Any, payload: Any) -> Sealed:
        call, sharing = state.call, self._sharing(state)
        if state.function is None:
            state.function = self._seal_function(state, function, sharing)
        with self._reducer() as reducer:
            stream, units = reducer.reduce(payload, state.function.seen, sharing)
        return sealed(stream, units, copies=call.lazy)

    def _seal_function(self, state: SealedCall, function: Any, sharing: SharedByCall) -> SealedFunction:
        try:
            with self._reducer() as reducer:
                stream, units, seen = reducer.reduce_and_note(function, sharing)
        except BaseException as error:
            explain(error, in_function(function))
            state.call.failure = contained(error, "pickling it")
            raise
        parcel = sealed(stream, units, copies=state.call.lazy)
        if parcel.nbytes < _PLACED_BYTES:
            return SealedFunction(parcel, parcel.shared, seen)
        number = next(self._numbers)
        state.own[number] = parcel
        return SealedFunction(number, parcel.shared, seen)

    def _reduce(self, obj: Any) -> Reduced:
        with self._reducer() as reducer:
            return Reduced(*reducer.reduce(obj))

    def _sharing(self, state: SealedCall) -> SharedByCall:
        def place(call: Call, reduced: Reduced) -> Blob:
            number = next(self._numbers)
            state.own[number] = sealed(*reduced)
            blob = _blob(number, state.own[number].nbytes)
            call.held.add(blob)
            return blob

        return SharedByCall(state.call, self._reduce, place, lambda _: None)

    def needed(self, state: SealedCall, items: Sequence[Item]) -> dict[int, Sealed]:
        """The shared objects that a batch needs, by number."""
        numbers: list[int] = []
        if state.function is not None:
            numbers += state.function.shared
            if isinstance(state.function.function, int):
                numbers.append(state.function.function)
        for item in items:
            numbers += item.payload.shared
        return {number: state.own[number] if number in state.own else self.pinned[number] for number in numbers}


def _blob(number: int, nbytes: int) -> Blob:
    return Blob(number, False, Parcel(protocol.plain(None), (), nbytes))
