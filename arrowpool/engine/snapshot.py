"""Single calls, taken as they are at the moment they are made: in the caller's thread, not when their turn comes.

Used by the pool, in its callers' threads, and by the encoder, in the feeder's. What is in the stream is taken at once: plain
objects, small arrays and frames. Large memory is only referred to: it is read when the task is placed, as the standard
library reads it when its own thread comes to that task.

Guarantees: user code that runs while something is pickled may make calls of its own, from any thread: no lock is held.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from types import BuiltinFunctionType, FunctionType
from typing import Any

from arrowpool.engine.calls import Share, Snapshot
from arrowpool.errors import contained
from arrowpool.transport.parcel import Reduced
from arrowpool.transport.protocol import Star, is_plain
from arrowpool.transport.reducer import Reducer
from arrowpool.transport.resolution import is_stateless
from arrowpool.transport.sender import Sender
from arrowpool.transport.sharing import PinnedOnly, Sharing
from arrowpool.tuning import SNAPSHOT_BYTES


class Snapshots:
    """Takes them, and sees to it that those which wait for their turn are not too large altogether.

    Parameters
    ----------
    sender : Sender
        Whose tasks they will be.
    """

    def __init__(self, sender: Sender):
        self._sender = sender
        #: Reducers that nobody uses just now: each is for one thread at a time, and not for what that calls meanwhile.
        self._idle: deque[Reducer] = deque()
        #: Bytes taken, counted by callers with the lock; and dropped, by the feeder alone.
        self._taken = 0
        self._dropped = 0
        self._counting = threading.RLock()

    def __repr__(self) -> str:
        return f"<Snapshots waiting: {self._taken - self._dropped:,} bytes>"

    def take(self, function: Callable[..., Any], args: Any, kwds: Any, shares: Sequence[Share] = ()) -> Snapshot | None:
        """The call as it is now; None if nothing of it can change, or if too much waits already.

        Raises
        ------
        KeyboardInterrupt
            When the main thread is interrupted. Any other error is the call's.
        """
        _, function, payload, plain = parts_of(function, args, kwds)
        if (plain and self._stays(function)) or self._taken - self._dropped >= SNAPSHOT_BYTES:
            return None
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
            return Snapshot(failure=contained(error, "pickling it"))
        finally:
            self._idle.append(reducer)
        with self._counting:
            self._taken += snapshot.nbytes
        return snapshot

    def _taken_with(self, reducer: Reducer, function: Any, payload: Any, sharing: Sharing) -> Snapshot:
        # What names things of a spawned worker's `__main__` waits for that worker's word: then it is taken later.
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
        """It is used up."""
        if snapshot is not None:
            self._dropped += snapshot.nbytes

    def _stays(self, function: Any) -> bool:
        """Whether the function goes by its name alone."""
        kind = type(function)
        if kind is FunctionType:
            return is_stateless(function) and self._sender.resolves(function)
        return kind is type or (kind is BuiltinFunctionType and is_stateless(function))


def parts_of(function: Any, args: Any, kwds: Any) -> tuple[Star, Any, Any, bool]:
    """A task as a worker applies it: how, the function, what goes to it; and whether that is a few plain values."""
    if function is mapstar or function is starmapstar:
        star = Star.MAP if function is mapstar else Star.STARMAP
        function, payload = args[0]
        return star, function, payload, is_plain(payload)
    # Only what is a tuple and a dict itself goes through marshal; a subclass may be anything.
    plain = type(args) is tuple and type(kwds) is dict and not kwds and is_plain(args)
    return Star.CALL, function, (args, kwds), plain


def _held(reduced: Reduced | None) -> int:
    """Bytes that are the snapshot's own: the stream, also where that is to be placed as memory."""
    if reduced is None:
        return 0
    own = sum(unit.nbytes for unit in reduced.units if unit.is_own)
    return own + (len(reduced.stream) or (reduced.units[0].nbytes if reduced.units else 0))
