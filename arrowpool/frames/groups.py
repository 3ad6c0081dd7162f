"""A pandas GroupBy cut into messages, each with many groups as one slice of the sorted frame; and its results joined.

Uses the parts of pandas' GroupBy that `groupby.apply` is made of: the grouper's order and keys, and the joining of results. So order,
keys, empty groups, missing keys and the index of the answer are those of `groupby.apply`.
"""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from arrowpool.errors import said
from arrowpool.frames.cuts import Cut, even_runs
from arrowpool.frames.keys import bounds_of
from arrowpool.frames.libraries import is_of, kind_of
from arrowpool.frames.stack import Stack, are_alike
from arrowpool.frames.work import Answer, Run

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
        self.keys: Sequence[Any] = _in_one_type(keys)
        self._has_tuples = _iterates_tuples(grouped)
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
        return Run(self._rows.iloc[bounds[0] : bounds[-1]], bounds - bounds[0], self.keys[first:end], first)

    def as_iterated(self, keys: Iterable[Any]) -> Iterable[Any]:
        """These keys as iteration over the GroupBy gives them."""
        return ((key,) for key in keys) if self._has_tuples else keys

    def joined(self, answers: Sequence[Answer]) -> Any:
        """One object of the results of all groups, as `groupby.apply` returns it."""
        like_groups = all(answer.like_groups for answer in answers)
        stacks = [answer.values for answer in answers if isinstance(answer.values, Stack)]
        if self._data.ndim == 2 and len(stacks) == len(answers) > 0:
            found = self._joined_frames(stacks, like_groups)
            if found is not None:
                return found
        values: list[Any] = []
        for answer in answers:
            more = answer.values
            values += more.pieces(self._indexes(len(values), len(more.lengths))) if isinstance(more, Stack) else more
        return self._grouped._wrap_applied_output(self._data, values, not like_groups, False)

    def _joined_frames(self, stacks: Sequence[Stack], like_groups: bool) -> Any:
        """The results if all are frames with the same columns and dtypes; None otherwise.

        pandas joins series of positions, which have the results' indexes. That gives the index and the order of the rows, at a
        fraction of the cost: pandas compares the columns of each frame with those of all others.
        """
        pandas = sys.modules["pandas"]
        if not are_alike([stack.rows for stack in stacks], pandas.DataFrame):
            return None
        rows = pandas.concat([stack.rows for stack in stacks], ignore_index=True) if len(stacks) > 1 else stacks[0].rows
        positions = np.arange(len(rows), dtype=np.intp)
        template = pandas.Series(positions)
        places: list[Any] = []
        first = at = 0
        for stack in stacks:
            for cut, index in stack.placed(self._indexes(first, len(stack.lengths))):
                if cut is None:
                    places.append(None)
                    continue
                there = template._mgr.from_array(positions[at + cut.start : at + cut.stop], index)
                places.append(template._constructor_from_mgr(there, axes=there.axes))
            first, at = first + len(stack.lengths), at + len(stack.rows)
        joined = self._grouped._concat_objects(places, not like_groups)
        order = joined.to_numpy()
        if order.dtype != positions.dtype:  # pandas has put in rows
            return None
        if not np.array_equal(order, positions):
            rows = rows.take(order, axis=0)
        rows.index = joined.index
        return rows.__finalize__(joined)

    def _indexes(self, first: int, count: int) -> list[Any]:
        """The index of each group of a run."""
        index = self._rows.index
        return [index[start:end] for start, end in itertools.pairwise(self._bounds[first : first + count + 1].tolist())]


class GroupNames:
    """How messages name the groups of runs: each run is one task, and one item of it."""

    def __init__(self, runs: Sequence[Run]):
        self._keys = [run.keys for run in runs]
        self._bounds = [run.bounds for run in runs]
        self._firsts = [run.first for run in runs]

    def numbers(self, task: int, count: int) -> range:
        """The indexes of the groups of a run."""
        first = self._firsts[task]
        return range(first, first + len(self._keys[task]))

    def text(self, numbers: range) -> str:
        """Groups of one run in words."""
        task = bisect.bisect(self._firsts, numbers[0]) - 1
        keys, first = self._keys[task], self._firsts[task]
        # Iterating over keys gives Python's own types.
        one, last = (said(*keys[at - first : at - first + 1]) for at in (numbers[0], numbers[-1]))
        return f"the group {one}" if len(numbers) == 1 else f"the groups {one} to {last}"

    def note(self, numbers: range) -> str:
        """As `text`, for a note; with the number of rows."""
        task = bisect.bisect(self._firsts, numbers[0]) - 1
        bounds, first = self._bounds[task], self._firsts[task]
        rows = bounds[numbers[-1] - first + 1] - bounds[numbers[0] - first]
        return f"in {self.text(numbers)} ({rows:,} row{'' if rows == 1 else 's'})"


def _in_one_type(keys: Any) -> Any:
    """Keys that any slice of gives as all of them are given: integers of several keys are floats if one is missing anywhere."""
    if is_of(keys, "pandas", "MultiIndex") and any((codes < 0).any() for codes in keys.codes):
        return keys.to_numpy()
    return keys


#: The options of `DataFrame.groupby`, of all versions of pandas.
_OPTIONS = frozenset({"axis", "level", "as_index", "sort", "group_keys", "observed", "dropna"})


def _iterates_tuples(grouped: Any) -> bool:
    """Whether iteration gives tuples of one key, as with ``by=["ticker"]``; a list of one level is that from pandas 3 on."""
    by, level = grouped.keys, grouped.level
    return (isinstance(by, list) and len(by) == 1) or (
        sys.modules["pandas"].__version__ >= "3" and isinstance(level, (list, tuple)) and len(level) == 1
    )


def _grouped(frame: Any, by: Any, options: Mapping[str, Any]) -> Any:
    if is_of(frame, "pandas", "DataFrame", "Series"):
        if by is None and options.get("level") is None:
            raise TypeError("by= is missing: a column, a list of columns, or the keys; see DataFrame.groupby")
        unknown = options.keys() - _OPTIONS
        if unknown:
            name = min(unknown)
            raise TypeError(
                f"{name}= is no option of DataFrame.groupby; an argument of the function itself is bound to it: "
                f"functools.partial(f, {name}=...)"
            )
        return frame.groupby(by, **options)
    if is_of(frame, "pandas.api.typing", "DataFrameGroupBy", "SeriesGroupBy"):  # not a Resampler, nor windows of groups
        if by is not None or options:
            raise TypeError("a GroupBy has its keys and options: give by= and options with a frame only")
        return frame
    kind = type(frame).__name__
    if kind_of(frame) in ("polars", "arrow"):
        library = type(frame).__module__.partition(".")[0]
        raise TypeError(
            f"groups are mapped of a pandas frame or GroupBy, not of a {kind} of {library}. For one part for each group: "
            f"pool.map(f, arrowpool.split(frame, by=...))."
        )
    raise TypeError(f"groups are mapped of a pandas frame or GroupBy, not of a {kind}")
