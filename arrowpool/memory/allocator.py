"""The free bytes of an arena, and the free bytes that have pages. Pure: this file does not touch the memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class IntervalSet:
    """A set of integers kept as disjoint, non-adjacent half-open intervals in ascending order."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)})"

    def total(self) -> int:
        """Number of integers in the set."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add ``[start, end)``; join it with intervals that it touches."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> list[tuple[int, int]]:
        """Remove ``[start, end)``; return the parts of it that were in the set."""
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return []
        removed = [
            (max(start, s), min(end, e)) for s, e in zip(self._starts[first:last], self._ends[first:last], strict=True)
        ]
        keep = [(s, e) for s, e in ((self._starts[first], start), (end, self._ends[last - 1])) if s < e]
        self._starts[first:last] = [s for s, _ in keep]
        self._ends[first:last] = [e for _, e in keep]
        return removed

    def first_fit(self, size: int) -> int | None:
        """The lowest start of an interval of at least `size`; None without such an interval."""
        for start, end in zip(self._starts, self._ends, strict=True):
            if end - start >= size:
                return start
        return None


class Allocator:
    """Hands out ranges of ``[0, capacity)``, lowest first, so that the same few pages stay warm.

    Guarantees: ranges that are in use do not overlap. A page is *warm* from its first use until it is given back to the kernel, and
    *cold* otherwise. The owner can so get cold pages in one system call, and give idle ones back.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.used = 0
        self._free = IntervalSet()
        self._free.add(0, capacity)
        self._cold = IntervalSet()
        self._cold.add(0, capacity)

    def __repr__(self) -> str:
        return f"<Allocator {self.used} of {self.capacity} bytes used, {self.resident()} with pages>"

    def allocate(self, size: int) -> tuple[int, list[tuple[int, int]]] | None:
        """A range of `size` bytes: its start, and the cold parts of it; None when no free range is long enough."""
        start = self._free.first_fit(size)
        if start is None:
            return None
        self._free.remove(start, start + size)
        self.used += size
        return start, self._cold.remove(start, start + size)

    def free(self, start: int, size: int) -> None:
        """Take a range back."""
        self._free.add(start, start + size)
        self.used -= size

    def mark_cold(self, stretches: list[tuple[int, int]]) -> None:
        """Correct `allocate`: these ranges got no pages."""
        for start, end in stretches:
            self._cold.add(start, end)

    def mark_warm(self, start: int, end: int) -> None:
        """Correct `chill`: these pages could not be given back."""
        self._cold.remove(start, end)

    def chill(self) -> list[tuple[int, int]]:
        """Mark all free ranges cold; return those parts that were warm. The caller gives their pages back."""
        stretches = []
        for start, end in self._free:
            cold = self._cold.remove(start, end)
            at = start
            for cold_start, cold_end in [*cold, (end, end)]:
                if at < cold_start:
                    stretches.append((at, cold_start))
                at = cold_end
            self._cold.add(start, end)
        return stretches

    def resident(self) -> int:
        """Bytes that have pages, in use or free."""
        return self.capacity - self._cold.total()
