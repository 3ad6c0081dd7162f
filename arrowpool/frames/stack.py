"""The results of many groups as one frame or series, which travels in place of one for each group.

`stacked` runs in the workers, `pieces` and `all_rows` in the parent. Guarantee: what pandas makes of the pieces is what it makes of the
results themselves. So only results with the same columns and dtypes are stacked, and their indexes are kept exactly.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from arrowpool.frames.cuts import Ints


class Stack(NamedTuple):
    """Frames or series, one below the other.

    Attributes
    ----------
    rows : DataFrame or Series
        The rows of all results, with the default index.
    lengths : array of int
        The number of rows of each result; -1 for a result that is None.
    index : Index, list or None
        The index of all rows; or a list with one index for each result; or None if each result has the index of its group.
    names : list or None
        The name of each series, if there are several.
    """

    rows: Any
    lengths: Ints
    index: Any
    names: list[Any] | None

    def pieces(self, of_groups: Sequence[Any]) -> list[Any]:
        """The results. `of_groups` has the index of each group."""
        found: list[Any] = []
        for (cut, index), name in zip(self.placed(of_groups), self.names or itertools.repeat(None), strict=False):
            if cut is None:
                found.append(None)
                continue
            piece = self.rows.iloc[cut]
            piece.index = index
            if self.names is not None:
                piece.name = name
            found.append(piece)
        return found

    def placed(self, of_groups: Sequence[Any]) -> Iterator[tuple[slice | None, Any]]:
        """The place of each result in `rows`, and its index. The place is None for a result that is None."""
        end = 0
        for number, length in enumerate(self.lengths.tolist()):
            if length < 0:
                yield None, None
                continue
            start, end = end, end + length
            if self.index is None:
                index = of_groups[number]
            else:
                index = self.index[number] if isinstance(self.index, list) else self.index[start:end]
            yield slice(start, end), index


def stacked(values: list[Any], like_its_group: bool) -> Stack | None:
    """The results as a stack; None if they are not alike.

    Parameters
    ----------
    values : list
        The results of groups.
    like_its_group : bool
        Whether each result has the very index of its group.
    """
    found = [value for value in values if value is not None]
    if not found or not are_alike(found, type(found[0])):
        return None
    try:
        rows = sys.modules["pandas"].concat(found, ignore_index=True)
        index = None if like_its_group else _index_of([value.index for value in found])
    except Exception:  # of a foreign array; pandas raises it again in the parent, where `groupby.apply` raises it
        return None
    names = None
    if rows.ndim == 1:
        names = [getattr(value, "name", None) for value in values]
        names = None if all(name is rows.name for name in names) else names
    lengths = np.array([-1 if value is None else len(value) for value in values], dtype=np.intp)
    if isinstance(index, list) and len(found) < len(values):
        indexes = iter(index)
        index = [None if value is None else next(indexes) for value in values]
    return Stack(rows, lengths, index, names)


def are_alike(found: Sequence[Any], kind: type) -> bool:
    """Whether all are frames with the same columns and dtypes, or all are series of the same dtype."""
    pandas = sys.modules["pandas"]
    first = found[0]
    if kind is pandas.Series:
        return all(type(one) is kind and one.dtype == first.dtype and _is_plain(one) for one in found)
    if kind is not pandas.DataFrame or type(first) is not kind or not len(first.columns):
        return False
    columns, dtypes = first.columns, list(first._mgr.get_dtypes())
    return all(
        type(one) is kind
        and type(one.columns) is type(columns)
        and one.columns.identical(columns)
        and list(one._mgr.get_dtypes()) == dtypes
        and _is_plain(one)
        for one in found
    )


def _is_plain(one: Any) -> bool:
    return not one._attrs and one.flags.allows_duplicate_labels


def _index_of(indexes: list[Any]) -> Any:
    """One index for all rows, if its slices are the indexes exactly; else the indexes, equal ones as one object."""
    pandas = sys.modules["pandas"]
    first = indexes[0]
    kinds = {type(index) for index in indexes}
    if kinds == {pandas.RangeIndex}:
        known: dict[Any, Any] = {}
        return [known.setdefault((i.start, i.stop, i.step, type(i.name), i.name), i) for i in indexes]
    if kinds == {pandas.Index}:
        if all(_are_the_same(index, first) for index in indexes):
            return [first] * len(indexes)
        if all(index.dtype == first.dtype and _is_same(index.name, first.name) for index in indexes):
            together = first.append(indexes[1:])
            # pandas may make numbers of objects.
            if type(together) is pandas.Index and together.dtype == first.dtype:
                return together
    return indexes


def _are_the_same(index: Any, other: Any) -> bool:
    """Whether two indexes cannot be told apart. Among objects 1, 1.0 and True are equal, so only text counts there."""
    return index is other or (
        bool(index.identical(other))
        and _is_same(index.name, other.name)
        and (index.dtype != object or index.inferred_type == other.inferred_type == "string")
    )


def _is_same(name: Any, other: Any) -> bool:
    return name is other or (type(name) is type(other) and bool(name == other))
