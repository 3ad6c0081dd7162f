"""`ProcessPoolExecutor.map`: its arguments, chunks of items, and the items in the results of the chunks' futures."""

from __future__ import annotations

import itertools
import operator
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, Protocol, TypeVar

_Executor = TypeVar("_Executor")


class Promise(Protocol):
    """As much of a future as is needed of a chunk."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the results of the items, in a list."""

    def cancel(self) -> bool:
        """Give them up, if they are not computed yet."""


def check_sizes(chunksize: int, buffersize: int | None) -> None:
    """Check the sizes that `map` gets.

    Raises
    ------
    ValueError, TypeError
        For a chunksize or buffersize that is not a positive integer, as the standard library does.
    """
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    operator.index(chunksize)
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def applied_to(iterables: tuple[Iterable[Any], ...]) -> tuple[Callable[..., Any], Iterator[Any]]:
    """What applies a function to a chunk of items, and the items: with several iterables, a tuple of one of each."""
    if len(iterables) == 1:
        return mapstar, iter(iterables[0])
    return starmapstar, zip(*iterables)  # noqa: B905 (the shortest one ends it)


def ahead(
    executor: _Executor,
    submit: Callable[[_Executor, int | None], Iterable[Promise]],
    count: int | None,
    until: float | None,
) -> Iterator[Any]:
    """The items of chunks, of which `count` are submitted ahead; None for all of them.

    `submit` is called with the executor and a number of chunks. The iterator does not keep the executor alive.
    """
    pending = deque(submit(executor, count))
    known = weakref.ref(executor)

    def refill() -> None:
        alive = known()
        if alive is not None:
            pending.extend(submit(alive, 1))

    return flattened(pending, refill, until)


def flattened(pending: deque[Promise], refill: Callable[[], None], until: float | None) -> Iterator[Any]:
    """The items of futures whose values are lists, in order; `refill` may append futures."""
    try:
        while pending:
            chunk = _result(pending.popleft(), until)
            refill()
            # Popped, so that this frame does not keep a value that was yielded.
            chunk.reverse()
            while chunk:
                yield chunk.pop()
    finally:
        for future in pending:
            future.cancel()


def _result(future: Promise, until: float | None) -> Any:
    try:
        return future.result(None if until is None else until - time.monotonic())
    finally:
        future.cancel()
        del future  # its exception refers to this frame


def batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Items in tuples of `size`; the last one may be shorter. (`itertools.batched` exists since Python 3.12.)"""
    rest = iter(items)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())
