"""The interface by which the reducer asks whether the receiver already has an object, so that a number can replace it.

Given to `Reducer.reduce` with each object. Its counterpart is :class:`arrowpool.codecs.outbox.Outbox`, the interface that codecs use
to ask the reducer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Sharing(Protocol):
    """Objects that were placed before this message, or are placed when the reducer asks."""

    @property
    def pinned(self) -> Mapping[int, int]:
        """Numbers of the objects that users have shared, of any type and size, by the objects' ids."""

    @property
    def may_repeat(self) -> bool:
        """Whether `number_of` can return anything but None."""

    def number_of(self, obj: Any) -> int | None:
        """The number of an object that is shared as a whole; None if it is not shared. For objects of libraries with a codec."""

    @property
    def has_windows(self) -> bool:
        """Whether `window_of` can return anything but None."""

    def window_of(self, address: int, nbytes: int) -> tuple[int, int] | None:
        """The number of the shared memory that contains this memory, and the offset in it; None if there is none."""


class PinnedOnly:
    """Only the objects that users have shared."""

    may_repeat = False
    has_windows = False

    def __init__(self, pinned: Mapping[int, int]):
        self.pinned = pinned

    def number_of(self, obj: Any) -> int | None:
        return None

    def window_of(self, address: int, nbytes: int) -> tuple[int, int] | None:
        return None


NOTHING: Sharing = PinnedOnly({})
