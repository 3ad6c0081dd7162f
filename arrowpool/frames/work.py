"""What a worker does with a message of groups."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from arrowpool.errors import add_note
from arrowpool.frames.cuts import Ints


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
    """

    rows: Any
    bounds: Ints
    keys: Sequence[Any]


class Answer(NamedTuple):
    """The results of a run's groups.

    Attributes
    ----------
    values : list
        The result of each group.
    like_groups : bool
        Whether each result has the index of its group; pandas joins such results in the order of the frame's rows.
    """

    values: list[Any]
    like_groups: bool


@dataclass(frozen=True, slots=True)
class ApplyToRun:
    """Calls a function with each group of a run, as `groupby.apply` does: the attribute `name` of a group is its key."""

    function: Callable[[Any], Any]

    def __call__(self, run: Run) -> Answer:
        function, rows = self.function, run.rows
        values: list[Any] = []
        like_groups = True
        bounds = itertools.pairwise(run.bounds.tolist())
        for key, (start, end) in zip(run.keys, bounds, strict=True):
            group = rows.iloc[start:end]
            object.__setattr__(group, "name", key)
            if hasattr(group, "_is_copy"):  # pandas 2 would warn of writes to a slice; not in `groupby.apply`
                object.__setattr__(group, "_is_copy", None)
            axes = group.axes
            try:
                value = function(group)
            except Exception as error:
                add_note(error, f"in the group {key!r} ({end - start:,} rows)")
                raise
            like_groups = like_groups and _is_indexed_like(value, axes)
            values.append(value)
        return Answer(values, like_groups)


def _is_indexed_like(value: Any, axes: Sequence[Any]) -> bool:
    """Whether a result has the index of its group, as pandas defines it: a Series for a frame is not."""
    pandas = sys.modules["pandas"]
    if isinstance(value, pandas.Series):
        return len(axes) == 1 and bool(value.index.equals(axes[0]))
    return isinstance(value, pandas.DataFrame) and bool(value.index.equals(axes[0]))


def values_of(answers: Iterable[Answer]) -> list[Any]:
    """The results of all groups, in the order of the groups."""
    return [value for answer in answers for value in answer.values]
