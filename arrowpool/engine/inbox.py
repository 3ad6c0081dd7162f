"""The collector's inbox: events from any thread, and a descriptor to wait for them together with the workers' replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from arrowpool.waiting import SelfPipe


class Inbox:
    """The collector's events, and a descriptor that is readable when there may be some."""

    def __init__(self) -> None:
        #: Any thread appends, also in a finalizer; the collector takes. Both are atomic.
        self._events: deque[Any] = deque()
        self._pipe = SelfPipe()

    @property
    def reader(self) -> int:
        """Readable when there may be an event."""
        return self._pipe.reader

    def __repr__(self) -> str:
        return f"<Inbox events: {len(self._events)}>"

    def put(self, event: Any) -> None:
        """Give the collector an event. Any thread may call this, also in a finalizer."""
        self._events.append(event)
        self._pipe.wake()

    def __iter__(self) -> Iterator[Any]:
        """Take all events, also those that arrive in the meantime."""
        while self._events:
            yield self._events.popleft()

    def drain(self) -> None:
        """Make `reader` unreadable. Called before the events are taken, so no event is overlooked."""
        self._pipe.drain()

    def close(self) -> None:
        """Release the descriptors and the events."""
        self._events.clear()  # events refer to workers and their memory
        self._pipe.close()
