"""One object of the results of a frame's parts."""

from __future__ import annotations

import sys
from typing import Any

from arrowpool.frames.libraries import is_of


def joined(results: list[Any]) -> Any:
    """Put the results of a frame's parts one below the other.

    Parameters
    ----------
    results : list
        At least one frame, series, table or array: all of one library.

    Raises
    ------
    TypeError
        For results of several libraries, or of none.
    """
    modules = sys.modules
    if _all_are(results, "pandas", "DataFrame", "Series"):
        return results[0] if len(results) == 1 else _joined_pandas(results, modules["pandas"])
    if _all_are(results, "polars", "DataFrame") or _all_are(results, "polars", "Series"):
        return modules["polars"].concat(results)
    if _all_are(results, "pyarrow", "Table"):
        return modules["pyarrow"].concat_tables(results)
    if _all_are(results, "pyarrow", "RecordBatch"):
        return modules["pyarrow"].Table.from_batches(results)
    if _all_are(results, "pyarrow", "Array", "ChunkedArray"):
        chunks = [chunk for one in results for chunk in (one.chunks if hasattr(one, "chunks") else [one])]
        return modules["pyarrow"].chunked_array(chunks, type=results[0].type)
    if _all_are(results, "numpy", "ndarray"):
        numpy = modules["numpy"]
        # The other one drops masks.
        return (numpy.ma if _are_masked(results) else numpy).concatenate(results)
    kinds = sorted({type(result).__name__ for result in results})
    raise TypeError(
        f"results of type {', '.join(kinds)} cannot be put one below the other: return a frame or an array for each part, "
        "or use pool.map(f, arrowpool.split(frame, n)), which returns a list."
    )


def _joined_pandas(results: list[Any], pandas: Any) -> Any:
    together = pandas.concat(results)
    if all(type(one.index) is pandas.Index and one.index.dtype == object for one in results):
        index = together.index
        if type(index) is not pandas.Index or index.dtype != object:
            # pandas makes numbers of objects, or times.
            objects = [one.index.to_numpy() for one in results]
            together.index = pandas.Index(sys.modules["numpy"].concatenate(objects), dtype=object, name=index.name)
    return together


def _are_masked(results: list[Any]) -> bool:
    return any(is_of(result, "numpy.ma", "MaskedArray") for result in results)


def _all_are(results: list[Any], library: str, *names: str) -> bool:
    return all(is_of(result, library, *names) for result in results)
