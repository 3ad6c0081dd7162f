"""Checks of the items of a call, and of the size of its chunks.

What the standard library accepts and answers is accepted: also a GroupBy, whose items are pairs of a key and a frame
(``pool.starmap(f, frame.groupby("ticker"))`` calls ``f(key, group)``), and an Index, whose items are its labels
(``pool.map(f, frame.columns)``). Frames and tables are refused: their length is the number of their rows, and iterating over them
gives columns, so the standard library's `map` hangs or loses results.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from arrowpool.arguments import checked_integer

#: Top-level module and name of the types that are refused, and what iterating over them gives.
_FRAMES = {
    ("pandas", "DataFrame"): "the names of its columns",
    ("polars", "DataFrame"): "its columns",
    ("polars", "LazyFrame"): "no rows",
    ("pyarrow", "Table"): "its columns",
    ("pyarrow", "RecordBatch"): "its columns",
}
_NOTHING = object()


def refuse_frame(iterable: Any, method: str) -> None:
    """Raise TypeError if `iterable` is a frame or a table, which newcomers pass instead of its parts.

    Parameters
    ----------
    iterable
        The items of a call.
    method : str
        Name of the pool's method, for the message.
    """
    for kind in type(iterable).__mro__:
        gives = _FRAMES.get((str(kind.__module__).partition(".")[0], kind.__name__))
        if gives is not None:
            over_parts = "map" if method == "starmap" else method
            if kind.__module__.startswith("pandas"):
                over_groups = "pool.map_groups(f, frame, by=...)"
            else:
                over_groups = f"pool.{over_parts}(f, arrowpool.split(frame, by=...))"
            raise TypeError(
                f"{method} over a {kind.__name__} would give {gives}, not its rows. For parts of the rows: "
                f"pool.{over_parts}(f, arrowpool.split(frame, 8)); for groups: {over_groups}; "
                f"for the columns: pool.{method}(f, list(frame))."
            )


def is_grouped(iterable: Any) -> bool:
    """Whether iterating over this object gives pairs of a key and a frame: a GroupBy of pandas or polars."""
    return any(
        str(kind.__module__).partition(".")[0] in ("pandas", "polars") and "GroupBy" in kind.__name__
        for kind in type(iterable).__mro__
    )


def checked_chunksize(chunksize: Any) -> int:
    """Return a user's chunk size as an int.

    Raises
    ------
    TypeError
        For anything but an integer of any type.
    ValueError
        For an integer below 1.
    """
    number = checked_integer(chunksize, "chunksize")
    if number < 1:
        raise ValueError(f"Chunksize must be 1+, not {number:n}")
    return number


def returns_errors(on_error: Any) -> bool:
    """Return whether a call returns the errors of its tasks, by its argument `on_error`.

    Raises
    ------
    ValueError
        For anything but "raise" and "return".
    """
    if not isinstance(on_error, str) or on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be 'raise' or 'return', not {on_error!r}")
    return on_error == "return"


def batches_of(
    function: Callable[..., Any], iterable: Iterable[Any], size: int, length: int, is_counted: bool
) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The items of a `map` in chunks, each with the function, as the standard library's ``Pool._get_tasks``.

    Parameters
    ----------
    function, iterable, size
        The function, the items, and the number of items in a chunk.
    length : int
        What `len` says of the iterable.
    is_counted : bool
        Whether to look for items after the last one. Types of Python and NumPy have as many as their length says.

    Raises
    ------
    ValueError
        When the iterable has fewer or more items. The last chunk, or what there is of it, does not come then.
    """
    items = iter(iterable)
    left = length
    while left > 0:
        batch = tuple(itertools.islice(items, min(size, left)))
        if len(batch) < min(size, left):
            raise ValueError(
                f"the iterable has fewer items than its len() says: {length - left + len(batch)} of {length}"
            )
        left -= len(batch)
        if not left and is_counted:
            expect_no_more(items, length)
        yield function, batch
        del batch


def expect_no_more(items: Iterator[Any], length: int) -> None:
    """Raise ValueError if an iterator has another item after `length` of them."""
    if next(items, _NOTHING) is not _NOTHING:
        raise ValueError(f"the iterable has more items than its len() says, which is {length}")
