"""The two stages of an object on its way: taken apart (`Reduced`), and placed in shared memory (`Parcel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arrowpool.transport.protocol import Body, piped_bytes

if TYPE_CHECKING:  # these two need shared memory, which not every system has
    from arrowpool.memory.lifecycle import Segment
    from arrowpool.transport.unit import Unit


class Reduced(NamedTuple):
    """An object taken apart; its large memory is not copied yet."""

    stream: bytes
    units: list[Unit]

    @property
    def nbytes(self) -> int:
        """Bytes that need space in segments."""
        return sum(unit.nbytes for unit in self.units if unit.leased is None)

    @property
    def placed_stream_bytes(self) -> int:
        """Bytes of the stream if it is so long that it is the first unit; else 0."""
        return self.units[0].nbytes if self.units and not self.stream else 0


class Parcel(NamedTuple):
    """An encoded object in shared memory. Holds one pin on each of its segments until `Sender.unpin`."""

    body: Body
    segments: tuple[Segment, ...]
    nbytes: int

    @property
    def piped_bytes(self) -> int:
        """Bytes of the parcel that go through the pipe."""
        return piped_bytes(self.body)
