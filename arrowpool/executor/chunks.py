"""Chunks of `ProcessPoolExecutor.map`: tuples of items, and the items in the results of their futures."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any


def flattened(pending: deque[Future[Any]], refill: Callable[[], None], until: float | None) -> Iterator[Any]:
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


def _result(future: Future[Any], until: float | None) -> Any:
    try:
        return future.result(None if until is None else until - time.monotonic())
    finally:
        future.cancel()
        del future  # its exception refers to this frame


def batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Items in tuples of `size`; the last one may be shorter. (`itertools.batched` exists since Python 3.12.)"""
    rest = iter(items)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())
