"""Seals the tasks of calls: their functions once, their arguments one by one, what several tasks have in common once.

In the feeder's thread, except `snapshot`. Runs the user's code: the reductions of arguments.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arrowpool.engine.calls import Blob, Call, Share, Snapshot, parts_of
from arrowpool.engine.events import Failed
from arrowpool.engine.refusals import refused
from arrowpool.engine.shared import SharedByCall
from arrowpool.errors import contained
from arrowpool.integrations.dask.events import Item, SealedFunction
from arrowpool.integrations.dask.sealed import Sealed, sealed
from arrowpool.transport import protocol
from arrowpool.transport.culprits import explain, explained, in_function, in_initializer, in_task
from arrowpool.transport.error_packing import sendable
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.protocol import KEEPS_GOING, NO_ITEM, Star
from arrowpool.transport.reducer import Reducer, dumps_stream
from arrowpool.transport.resolution import Reach, constants_of, is_stateless
from arrowpool.transport.sharing import PinnedOnly
from arrowpool.transport.unit import Unit
from arrowpool.tuning import INLINE_LIMIT

#: A function of so many bytes is placed once on a node; a smaller one goes with each batch.
_PLACED_BYTES = 64 << 10


@dataclass(slots=True, eq=False)
class SealedCall:
    """What is sealed of one call."""

    call: Call
    #: The function in the state that it had for the last task.
    function: SealedFunction | None = None
    state: FunctionState | None = None
    #: Shared objects that are this call's own, by number.
    own: dict[int, Sealed] = field(default_factory=dict)
    #: Numbers of those that no task needs any more, until `settle` returns them.
    unneeded: list[int] = field(default_factory=list)


class FunctionState:
    """The state in which a function was sealed: user code runs between the tasks of a lazy call, and may change it.

    Parameters
    ----------
    function : callable
        The function.
    reduced : Reduced
        The function taken apart.
    parcel : Sealed
        The same sealed.
    """

    __slots__ = ("_constants", "_function", "_parcel", "_reduced")

    def __init__(self, function: Callable[..., Any], reduced: Reduced, parcel: Sealed):
        self._function = function
        self._constants = constants_of(function)
        self._reduced = reduced
        self._parcel = parcel

    def surely_holds(self, function: Callable[..., Any]) -> bool:
        """Whether the function has this state. False when only taking it apart again can tell."""
        if function is not self._function:
            return False
        if is_stateless(function):
            return True
        if self._constants is None:
            return False
        now = constants_of(function)
        return now is not None and all(map(operator.is_, now, self._constants))

    def is_as(self, reduced: Reduced) -> bool:
        """Whether this is the state that was taken apart now. Reads all the memory."""
        before = self._reduced
        return (
            before.stream == reduced.stream
            and len(before.units) == len(reduced.units)
            and all(map(Unit.is_as, reduced.units, before.units, self._parcel.parts))
        )


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
        reducer = Reducer(inline_limit=INLINE_LIMIT, reach=self._reach, for_initializer=True)
        with explained(in_initializer(function, args)):
            return sealed(*reducer.reduce((function, args)))

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

    def settle(self, state: SealedCall, item: Item) -> list[int]:
        """A task has its outcome; return the numbers of the objects that no task needs any more."""
        function = item.function
        if function is not None and function.holds:
            function.holds -= 1
            self._drop_former(state, function)
        unneeded, state.unneeded = state.unneeded, []
        return unneeded

    @staticmethod
    def _drop_former(state: SealedCall, function: SealedFunction) -> None:
        """Drop a function in a state that it does not have any more, if no task needs it."""
        if function is not state.function and not function.holds and isinstance(function.place, int):
            del state.own[function.place]
            state.unneeded.append(function.place)

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
        sharing = self._sharing(state)
        try:
            found = self._seal_function(state, function, sharing)
        except BaseException as error:
            explain(error, in_function(function))
            failure, *rest = refused(error, star, payload, by_function=True)
            if not call.lazy or is_stateless(function):
                call.failure = failure
            return Failed(call, index, failure, *rest)
        try:
            parcel = self._seal_payload(call, payload, found, sharing)
        except BaseException as error:
            replaced = sendable(payload, self._reduce, star, dumps_stream) if star in KEEPS_GOING else None
            if replaced is None:
                return Failed(call, index, *refused(error, star, payload, by_function=False))
            parcel = self._seal_payload(call, replaced, found, sharing)
        if call.lazy and isinstance(found.place, int):
            found.holds += 1
        return Item(call, index, parcel, star, count, found)

    def _seal_payload(self, call: Call, payload: Any, function: SealedFunction, sharing: SharedByCall) -> Sealed:
        with self._reducer() as reducer:
            stream, units = reducer.reduce(payload, function.seen, sharing)
        return sealed(stream, units, copies=call.lazy)

    def _seal_function(self, state: SealedCall, function: Any, sharing: SharedByCall) -> SealedFunction:
        """The call's function in the state that it has now: sealed once, unless user code that runs between the tasks changes it."""
        known, before, lazy = state.function, state.state, state.call.lazy
        if known is not None and (not lazy or (before is not None and before.surely_holds(function))):
            return known
        with self._reducer() as reducer:
            stream, units, seen = reducer.reduce_and_note(function, sharing)
        reduced = Reduced(stream, units)
        if known is not None and before is not None and before.is_as(reduced):
            known.seen = seen  # other objects may be equal to those of before
            return known
        parcel = sealed(stream, units, copies=lazy)
        if lazy:
            state.state = FunctionState(function, reduced, parcel)
        if parcel.nbytes < _PLACED_BYTES:
            made = SealedFunction(parcel, parcel.shared, seen)
        else:
            number = next(self._numbers)
            made = SealedFunction(number, parcel.shared, seen)
            state.own[number] = parcel
        state.function = made
        if known is not None:
            self._drop_former(state, known)
        return made

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
        """The shared objects that a batch of tasks with one function needs, by number."""
        numbers: list[int] = []
        function = items[0].function
        if function is not None:
            numbers += function.shared
            if isinstance(function.place, int):
                numbers.append(function.place)
        for item in items:
            numbers += item.payload.shared
        return {number: state.own[number] if number in state.own else self.pinned[number] for number in numbers}


def _blob(number: int, nbytes: int) -> Blob:
    return Blob(number, False, Parcel(protocol.plain(None), (), nbytes))
