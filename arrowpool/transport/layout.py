"""Where the units of a message lie: which segments it needs, and the place of each unit in these.

Called by the sender before it allocates. Pure: decides sizes and offsets, touches no memory.
"""

from __future__ import annotations

from arrowpool.memory.mapping import LeasedMemory
from arrowpool.transport.overlaps import layers
from arrowpool.transport.placements import Placement, in_segment, shared_object, shared_window
from arrowpool.transport.unit import Unit
from arrowpool.tuning import ALIGNMENT, OWN_SEGMENT, SHARED_SEGMENT


class Segments:
    """The new segments of a message, as sizes.

    A large unit gets a segment of its own, so that keeping it alive keeps nothing else; small ones share.

    Parameters
    ----------
    first : int
        Index of the first new segment: how many are lent.
    """

    def __init__(self, first: int):
        self._first = first
        #: Index in `sizes` of the segment that small units share now; -1 before there is one.
        self._shared = -1
        self.sizes: list[int] = []

    def place(self, size: int) -> Placement:
        """Where the next unit of so many bytes lies."""
        sizes = self.sizes
        if size >= OWN_SEGMENT:
            sizes.append(size)
            return in_segment(self._first + len(sizes) - 1, 0, size)
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        if self._shared < 0 or sizes[self._shared] + padded > SHARED_SEGMENT:
            self._shared = len(sizes)
            sizes.append(0)
        at = sizes[self._shared]
        sizes[self._shared] = at + padded
        return in_segment(self._first + self._shared, at, size)


def lay_out(units: list[Unit]) -> tuple[list[LeasedMemory], list[int], list[Placement]]:
    """The leases to lend, the sizes of the segments to allocate, and where each unit lies in these, leases first.

    A lease is lent several times where units overlap in it, and a shared object is copied several times where windows do: what is
    written to one unit must not show in another.
    """
    segments = Segments(0)
    for unit in units:
        if unit.leased is not None or unit.shared_object is not None:
            return _with_references(units)
    return [], segments.sizes, [segments.place(unit.nbytes) for unit in units]


def _with_references(units: list[Unit]) -> tuple[list[LeasedMemory], list[int], list[Placement]]:
    lent = [(unit, unit.leased) for unit in units if unit.leased is not None]
    lent_layers = iter(layers([(id(memory), unit.offset, unit.offset + unit.nbytes) for unit, memory in lent]))
    windows = [(unit.shared_object, unit.window) for unit in units if unit.window is not None and unit.window.writable]
    copies = iter(layers([(number, window.offset, window.offset + window.nbytes) for number, window in windows]))
    #: The leases in use, by lease and layer, with their indexes.
    indexes: dict[tuple[int, int], int] = {}
    leased: list[LeasedMemory] = []
    index_of: dict[int, int] = {}
    for unit, memory in lent:
        key = id(memory), next(lent_layers)
        if key not in indexes:
            indexes[key] = len(leased)
            leased.append(memory)
        index_of[id(unit)] = indexes[key]
    segments = Segments(len(leased))
    placements: list[Placement] = []
    for unit in units:
        window = unit.window
        if unit.leased is not None:
            placements.append(in_segment(index_of[id(unit)], unit.offset, unit.nbytes))
        elif unit.shared_object is None:
            placements.append(segments.place(unit.nbytes))
        elif window is None:
            placements.append(shared_object(unit.shared_object))
        else:
            # Copy 0 is for all windows that are only read.
            copy = next(copies) + 1 if window.writable else 0
            placements.append(shared_window(unit.shared_object, window.offset, window.nbytes, copy))
    return leased, segments.sizes, placements
