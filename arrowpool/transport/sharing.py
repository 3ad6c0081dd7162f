"""What the reducer may ask about an object: whether the receiver has it already, so that a number can stand for it.

Given to `Reducer.reduce` with each object. The counterpart of :class:`arrowpool.codecs.outbox.Outbox`, which is what a codec
may ask of the reducer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Sharing(Protocol):
    """What was placed before this message, or is placed when the reducer asks for it."""

    @property
    def pinned(self) -> Mapping[int, int]:
        """Numbers of the objects that users have shared, of any type and size, by the objects' ids."""

    @property
    def may_repeat(self) -> bool:
        """Whether `number_of` can return anything but None."""

    def number_of(self, obj: Any) -> int | None:
        """The number of an object of a library known to the codecs that is shared as a whole; None if it is not shared."""

    def window_of(self, address: int, nbytes: int) -> tuple[int, int] | None:
        """The number of the shared memory in which this memory lies, and where in it; None if it lies in none."""


class PinnedOnly:
    """Only what users have shared."""

    may_repeat = False

    def __init__(self, pinned: Mapping[int, int]):
        self.pinned = pinned

    def number_of(self, obj: Any) -> int | None:
        return None

    def window_of(self, address: int, nbytes: int) -> tuple[int, int] | None:
        return None


NOTHING: Sharing = PinnedOnly({})
