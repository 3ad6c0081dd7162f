"""Where to cut a sequence into parts: pure functions of numbers."""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.intp]
#: First position of a part, and the first one after it.
Cut: TypeAlias = tuple[int, int]


def even_parts(length: int, parts: int) -> list[Cut]:
    """At most `parts` parts that differ by at most one; none is empty, except the only part of an empty sequence."""
    parts = max(1, min(parts, length))
    size, larger = divmod(length, parts)
    ends = [size * part + min(part, larger) for part in range(parts + 1)]
    return list(itertools.pairwise(ends))


def parts_of_size(length: int, size: int) -> list[Cut]:
    """Parts of `size`, except a last one that may be smaller; one empty part for an empty sequence."""
    return [(start, min(start + size, length)) for start in range(0, max(length, 1), size)]


def even_runs(bounds: npt.NDArray[Any], parts: int) -> list[Cut]:
    """Cut whole groups into at most `parts` runs of about the same weight.

    Parameters
    ----------
    bounds : array, shape (groups + 1,)
        Sums of the weights of the groups before each group, ascending, beginning with 0.
    parts : int
        Number of runs.

    Returns
    -------
    list of tuple
        The first group of each run and the first one after it. No run is empty. The cuts are those nearest to equal weights.
    """
    groups = len(bounds) - 1
    if groups <= 0:
        return []
    targets = bounds[-1] * np.arange(1, parts) / parts
    after = np.clip(np.searchsorted(bounds, targets), 1, groups)
    nearest = np.where(targets - bounds[after - 1] <= bounds[after] - targets, after - 1, after)
    ends = np.unique(np.concatenate(([0], nearest, [groups]))).tolist()
    return list(itertools.pairwise(ends))


def runs_of_size(bounds: Ints, size: int) -> list[Cut]:
    """Cut whole groups into runs of at most `size` rows. A larger group is a run of its own.

    Parameters
    ----------
    bounds : array of int, shape (groups + 1,)
        First row of each group, and the number of rows.
    size : int
        Number of rows.
    """
    groups, first, runs = len(bounds) - 1, 0, []
    while first < groups:
        fits = int(np.searchsorted(bounds, bounds[first] + size, side="right")) - 1
        end = min(max(fits, first + 1), groups)
        runs.append((first, end))
        first = end
    return runs
