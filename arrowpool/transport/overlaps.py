"""Memory that overlaps: windows of a frame, slices of a table.

- `stretches`: the stretches of memory that are cheaper to copy once than window by window.
- `find`: the stretch in which an array lies.
- `layers`: private copies for spans that overlap, where tasks may write to each.

Pure functions of addresses. Used by `engine.shared`, and by the sender.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from arrowpool.codecs.outbox import Extent
from arrowpool.tuning import ALIGNMENT, LEAST_WINDOW

#: All windows together must be this many times as large as the memory behind them. Sending a window of shared memory is cheap, but
#: not as cheap as sending a segment, which the next task finds warm.
_WORTH = 1.5


class Stretch:
    """Contiguous memory behind two or more windows, at addresses ``[start, stop)``. Keeps the memory alive.

    Attributes
    ----------
    blob : object or None
        The blob of this memory. Set by the user of the stretch.
    """

    __slots__ = ("_owners", "blob", "start", "stop")

    def __init__(self, start: int, stop: int, owners: Sequence[Any]):
        self.start = start
        self.stop = stop
        self._owners = owners
        self.blob: Any = None

    def __repr__(self) -> str:
        return f"<Stretch of {self.stop - self.start:,} bytes>"


def stretches(extents: Iterable[Extent]) -> list[Stretch]:
    """The stretches that are worth copying as a whole, by address."""
    found: list[Stretch] = []
    start = stop = visible = 0
    owners: list[Any] = []

    def end() -> None:
        if len(owners) > 1 and stop - start >= LEAST_WINDOW and visible > _WORTH * (stop - start):
            # From an aligned address, so that every element keeps its alignment. The bytes before `start` lie on its page.
            found.append(Stretch(start - start % ALIGNMENT, stop, owners))

    for extent in sorted(extents, key=_by_start):
        if extent.start >= stop:
            end()
            start, stop, visible, owners = extent.start, extent.stop, 0, []
        stop = max(stop, extent.stop)
        visible += extent.visible
        owners.append(extent.owner)
    end()
    return found


def _by_start(extent: Extent) -> int:
    return extent.start


def find(among: list[Stretch], address: int, nbytes: int) -> Stretch | None:
    """The stretch in which all of ``[address, address + nbytes)`` lies."""
    at = bisect.bisect_right(among, address, key=_start) - 1
    if at >= 0 and address + nbytes <= among[at].stop:
        return among[at]
    return None


def _start(stretch: Stretch) -> int:
    return stretch.start


def layers(spans: Sequence[tuple[Hashable, int, int]]) -> list[int]:
    """Assign layers to spans of memory, so that spans that overlap have different layers.

    Each layer is one private copy of the memory. So data that is written through one span does not appear in another.

    Parameters
    ----------
    spans : sequence of (memory, start, stop)
        An identifier of the memory, and the offsets ``[start, stop)`` in it.

    Returns
    -------
    list of int
        The layer of each span, counted from 0. Each memory has as few layers as possible.
    """
    found = [0] * len(spans)
    if len(spans) < 2:
        return found
    #: By memory, a heap with the end of the last span of each layer, and the layer.
    ends: dict[Hashable, list[tuple[int, int]]] = {}
    for index in sorted(range(len(spans)), key=lambda index: spans[index][1]):
        memory, start, stop = spans[index]
        used = ends.setdefault(memory, [])
        if used and used[0][0] <= start:
            found[index] = used[0][1]
            heapq.heapreplace(used, (stop, found[index]))
        else:
            found[index] = len(used)
            heapq.heappush(used, (stop, found[index]))
    return found
