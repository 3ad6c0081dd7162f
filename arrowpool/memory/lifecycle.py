"""Who holds each segment of an arena, and when a segment is free. Pure decisions: no IO, no clock, no process.

Rules of this file
------------------
- A segment is held by *pins* (of its owner: a message under way, a call, the pool) and by *leases* (of a consumer, one for
  each time the segment is granted to it).
- It becomes free when the last pin and the last lease are gone. Each method that can end a hold returns the segments that
  became free; the caller gives their memory back.
- Only the consumer ends its leases. After its death, all of them end at once: when none of the processes that it has forked is left.
- A slot belongs to one lease of a consumer at a time.

Used by an arena's owner, in one thread: the feeder for arguments, each worker's main thread for its results. Other threads of the
parent read only: `live`, `bytes_live`, the peaks and `grants`, for figures. Each read is one atomic operation or iterates over a copy,
so figures of two attributes may belong to different moments.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from arrowpool.tuning import LEASE_SLOTS


@dataclass(slots=True, eq=False)
class Segment:
    """A range of an arena: `size` bytes at `offset`, and the number of holds on it."""

    offset: int
    size: int
    holds: int = 0

    @property
    def owned(self) -> int:
        """Bytes of its owner's memory."""
        return self.size


@dataclass(slots=True, eq=False)
class Borrowed(Segment):
    """A segment of another process's arena. This process has a lease of it, and lends it while it has the lease."""

    memory: Any = None

    @property
    def owned(self) -> int:
        return 0


@dataclass(slots=True)
class _Consumer:
    """The leases of one consumer by slot, and the slot numbers that are free again."""

    grants: dict[int, Segment] = field(default_factory=dict)
    free_slots: list[int] = field(default_factory=list)
    next_slot: int = 0


class LifecycleManager:
    """The books of one arena's owner."""

    def __init__(self) -> None:
        # The state. The owner's thread writes; see above for other threads.
        self._consumers: dict[Hashable, _Consumer] = {}
        #: Segments that are held, and their bytes of the owner's memory.
        self.live: set[Segment] = set()
        self.bytes_live = 0
        #: The largest numbers of both so far.
        self.peak_segments = 0
        self.peak_bytes = 0

    def __repr__(self) -> str:
        return f"<LifecycleManager segments: {len(self.live)} ({self.bytes_live:,} bytes) | leases: {self.grants()}>"

    def grants(self) -> int:
        """Number of leases."""
        return sum(len(consumer.grants) for consumer in list(self._consumers.values()))

    def grants_of(self, consumer: Hashable) -> int:
        """Number of leases of one consumer."""
        books = self._consumers.get(consumer)
        return len(books.grants) if books is not None else 0

    def placed(self, segment: Segment) -> None:
        """Add a new segment with one pin, that of the caller."""
        if segment in self.live:
            raise ValueError(f"{segment} is live already")
        segment.holds = 1
        self.live.add(segment)
        self.bytes_live += segment.owned
        self.peak_segments = max(self.peak_segments, len(self.live))
        self.peak_bytes = max(self.peak_bytes, self.bytes_live)

    def pin(self, segment: Segment) -> None:
        """Add a pin."""
        self._check_live(segment)
        segment.holds += 1

    def unpin(self, segments: Iterable[Segment]) -> list[Segment]:
        """Remove one pin of each segment; return the segments that are free now."""
        freed = []
        for segment in segments:
            self._check_live(segment)
            freed += self._drop(segment)
        return freed

    def consumer_joined(self, consumer: Hashable) -> None:
        """Add a process to which segments can be granted."""
        if consumer in self._consumers:
            raise ValueError(f"consumer {consumer!r} has joined already")
        self._consumers[consumer] = _Consumer()

    def grant(self, segment: Segment, consumer: Hashable) -> int | None:
        """Add a lease of `consumer`. Return its slot, or None when the consumer holds the maximum number of leases."""
        self._check_live(segment)
        books = self._consumers[consumer]
        if books.free_slots:
            slot = heapq.heappop(books.free_slots)
        elif books.next_slot < LEASE_SLOTS:
            slot = books.next_slot
            books.next_slot += 1
        else:
            return None
        books.grants[slot] = segment
        segment.holds += 1
        return slot

    def slots_in_use(self, consumer: Hashable) -> int:
        """A number above the slots of all leases of `consumer`; 0 if it has no leases."""
        books = self._consumers.get(consumer)
        return books.next_slot if books is not None and books.grants else 0

    def released(self, consumer: Hashable, slots: Iterable[int]) -> list[Segment]:
        """End these leases of `consumer`; return the segments that are free now."""
        books = self._consumers[consumer]
        freed = []
        for slot in slots:
            segment = books.grants.pop(slot)
            heapq.heappush(books.free_slots, slot)
            freed += self._drop(segment)
        return freed

    def consumer_lost(self, consumer: Hashable) -> list[Segment]:
        """`consumer` is gone, and all its leases end; return the segments that are free now."""
        books = self._consumers.pop(consumer, None)
        if books is None:
            return []
        freed = []
        for segment in books.grants.values():
            freed += self._drop(segment)
        return freed

    def _drop(self, segment: Segment) -> list[Segment]:
        segment.holds -= 1
        if segment.holds:
            return []
        self.live.discard(segment)
        self.bytes_live -= segment.owned
        return [segment]

    def _check_live(self, segment: Segment) -> None:
        if segment not in self.live:
            raise ValueError(f"{segment} is not live")
