"""Progress bars: a pool's `map`, `starmap`, `imap` and `imap_unordered` with a bar that counts items.

    from arrowpool import progress
    features = progress.map(pool, featurise, frames, desc="features")

For terminals and notebooks. ``pip install 'arrowpool[progress]'`` brings tqdm, which the first bar imports. Results, order,
errors and interrupts are those of the pool's own methods, which these functions call. The waiting thread draws the bar, as
notebooks need, and closes it at the last result or the first error. For an iterator of the pool, plain tqdm works too:
``tqdm(pool.imap(f, items), total=len(items))``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from arrowpool.pool import ArrowPool

__all__ = ["imap", "imap_unordered", "map", "starmap"]

_S = TypeVar("_S")
_T = TypeVar("_T")

#: tqdm draws no more often by default.
_REDRAW_SECONDS = 0.1


def map(
    pool: ArrowPool,
    fn: Callable[[_S], _T],
    items: Iterable[_S],
    chunksize: int | None = None,
    **tqdm_options: Any,
) -> list[_T]:
    """`pool.map(fn, items, chunksize)` with a progress bar.

    The bar moves by whole chunks; ``chunksize=1`` moves it with each item. It stops at the first error, which is raised when
    all chunks are answered, as by the pool's own `map`.

    Parameters
    ----------
    pool : ArrowPool
    fn, items, chunksize
        As for the pool's own method.
    **tqdm_options
        For ``tqdm.auto.tqdm``: ``desc``, ``unit``, ``leave``, ``disable`` ...

    Returns
    -------
    list
        The results, in the order of `items`.

    Raises
    ------
    ModuleNotFoundError
        When tqdm is not installed.
    Exception
        As the pool's own method.

    Examples
    --------
    >>> from arrowpool import Pool, progress
    >>> with Pool(2) as pool:
    ...     progress.map(pool, abs, [-1, -2, -3], disable=True)
    [1, 2, 3]
    """
    return _wait(pool, pool.map_async, fn, items, chunksize, tqdm_options)


def starmap(
    pool: ArrowPool,
    fn: Callable[..., _T],
    items: Iterable[Iterable[Any]],
    chunksize: int | None = None,
    **tqdm_options: Any,
) -> list[_T]:
    """`pool.starmap(fn, items, chunksize)` with a progress bar; otherwise as `map`."""
    return _wait(pool, pool.starmap_async, fn, items, chunksize, tqdm_options)


def imap(
    pool: ArrowPool,
    fn: Callable[[_S], _T],
    items: Iterable[_S],
    chunksize: int = 1,
    **tqdm_options: Any,
) -> Iterator[_T]:
    """`pool.imap(fn, items, chunksize)` with a progress bar, which counts the results that are taken.

    Parameters
    ----------
    pool : ArrowPool
    fn, items, chunksize
        As for the pool's own method.
    **tqdm_options
        For ``tqdm.auto.tqdm``; ``total=`` when `items` has no length.

    Returns
    -------
    iterator
        The results, in the order of `items`. As with the pool's own iterator, it may go on after an error, without a bar.

    Raises
    ------
    ModuleNotFoundError
        When tqdm is not installed.
    """
    return _Counted(pool.imap, fn, items, chunksize, tqdm_options)


def imap_unordered(
    pool: ArrowPool,
    fn: Callable[[_S], _T],
    items: Iterable[_S],
    chunksize: int = 1,
    **tqdm_options: Any,
) -> Iterator[_T]:
    """`pool.imap_unordered(fn, items, chunksize)` with a progress bar; otherwise as `imap`."""
    return _Counted(pool.imap_unordered, fn, items, chunksize, tqdm_options)


def _wait(
    pool: ArrowPool,
    method: Callable[..., Any],
    fn: Callable[..., Any],
    items: Iterable[Any],
    chunksize: int | None,
    options: dict[str, Any],
) -> list[Any]:
    items = items if isinstance(items, Sized) else list(items)
    with _bar(items, options) as bar:
        result = method(fn, items, chunksize)
        try:
            ready = False
            while not ready:
                result.wait(_REDRAW_SECONDS)
                ready = result.ready()
                bar.update(_done(result, bar.n) - bar.n)
            values: list[Any] = result.get()
            return values
        except BaseException:
            # An interrupt, or the bar could not be drawn: the call ends.
            if not result.ready():
                pool._cancel(result._job)
            raise


def _done(result: Any, before: int) -> int:
    """Number of items of a map that have results; `before` after an error, when the result stores no more."""
    if not result._success:
        return before
    items: int = len(result._value)
    chunksize: int = result._chunksize
    if not items:
        return 0
    chunks = -(-items // chunksize)
    left: int = result._number_left
    done = (chunks - left) * chunksize
    # The last chunk may be shorter, and done before others: its result shows that, unless it is None.
    if left == 0 or result._value[-1] is not None:
        done -= chunks * chunksize - items
    return max(before, done)


class _Counted:
    """An iterator of the pool, with a bar that moves with it."""

    def __init__(
        self,
        method: Callable[..., Iterator[Any]],
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        chunksize: int,
        options: dict[str, Any],
    ):
        self._bar = _bar(items, options)
        try:
            self._results = method(fn, items, chunksize)
        except BaseException:
            self._bar.close()
            raise

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            value = next(self._results)
        except BaseException:  # also the end
            self._bar.close()
            raise
        self._bar.update()
        return value


def _bar(items: Iterable[Any], options: dict[str, Any]) -> Any:
    try:
        tqdm = importlib.import_module("tqdm.auto").tqdm
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tqdm":
            raise
        raise ModuleNotFoundError(
            "progress bars need tqdm, which is not installed; install it with: pip install 'arrowpool[progress]'",
            name=error.name,
        ) from error
    total = len(items) if isinstance(items, Sized) else None
    return tqdm(**{"total": total, **options})
