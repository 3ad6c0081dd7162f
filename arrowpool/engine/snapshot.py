"""Snapshots of single calls: a call is pickled at once, in the caller's thread, so later changes do not reach the task.

Plain objects, small arrays and small frames are copied into the stream. Large memory is only referred to: it is read when the
task is placed, as the standard library reads it when its own thread comes to the task.

Guarantee: no lock is held while user code runs, so code that pickling calls may make calls of its own, in any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

from arrowpool.engine.calls import Share, Snapshot, name_of_function, parts_of
from arrowpool.engine.recorder import Activity, Recorder
from arrowpool.errors import contained
from arrowpool.transport.culprits import explain, in_function, in_task
from arrowpool.transport.parcel import Reduced
from arrowpool.transport.protocol import Star
from arrowpool.transport.reducer import Reducer
from arrowpool.transport.resolution import is_stateless
from arrowpool.transport.sender import Sender
from arrowpool.transport.sharing import PinnedOnly, Sharing
from arrowpool.tuning import SNAPSHOT_BYTES


class Snapshots:
    """Takes snapshots, and limits the memory of those that wait for their turn.

    Parameters
    ----------
    sender : Sender
        Reduces objects. Threads use it through reducers of their own.
    recorder : Recorder
        Notes how long that takes.
    """

    def __init__(self, sender: Sender, recorder: Recorder):
        self._sender = sender
        self._recorder = recorder
        #: Reducers that are not in use. Threads that make calls take one and put it back; both are atomic operations, so one call
        #: uses a reducer at a time. A call that is made while pickling runs takes another one.
        self._idle: deque[Reducer] = deque()
        #: Bytes of all snapshots. Threads that make calls add to it, with `_counting` held, and read it without the lock.
        self._taken = 0
        #: Bytes of the snapshots that are used up. The acting thread (see `mailbox`) adds to it; threads that make calls read it.
        #: Safe for both: they are compared with a limit that need not be exact.
        self._dropped = 0
        #: Held while `_taken` changes. Reentrant: a finalizer that runs inside may make a call.
        self._counting = threading.RLock()

    def __repr__(self) -> str:
        return f"<Snapshots waiting: {self._taken - self._dropped:,} bytes>"

    def take(self, function: Callable[..., Any], args: Any, kwds: Any, shares: Sequence[Share] = ()) -> Snapshot | None:
        """Return a snapshot of a call; None if nothing of the call can change, or if snapshots of `SNAPSHOT_BYTES` wait already.

        For threads that make calls.

        Raises
        ------
        KeyboardInterrupt
            When the main thread is interrupted. Any other error becomes the snapshot's `failure`.
        """
        _, function, payload, plain = parts_of(function, args, kwds)
        if (plain and self._stays(function)) or self._taken - self._dropped >= SNAPSHOT_BYTES:
            return None
        began = self._recorder.begin()
        try:
            reducer = self._idle.pop()
        except IndexError:
            reducer = self._sender.new_reducer()
        try:
            reducer.refresh()
            pinned = {id(share.obj): share.blob.number for share in shares if share.blob is not None}
            snapshot = self._taken_with(reducer, function, None if plain else payload, PinnedOnly(pinned))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            # The arguments first: a function that fails has none of them.
            if explain(error, in_task(Star.CALL, (args, kwds))) is None:
                explain(error, in_function(function))
            return Snapshot(failure=contained(error, "pickling it"))
        finally:
            self._idle.append(reducer)
            if began:
                self._recorder.note(Activity.ENCODE, began, name_of_function(function))
        with self._counting:
            self._taken += snapshot.nbytes
        return snapshot

    def _taken_with(self, reducer: Reducer, function: Any, payload: Any, sharing: Sharing) -> Snapshot:
        # Under spawn, names in `__main__` are a guess until the first worker has reported its own. Then pickle later.
        reducer.guessed = False
        seen = None
        stateless = is_stateless(function)
        encoded: Reduced | None
        encoded_payload: Reduced | None = None
        if stateless or payload is None:
            encoded = self._sender.reduce(function, None, sharing, reducer)
        else:
            encoded, seen = self._sender.reduce_and_note(function, sharing, reducer)
        if reducer.guessed:
            if not stateless:
                return Snapshot()
            encoded, reducer.guessed = None, False
        if payload is not None:
            encoded_payload = self._sender.reduce(payload, seen, sharing, reducer)
            if reducer.guessed:
                if not stateless:
                    return Snapshot()
                encoded_payload = None
        return Snapshot(encoded, encoded_payload, nbytes=_held(encoded) + _held(encoded_payload))

    def drop(self, snapshot: Snapshot | None) -> None:
        """Note that a snapshot is used up. For the acting thread."""
        if snapshot is not None:
            self._dropped += snapshot.nbytes

    def _stays(self, function: Any) -> bool:
        """Whether the function is sent by its name alone."""
        kind = type(function)
        if kind is FunctionType:
            return is_stateless(function) and self._sender.resolves(function)
        return kind is type or (kind is BuiltinFunctionType and is_stateless(function))


def _held(reduced: Reduced | None) -> int:
    """Bytes that belong to the snapshot: the stream, also if it will be placed as a unit, and units with memory of their own."""
    if reduced is None:
        return 0
    own = sum(unit.nbytes for unit in reduced.units if unit.is_own)
    return own + (len(reduced.stream) or (reduced.units[0].nbytes if reduced.units else 0))
