"""The sending side of a message: from live objects to a stream and segments. `receiver` is the other side.

Each large byte is copied once, from the user's memory into a segment; the receiver reads it there. Used by the feeder (arguments,
functions) and by the worker (results): both own an arena. Assumes one thread at a time for each `Sender`, except where a comment
names other threads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.errors import ArenaFullError
from arrowpool.memory.arena import Arena
from arrowpool.memory.control_page import Flags, Use
from arrowpool.memory.descendants import Descendants
from arrowpool.memory.lifecycle import Borrowed, LifecycleManager, Segment
from arrowpool.transport import protocol
from arrowpool.transport.copiers import Copiers
from arrowpool.transport.layout import lay_out
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.placements import InSegment, Placement, read_placement
from arrowpool.transport.protocol import Grants
from arrowpool.transport.reducer import Reducer, Seen
from arrowpool.transport.resolution import Reach
from arrowpool.transport.sharing import NOTHING, Sharing
from arrowpool.transport.unit import Unit
from arrowpool.tuning import (
    HOPELESS_SECONDS,
    INLINE_LIMIT,
    PIECE,
    RELIEF_SECONDS,
)

_RELIEF_STEP_SECONDS = 0.01

#: Has all other processes give back memory that they keep warm. Returns None if no memory can come; otherwise a function that says,
#: during the wait, whether the processes can still give back so many bytes.
Relieve = Callable[[], Callable[[int], bool] | None]


class Sender:
    """Encodes objects into one owner's arena and keeps its books.

    Parameters
    ----------
    arena : Arena or None
        The arena for large memory. Without one, everything stays in the stream.
    reach : Reach, optional
        Says what the receiver can resolve by name; see :class:`arrowpool.transport.reducer.Reducer`.
    copy_threads : int
        Number of threads that copy large memory.
    """

    def __init__(self, arena: Arena | None, reach: Reach | None = None, copy_threads: int = 1):
        self.arena = arena
        self._copiers = Copiers(copy_threads) if copy_threads > 1 else None
        self.lifecycle = LifecycleManager()
        self._inline_limit = INLINE_LIMIT if arena is not None else sys.maxsize
        self._reach = reach
        #: For the thread that encodes. Other threads use reducers of their own, from `new_reducer`.
        self._reducer = Reducer(inline_limit=self._inline_limit, reach=reach)
        #: Bytes that were copied into segments, and number of copies. The thread that encodes writes, any thread reads.
        self.shared_bytes = 0
        self.copies = 0
        #: Number and bytes of buffers that were not copied, since they lie in memory that another process owns. The same threads.
        self.lent = 0
        self.lent_bytes = 0
        #: Lost consumers with leases that their descendants may use. For the thread that encodes.
        self._survived: dict[Hashable, Descendants] = {}
        #: Whether data in other processes' memory is not copied, for receivers that can read it. The thread that encodes writes;
        #: threads that take snapshots read. Safe: `bring_in` copies the data for a receiver that cannot read it.
        self.lends = False

    def __repr__(self) -> str:
        return f"<Sender {self.lifecycle!r}{' | lends' if self.lends else ''}>"

    @property
    def resident(self) -> int:
        """Bytes of the arena that have pages."""
        return self.arena.resident if self.arena is not None else 0

    def trim(self) -> None:
        """Give the pages of the arena's free ranges back to the kernel."""
        if self.arena is not None:
            self.arena.trim()

    def reduce(
        self, obj: Any, after: Seen | None = None, sharing: Sharing = NOTHING, reducer: Reducer | None = None
    ) -> Reduced:
        """Take `obj` apart.

        Parameters
        ----------
        obj : object
            What to send.
        after : Seen, optional
            Objects that the receiver rebuilds just before, by `Receiver.rebuild_in_turn`: `obj` may refer to them.
        sharing : Sharing
            Objects and memory that `obj` may refer to by number.
        reducer : Reducer, optional
            A reducer from `new_reducer`. The default is the sender's own, for the thread that encodes.

        Raises
        ------
        Exception
            The error of pickling the object. Nothing is held then.
        """
        return self._reduced(*(reducer or self._reducer).reduce(obj, after, sharing, lends=self.lends))

    def reduce_and_note(
        self, obj: Any, sharing: Sharing = NOTHING, reducer: Reducer | None = None
    ) -> tuple[Reduced, Seen]:
        """As `reduce`; also return the objects that are in the stream."""
        stream, units, seen = (reducer or self._reducer).reduce_and_note(obj, sharing, lends=self.lends)
        return self._reduced(stream, units), seen

    def reduce_apart(self, obj: Any) -> Reduced:
        """As `reduce`, while this sender's own reducer is in the middle of an object that refers to `obj`."""
        return self._reduced(*self.new_reducer().reduce(obj))

    def refresh(self) -> None:
        """Have this sender's own reducer look at the program again: see `Reducer.refresh`."""
        self._reducer.refresh()

    def new_reducer(self) -> Reducer:
        """Return a reducer for another thread."""
        return Reducer(inline_limit=self._inline_limit, reach=self._reach)

    def resolves(self, obj: Any) -> bool:
        """Whether a function or class is sent by its name."""
        return self._reach is not None and self._reach.resolves(obj)

    def _reduced(self, stream: bytes, units: list[Unit]) -> Reduced:
        if len(stream) >= INLINE_LIMIT and self.arena is not None:
            # Cheaper than the pipe, which also never blocks then.
            units = [Unit(len(stream), np.frombuffer(stream, dtype=np.uint8)), *units]
            stream = b""
        return Reduced(stream, units)

    def place(self, reduced: Reduced, relieve: Relieve | None = None) -> Parcel:
        """Copy the memory that `reduced` refers to into new segments.

        Parameters
        ----------
        reduced : Reduced
            The object.
        relieve : callable, optional
            Gets memory back when the system has none. Without it, that is an error at once.

        Raises
        ------
        ArenaFullError
            When there is no memory, and none comes within a second (or less, if no process can give any back). Nothing is held
            then.
        """
        if not reduced.units:
            return Parcel(protocol.encoded(reduced.stream), (), 0)
        arena = self.arena
        assert arena is not None
        leased, sizes, placements = lay_out(reduced.units)
        segments: list[Segment] = []
        try:
            for memory in leased:
                borrowed = Borrowed(memory.lease.offset, memory.lease.size, memory=memory)
                self.lifecycle.placed(borrowed)
                segments.append(borrowed)
            for size in sizes:
                segment = Segment(*self._allocate(arena, size, relieve))
                self.lifecycle.placed(segment)
                segments.append(segment)
            self._copy(arena, segments, len(leased), reduced, placements)
        except BaseException:
            self.unpin(segments)
            raise
        self.shared_bytes += reduced.nbytes
        if leased:
            lent = [unit.nbytes for unit in reduced.units if unit.leased is not None]
            self.lent += len(lent)
            self.lent_bytes += sum(lent)
        return Parcel(
            protocol.encoded(reduced.stream or None, placements), tuple(segments), sum(s.owned for s in segments)
        )

    def is_placed(self, reduced: Reduced, placed: Reduced, parcel: Parcel) -> bool:
        """Whether `parcel`, in which `placed` was put, has what `reduced` would put there. Reads all the memory."""
        if reduced.stream != placed.stream or len(reduced.units) != len(placed.units):
            return False
        for unit, before, placement in zip(
            reduced.units, placed.units, protocol.placements_of(parcel.body), strict=True
        ):
            place = read_placement(placement)
            room = None
            if isinstance(place, InSegment) and unit.leased is None:
                assert self.arena is not None
                room = _memory(self.arena, parcel.segments, place)
            if not unit.is_as(before, room):
                return False
        return True

    def bring_in(self, parcel: Parcel, relieve: Relieve | None = None) -> Parcel:
        """The same with what is borrowed copied to memory of our own; the parcel's holds pass to what is returned.

        Raises
        ------
        ArenaFullError
            When there is no room. The parcel is then what it was.
        """
        arena = self.arena
        if arena is None or not any(isinstance(segment, Borrowed) for segment in parcel.segments):
            return parcel
        segments: list[Segment] = []
        try:
            for segment in parcel.segments:
                own = segment
                if isinstance(segment, Borrowed):
                    own = Segment(*self._allocate(arena, segment.size, relieve))
                    self.lifecycle.placed(own)
                    np.copyto(arena.room(own.offset, segment.size), segment.memory.fresh())
                else:
                    self.lifecycle.pin(segment)
                segments.append(own)
        except BaseException:
            self.unpin(segments)
            raise
        self.unpin(parcel.segments)
        return Parcel(parcel.body, tuple(segments), sum(s.owned for s in segments))

    def _allocate(self, arena: Arena, size: int, relieve: Relieve | None) -> tuple[int, int]:
        try:
            return arena.allocate(size, self._run)
        except ArenaFullError:
            may_come = relieve() if relieve is not None else None
            if may_come is None:
                raise
        began = time.monotonic()
        while True:
            try:
                return arena.allocate(size, self._run)
            except ArenaFullError:
                waited = time.monotonic() - began
                if waited > (RELIEF_SECONDS if may_come(arena.lacking) else HOPELESS_SECONDS):
                    raise
            time.sleep(_RELIEF_STEP_SECONDS)  # the system does not report that it has memory again

    def _copy(
        self, arena: Arena, segments: list[Segment], first: int, reduced: Reduced, placements: list[Placement]
    ) -> None:
        """Copy the units that lie in the segments from `first` on."""
        shares = self._copiers is not None and reduced.nbytes >= 2 * PIECE
        copies: list[Callable[[], Any]] = []
        for unit, placement in zip(reduced.units, placements, strict=True):
            if unit.leased is None and unit.shared_object is None:
                place = read_placement(placement)
                assert isinstance(place, InSegment)
                assert place.segment >= first
                room = _memory(arena, segments, place)
                self.copies += 1
                if shares:
                    copies += unit.copies_to(room, PIECE)
                else:
                    unit.copy_to(room)
        if copies:
            self._run(copies, reduced.nbytes)

    def _run(self, works: list[Callable[[], Any]], nbytes: int) -> None:
        """Do work on `nbytes` (copy them, or get pages for them): in several threads if that pays."""
        if self._copiers is None or len(works) < 2 or nbytes < 2 * PIECE:
            for work in works:
                work()
        else:
            self._copiers.run(works)

    def close(self) -> None:
        """End the copying threads and close the arena, when nothing more is encoded."""
        if self._copiers is not None:
            self._copiers.close()
        for descendants in self._survived.values():
            descendants.close()
        self._survived.clear()
        # Workers that were killed have not given their leases back. What was lent to them is the user's to keep or to delete.
        for segment in list(self.lifecycle.live):
            if isinstance(segment, Borrowed):
                segment.memory = None
        if self.arena is not None:
            self.arena.close()

    def grant(self, parcel: Parcel, consumer: Hashable) -> Grants:
        """Give `consumer` a lease of each of the parcel's segments.

        Raises
        ------
        ArenaFullError
            When the consumer holds too many leases. It gets none of them then.
        """
        grants: list[protocol.GrantWire] = []
        for segment in parcel.segments:
            slot = self.lifecycle.grant(segment, consumer)
            if slot is None:
                self.revoke(grants, consumer)
                raise ArenaFullError("a process holds too many shared objects at a time; release some of them")
            source = segment.memory.mapping.source if isinstance(segment, Borrowed) else None
            grants.append(protocol.grant(slot, segment.offset, segment.size, source))
        return tuple(grants)

    def revoke(self, grants: Iterable[protocol.GrantWire], consumer: Hashable) -> None:
        """Take back leases of which `consumer` has not learned."""
        self._free(self.lifecycle.released(consumer, [protocol.slot_of(grant) for grant in grants]))

    def unpin(self, segments: Iterable[Segment]) -> None:
        """Release one pin on each of `segments`."""
        self._free(self.lifecycle.unpin(segments))

    def reap(self, consumer: Hashable, flags: Flags) -> bool:
        """End the leases that `consumer` has flagged as released. Return whether there were any."""
        used = self.lifecycle.slots_in_use(consumer)
        if not used:
            return False
        # A copy: the consumer may set flags at any time, and NumPy raises when the count changes while it looks.
        ended = _nonzero(flags[:used].tobytes())
        if not ended:
            return False
        flags[ended] = 0
        self._free(self.lifecycle.released(consumer, ended))
        return True

    def use(self, consumer: Hashable) -> Use:
        """The use of the arena, with the number of this consumer's leases."""
        lifecycle = self.lifecycle
        return Use(len(lifecycle.live), lifecycle.bytes_live, lifecycle.grants_of(consumer), self.resident)

    def consumer_joined(self, consumer: Hashable) -> None:
        """`consumer` can be granted segments from now on."""
        self.lifecycle.consumer_joined(consumer)

    def consumer_lost(self, consumer: Hashable, descendants: Descendants | None = None) -> None:
        """End all leases of `consumer`, whose process has ended: as soon as its `descendants` are gone, if there are any."""
        if descendants is not None and self.lifecycle.grants_of(consumer):
            self._survived[consumer] = descendants
        else:
            self._free(self.lifecycle.consumer_lost(consumer))

    def reap_lost(self) -> None:
        """End the leases of lost consumers whose descendants are gone by now."""
        if self._survived:
            for consumer, descendants in list(self._survived.items()):
                if descendants.are_gone():
                    del self._survived[consumer]
                    self._free(self.lifecycle.consumer_lost(consumer))

    def _free(self, segments: list[Segment]) -> None:
        for segment in segments:
            if isinstance(segment, Borrowed):
                segment.memory = None  # this may end our own lease of it
            elif self.arena is not None:
                self.arena.free(segment.offset, segment.size)


def _nonzero(flags: bytes) -> list[int]:
    """Indexes of the bytes that are not 0."""
    if not flags.count(1):
        return []  # by far the most frequent case, and much quicker so
    ended: list[int] = np.flatnonzero(np.frombuffer(flags, dtype=np.uint8)).tolist()
    return ended


def _memory(arena: Arena, segments: Sequence[Segment], place: InSegment) -> ByteArray:
    """The owner's view of a unit's bytes."""
    return arena.room(segments[place.segment].offset + place.offset, place.nbytes)
