"""Memory that the items of one call show again and again: overlapping windows of a frame, slices of a table.

Decides, from where each array lies, which stretches of memory are cheaper to copy once than window by window; finds the
stretch that an array lies in. Pure: addresses in, answers out. Used by the encoder.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

from arrowpool.codecs.outbox import Extent
from arrowpool.tuning import ALIGNMENT, LEAST_WINDOW

#: What is visible in all windows together must be so many times what lies behind them: to send a window of shared memory is
#: cheap, but not quite as cheap as to send memory of its own, which the next task finds warm.
_WORTH = 1.5


class Stretch:
    """Contiguous memory, ``[start, stop)`` by address, behind two or more windows; keeps it alive.

    Attributes
    ----------
    blob : object or None
        What was made of it, for the encoder to keep; None so far.
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
    """The stretches worth to be copied as a whole, by address."""
    found: list[Stretch] = []
    start = stop = visible = 0
    owners: list[Any] = []

    def end() -> None:
        if len(owners) > 1 and stop - start >= LEAST_WINDOW and visible > _WORTH * (stop - start):
            # So that every element keeps its alignment. The bytes before it lie on the same page.
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
