"""A pandas GroupBy cut into messages, each with many groups as one slice of the sorted frame; and its results joined.

Uses the parts of pandas' GroupBy that `groupby.apply` is made of: the grouper's order and keys, and the joining of results. So order,
keys, empty groups, missing keys and the index of the answer are those of `groupby.apply`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arrowpool.frames.cuts import Cut, even_runs
from arrowpool.frames.keys import bounds_of
from arrowpool.frames.libraries import is_of, kind_of
from arrowpool.frames.work import Answer, Run, values_of

#: The costs of calling a function for a group and of slicing it, in rows: many small groups weigh as much as few large ones.
_ROWS_FOR_A_GROUP = 100


class Groups:
    """The groups of a frame.

    Parameters
    ----------
    frame : DataFrame, Series or GroupBy
        Of pandas.
    by : object
        As for `DataFrame.groupby`; None for a GroupBy.
    options : mapping
        Further arguments of `DataFrame.groupby`; none for a GroupBy.

    Raises
    ------
    TypeError
        For other objects, and for keys that are missing or given twice.

    Attributes
    ----------
    keys : sequence
        The key of each group, in the order of the groups.
    """

    def __init__(self, frame: Any, by: Any, options: Mapping[str, Any]):
        grouped = _grouped(frame, by, options)
        grouper = grouped._grouper
        data = grouped._obj_with_exclusions
        order = grouper.result_ilocs
        if callable(order):  # pandas 2, where that is another thing
            order = grouper._sort_idx
        in_order = len(order) == len(data) and bool((np.diff(order) == 1).all())
        groups = int(grouper.ngroups)
        # pandas 3 names all groups. Before, a frame without a group for a category may have fewer keys than groups.
        keys = grouper.group_keys_seq if hasattr(grouper, "group_keys_seq") else grouper.result_index
        groups = min(groups, len(keys))
        self.keys: Sequence[Any] = keys
        self._grouped = grouped
        self._data = data
        self._rows = data if in_order else data.take(order, axis=0)
        self._bounds = bounds_of(grouper._sorted_ids, groups)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def runs(self, parts: int, size: int | None) -> list[Run]:
        """The groups in messages: `size` groups in each, or at most `parts` messages of about the same work."""
        if size is not None:
            cuts = [(first, min(first + size, len(self))) for first in range(0, len(self), size)]
        else:
            rows = self._bounds - self._bounds[0]
            cuts = even_runs(rows + _ROWS_FOR_A_GROUP * np.arange(len(rows)), parts)
        return [self._run(cut) for cut in cuts]

    def _run(self, cut: Cut) -> Run:
        first, end = cut
        bounds = self._bounds[first : end + 1]
        return Run(self._rows.iloc[bounds[0] : bounds[-1]], bounds - bounds[0], self.keys[first:end])

    def joined(self, answers: Sequence[Answer]) -> Any:
        """One object of the results of all groups, as `groupby.apply` returns it."""
        like_groups = all(answer.like_groups for answer in answers)
        return self._grouped._wrap_applied_output(self._data, values_of(answers), not like_groups, False)


def _grouped(frame: Any, by: Any, options: Mapping[str, Any]) -> Any:
    if is_of(frame, "pandas", "DataFrame", "Series"):
        if by is None and options.get("level") is None:
            raise TypeError("by= is missing: a column, a list of columns, or the keys; see DataFrame.groupby")
        return frame.groupby(by, **options)
    if is_of(frame, "pandas.api.typing", "DataFrameGroupBy", "SeriesGroupBy"):  # not a Resampler, nor windows of groups
        if by is not None or options:
            raise TypeError("a GroupBy has its keys and options: give by= and options with a frame only")
        return frame
    kind = type(frame).__name__
    if kind_of(frame) in ("polars", "arrow"):
        raise TypeError(
            f"groups are mapped of a pandas frame or GroupBy, not of a {kind}. For one part for each group: "
            f"pool.map(f, arrowpool.split(frame, by=...))."
        )
    raise TypeError(f"groups are mapped of a pandas frame or GroupBy, not of a {kind}")
