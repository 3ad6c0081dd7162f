"""Placing: copies what was taken apart into segments, and notes both steps on the tape of a trace.

Used by the encoder, in the acting thread (see `mailbox`).
"""

from __future__ import annotations

from arrowpool.engine.calls import Call, name_of_function
from arrowpool.engine.naming import items_of
from arrowpool.engine.recorder import Activity, Recorder
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.sender import Relieve, Sender


class Placing:
    """Places objects with a sender.

    Parameters
    ----------
    sender : Sender
        Copies into the parent's arena.
    recorder : Recorder
        Has the tape.
    """

    def __init__(self, sender: Sender, recorder: Recorder):
        self._sender = sender
        self._recorder = recorder

    def begin(self) -> int:
        """The moment before a task is taken apart, for `took_apart`; 0 without a trace."""
        return self._recorder.begin()

    def took_apart(self, began: int, call: Call, index: int, count: int) -> None:
        """Note that a task of `count` items was taken apart."""
        self._recorder.note(Activity.ENCODE, began, name_of_function(call.function), items_of(call, index, count))

    def place(
        self, reduced: Reduced, relieve: Relieve | None, call: Call | None = None, index: int = 0, count: int = 0
    ) -> Parcel:
        """Place an object of a task of `count` items; of several tasks if that is 0; without a call, of several calls.

        See `Sender.place`.

        Raises
        ------
        ArenaFullError
            When there is no memory. Nothing is held then.
        """
        began = self._recorder.begin()
        parcel = self._sender.place(reduced, relieve)
        if began and reduced.nbytes:
            what = name_of_function(call.function) if call is not None else "shared"
            item = items_of(call, index, count) if call is not None and count else "for several items"
            self._recorder.note(Activity.COPY, began, what, item, reduced.nbytes)
        return parcel
