"""How messages name the items of a call: "item 617 of 1,000"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Names(Protocol):
    """Names of the items that the tasks of a call have."""

    def numbers(self, task: int, count: int) -> range:
        """The indexes, in the call, of the items of a task: its own index in the call, and the number of its items."""

    def text(self, numbers: range) -> str:
        """Items of one task in words."""

    def note(self, numbers: range) -> str:
        """As `text`, for the note of an error."""


@dataclass(frozen=True, slots=True)
class ItemNames:
    """Items that are counted from 0, as in a list.

    Attributes
    ----------
    size : int
        Number of items in a task. The last task may have fewer.
    count : int or None
        Number of all items, if it is known.
    first : int
        Index of the first item.
    noun : str
        What an item is called.
    """

    size: int = 1
    count: int | None = None
    first: int = 0
    noun: str = "item"

    def numbers(self, task: int, count: int) -> range:
        start = self.first + task * self.size
        return range(start, start + count)

    def text(self, numbers: range) -> str:
        of = "" if self.count is None else f" of {self.count:,}"
        if len(numbers) == 1:
            return f"{self.noun} {numbers[0]:,}{of}"
        return f"{self.noun}s {numbers[0]:,} to {numbers[-1]:,}{of}"

    def note(self, numbers: range) -> str:
        return self.text(numbers)
