"""An object taken apart, and an object in its place in shared memory."""

from __future__ import annotations

from typing import NamedTuple

from arrowpool.memory.lifecycle import Segment
from arrowpool.transport.protocol import Body, piped_bytes
from arrowpool.transport.unit import Unit


class Reduced(NamedTuple):
    """An object taken apart, its large memory not yet copied."""

    stream: bytes
    units: list[Unit]

    @property
    def nbytes(self) -> int:
        """Bytes that will need room in segments."""
        return sum(unit.nbytes for unit in self.units if unit.leased is None)

    @property
    def placed_stream_bytes(self) -> int:
        """Bytes of the stream, where it is so long that it was made the first unit; else 0."""
        return self.units[0].nbytes if self.units and not self.stream else 0


class Parcel(NamedTuple):
    """An encoded object in its place; holds one pin on each of its segments until `Sender.unpin`."""

    body: Body
    segments: tuple[Segment, ...]
    nbytes: int

    @property
    def piped_bytes(self) -> int:
        """Bytes of it that go through the pipe."""
        return piped_bytes(self.body)
