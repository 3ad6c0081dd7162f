"""The collector's inbox: events from any thread, and a descriptor to wait for them together with the workers' replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from arrowpool.waiting import SelfPipe


class Inbox:
    """The collector's events, and the descriptor that it waits for beside those of the workers."""

    def __init__(self) -> None:
        #: Any thread appends, the collector takes. Both are atomic, also in a finalizer.
        self._events: deque[Any] = deque()
        self._pipe = SelfPipe()

    @property
    def reader(self) -> int:
        """Readable when there may be an event."""
        return self._pipe.reader

    def put(self, event: Any) -> None:
        """Give the collector an event; from any thread, also in a finalizer."""
        self._events.append(event)
        self._pipe.wake()

    def __iter__(self) -> Iterator[Any]:
        """Take all events, also those that come meanwhile."""
        while self._events:
            yield self._events.popleft()

    def drain(self) -> None:
        """Forget what made `reader` readable; before the events are taken."""
        self._pipe.drain()

    def close(self) -> None:
        """Release the descriptors and the events."""
        self._events.clear()  # they refer to workers, and their memory
        self._pipe.close()
