"""What a worker does with a message of groups."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from arrowpool.frames.cuts import Ints
from arrowpool.frames.stack import Stack, stacked


class Run(NamedTuple):
    """Groups that travel together.

    Attributes
    ----------
    rows : DataFrame or Series
        The rows of all of them: one slice, so a group costs nothing in transport.
    bounds : array of int, shape (groups + 1,)
        First row of each group in `rows`, and the number of rows.
    keys : sequence
        The key of each group.
    first : int
        Index of the first group among all groups.
    """

    rows: Any
    bounds: Ints
    keys: Sequence[Any]
    first: int


class Answer(NamedTuple):
    """The results of a run's groups.

    Attributes
    ----------
    values : list or Stack
        The result of each group.
    like_groups : bool
        Whether each result has the index of its group; pandas joins such results in the order of the frame's rows.
    """

    values: list[Any] | Stack
    like_groups: bool


def _raised(error: BaseException) -> Any:
    raise error


#: `StopIteration` would end a chunk, or a loop over results, without a word: so it becomes an error, as in a generator (PEP 479).
_STOPPED = "the function raised StopIteration"


@dataclass(frozen=True, slots=True)
class ApplyToPart:
    """Calls a function with a part of a frame."""

    func: Callable[[Any], Any]

    def __call__(self, part: Any) -> Any:
        try:
            return self.func(part)
        except StopIteration as error:
            raise RuntimeError(_STOPPED) from error


@dataclass(frozen=True, slots=True)
class ApplyToRun:
    """Calls a function with each group of a run, as `groupby.apply` does: the attribute `name` of a group is its key.

    Attributes
    ----------
    func : callable
        The function.
    goes_on : bool
        Whether to go on after an exception, with what stands for it in the place of the result.
    stacks : bool
        Whether frames and series travel back as one, if they are alike.
    """

    func: Callable[[Any], Any]
    goes_on: bool = False
    stacks: bool = False

    def __call__(
        self,
        run: Run,
        note: Callable[[int, Any], None] = lambda at, key: None,
        caught: Callable[[BaseException], Any] = _raised,
    ) -> Answer:
        """The results of the groups.

        `note` is called with the position and the key of each group that begins. `caught` says what stands for an exception.
        """
        function, rows = self.func, run.rows
        values: list[Any] = []
        like_groups = the_same = True
        whole = rows.index
        part = _parts_of(rows)
        bounds = itertools.pairwise(run.bounds.tolist())
        for key, (start, end) in zip(run.keys, bounds, strict=True):
            group = part(slice(start, end))
            object.__setattr__(group, "name", key)
            axes = group.axes
            note(len(values), key)
            try:
                value = function(group)
            except BaseException as error:
                if not self.goes_on:
                    if isinstance(error, StopIteration):
                        raise RuntimeError(_STOPPED) from error
                    raise
                value = caught(error)
            like_groups = like_groups and _is_indexed_like(value, axes)
            the_same = the_same and _has_index(value, axes[0], whole)
            values.append(value)
        stack = stacked(values, the_same) if self.stacks else None
        return Answer(values if stack is None else stack, like_groups)


def _parts_of(rows: Any) -> Callable[[slice], Any]:
    """What cuts a group out of the rows. A frame is cut as in `groupby.apply`, in half the time of `iloc`."""
    pandas = sys.modules["pandas"]
    if type(rows) is pandas.DataFrame and not rows._attrs and rows.flags.allows_duplicate_labels:
        manager, make = rows._mgr, rows._constructor_from_mgr

        def part(cut: slice) -> Any:
            found = manager.get_slice(cut, axis=1)
            return make(found, axes=found.axes)

        return part

    def part_of_others(cut: slice) -> Any:
        found = rows.iloc[cut]
        if hasattr(found, "_is_copy"):  # pandas 2 would warn of writes to a slice; not in `groupby.apply`
            object.__setattr__(found, "_is_copy", None)
        return found

    return part_of_others


def _has_index(value: Any, index: Any, whole: Any) -> bool:
    """Whether a result has this index, which is a part of `whole`, with the names and the frequency that `whole` has."""
    pandas = sys.modules["pandas"]
    if not isinstance(value, (pandas.DataFrame, pandas.Series)) or not value.index.is_(index):
        return False
    own = value.index
    return bool(own.names == whole.names and getattr(own, "freq", None) == getattr(whole, "freq", None))


def _is_indexed_like(value: Any, axes: Sequence[Any]) -> bool:
    """Whether a result has the index of its group, as pandas defines it: a Series for a frame is not."""
    pandas = sys.modules["pandas"]
    if isinstance(value, pandas.Series):
        return len(axes) == 1 and bool(value.index.equals(axes[0]))
    return isinstance(value, pandas.DataFrame) and bool(value.index.equals(axes[0]))
