"""Progress bars: a pool's `map`, `starmap`, `imap`, `imap_unordered`, `map_groups` and `imap_groups` with a bar.

    from arrowpool import progress
    features = progress.map(pool, featurise, frames, desc="features")

    features:  45%|████▌     | 18/40 [00:03<00:04, 5.2it/s, 1.2 GB moved, 380 MB/s]

The bar counts items, and says how long the rest will take and how much data the pool has moved since the bar began: arguments and
results, copied into shared memory or sent through pipes. For terminals and notebooks. ``pip install 'arrowpool[progress]'`` brings tqdm, which the first bar imports. Results, order,
errors and interrupts are those of the pool's own methods, which these functions call. The waiting thread draws the bar, as
notebooks need, and closes it at the last result or the first error. For an iterator of the pool, plain tqdm works too:
``tqdm(pool.imap(f, items), total=len(items))``.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arrowpool.stats import show_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

    from arrowpool.pool import ArrowPool

__all__ = ["imap", "imap_groups", "imap_unordered", "map", "map_groups", "starmap"]

_S = TypeVar("_S")
_T = TypeVar("_T")

#: tqdm draws no more often by default.
_REDRAW_SECONDS = 0.1
#: Of a bar, unless the `chunksize` is given: otherwise a bar of ten minutes would stand still for minutes.
_STEPS = 100
#: Options of `map_groups` that are not tqdm's.
_OF_GROUPBY = ("level", "sort", "dropna", "observed", "group_keys", "as_index", "on_error")


def map(
    pool: ArrowPool,
    fn: Callable[[_S], _T],
    items: Iterable[_S],
    chunksize: int | None = None,
    **tqdm_options: Any,
) -> list[_T]:
    """`pool.map(fn, items, chunksize)` with a progress bar.

    The bar moves by whole chunks: by default in about a hundred steps; ``chunksize=1`` moves it with each item. It stops at the first error, which is raised when
    all chunks are answered, as by the pool's own `map`.

    Parameters
    ----------
    pool : ArrowPool
    fn, items, chunksize
        As for the pool's own method.
    **tqdm_options
        ``on_error`` is as for the pool's own method; the others are for ``tqdm.auto.tqdm``: ``desc``, ``unit``, ``leave``,
        ``disable`` ...

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
) -> BarIterator[_T]:
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
    on_error = tqdm_options.pop("on_error", "raise")
    bar = _Bar(pool, _length(items), tqdm_options)
    return BarIterator(bar, lambda: pool.imap(fn, items, chunksize, on_error=on_error))


def imap_unordered(
    pool: ArrowPool,
    fn: Callable[[_S], _T],
    items: Iterable[_S],
    chunksize: int = 1,
    **tqdm_options: Any,
) -> BarIterator[_T]:
    """`pool.imap_unordered(fn, items, chunksize)` with a progress bar; otherwise as `imap`."""
    on_error = tqdm_options.pop("on_error", "raise")
    bar = _Bar(pool, _length(items), tqdm_options)
    return BarIterator(bar, lambda: pool.imap_unordered(fn, items, chunksize, on_error=on_error))


def map_groups(
    pool: ArrowPool,
    fn: Callable[[Any], Any],
    frame: Any,
    by: Any = None,
    chunksize: int | None = None,
    **options: Any,
) -> Any:
    """`pool.map_groups(fn, frame, by, chunksize, ...)` with a progress bar, which counts groups.

    The bar moves when a message of groups is answered; by default there are about a hundred. A smaller `chunksize` moves it more often.

    Parameters
    ----------
    pool : ArrowPool
    fn, frame, by, chunksize
        As for the pool's own method.
    **options
        ``level``, ``sort``, ``dropna``, ``observed``, ``group_keys`` and ``as_index`` are those of the pool's own method, all others are
        for ``tqdm.auto.tqdm``.

    Returns
    -------
    DataFrame or Series
        The results, joined as by the pool's own method.

    Raises
    ------
    ModuleNotFoundError
        When tqdm is not installed.
    Exception
        As the pool's own method.

    Examples
    --------
    >>> import pandas as pd
    >>> from arrowpool import Pool, progress
    >>> prices = pd.DataFrame({"ticker": ["A", "B", "A", "B"], "close": [1.0, 2.0, 3.0, 5.0]})
    >>> with Pool(2) as pool:
    ...     progress.map_groups(pool, pd.DataFrame.max, prices, by="ticker", disable=True)["close"].to_dict()
    {'A': 3.0, 'B': 5.0}
    """
    of_groupby, of_tqdm = _split(options)
    call = pool._call_of_groups(fn, frame, by, chunksize, of_groupby, _STEPS)
    with _Bar(pool, sum(call.sizes), of_tqdm) as bar:
        return call.joined(_wait_with(pool, bar, call.start(), lambda result: _answered(result, call.sizes)))


def imap_groups(
    pool: ArrowPool,
    fn: Callable[[Any], _T],
    frame: Any,
    by: Any = None,
    chunksize: int | None = None,
    **options: Any,
) -> BarIterator[tuple[Any, _T]]:
    """`pool.imap_groups(fn, frame, by, chunksize, ...)` with a progress bar, which counts the groups that are taken.

    Parameters and errors are those of `map_groups`. The iterator gives pairs of a group's key and its result.
    """
    on_error = options.pop("on_error", "raise")
    of_groupby, of_tqdm = _split(options)
    call = pool._call_of_groups(fn, frame, by, chunksize, of_groupby, _STEPS)
    return BarIterator(_Bar(pool, sum(call.sizes), of_tqdm), lambda: call.pairs(on_error))


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `DataFrame.groupby`, and those of tqdm."""
    of_groupby = {name: options.pop(name) for name in _OF_GROUPBY if name in options}
    return of_groupby, options


def _length(items: Iterable[Any]) -> int | None:
    return len(items) if isinstance(items, Sized) else None


def _wait(
    pool: ArrowPool,
    method: Callable[..., Any],
    fn: Callable[..., Any],
    items: Iterable[Any],
    chunksize: int | None,
    options: dict[str, Any],
) -> list[Any]:
    items = items if isinstance(items, Sized) else list(items)
    if chunksize is None and len(items) and pool._processes < _STEPS:
        chunksize = -(-len(items) // _STEPS)
    on_error = options.pop("on_error", "raise")
    with _Bar(pool, len(items), options) as bar:
        return _wait_with(pool, bar, method(fn, items, chunksize, on_error=on_error), _done)


def _wait_with(pool: ArrowPool, bar: _Bar, result: Any, count: Callable[[Any], int]) -> list[Any]:
    """Wait for a map. `count` is called with the result, and says how many items have theirs."""
    try:
        ready = False
        while not ready:
            result.wait(_REDRAW_SECONDS)
            ready = result.ready()
            if result._success:  # after an error, the result stores no more
                bar.move_to(count(result))
        values: list[Any] = result.get()
        return values
    except BaseException:
        # An interrupt, or the bar could not be drawn: the call ends.
        if not result.ready():
            pool._cancel(result._job)
        raise


def _answered(result: Any, sizes: Sequence[int]) -> int:
    """Number of items in the answered tasks of a map whose tasks have so many items, and none of which returns None."""
    return sum(size for size, value in zip(sizes, result._value, strict=True) if value is not None)


def _done(result: Any) -> int:
    """Number of items of a map that have results."""
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
    return done


class BarIterator(Iterator[_T], AsyncIterator[_T], Generic[_T]):
    """An iterator of the pool, with a bar that moves with it. For ``for`` and ``async for``."""

    def __init__(self, bar: _Bar, start: Callable[[], Any]):
        self._bar = bar
        try:
            self._results = start()
        except BaseException:
            self._bar.close()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        with self._counted():
            return next(self._results)  # type: ignore[no-any-return]

    def next(self, timeout: float | None = None) -> _T:
        """As `multiprocessing.pool.IMapIterator.next`; not of groups. A timeout leaves the bar as it is."""
        with self._counted(multiprocessing.TimeoutError):
            return self._results.next(timeout)  # type: ignore[no-any-return]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        with self._counted():
            return await anext(self._results)

    def close(self) -> None:
        """End the call, and its bar. There are no more results."""
        self._results.close()
        self._bar.close()

    @contextlib.contextmanager
    def _counted(self, *goes_on: type[Exception]) -> Iterator[None]:
        """Move the bar when a result is taken in the ``with`` block. Its errors, but for these, and its end close the bar."""
        try:
            yield
        except goes_on:
            raise
        except BaseException:
            self._bar.close()
            raise
        self._bar.move()


class _Bar:
    """A bar of tqdm that also says how much data its pool has moved, unless the user has given it a ``postfix``.

    Used by one thread, the one that waits.
    """

    def __init__(self, pool: Any, total: int | None, options: dict[str, Any]):
        self._bar = _tqdm()(**{"total": total, **options})
        shows = not self._bar.disable and "postfix" not in options
        # A cluster's pool has figures for which it asks no node.
        self._stats = getattr(pool, "_figures", getattr(pool, "stats", None)) if shows else None
        self._began = time.monotonic()
        self._before = self._moved()
        self._next = self._began + _REDRAW_SECONDS

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def move(self) -> None:
        """Count one more item."""
        self._show_bytes()
        self._bar.update()

    def move_to(self, count: int) -> None:
        """Count up to this number; never back."""
        self._show_bytes()
        self._bar.update(max(0, count - self._bar.n))

    def close(self) -> None:
        """Draw it for the last time. Can be called again."""
        self._next = 0.0
        self._show_bytes()
        self._bar.close()
        self._stats = None

    def _moved(self) -> int:
        if self._stats is None:
            return 0
        stats = self._stats()
        moved: int = stats.piped_bytes + stats.shared_bytes
        return moved

    def _show_bytes(self) -> None:
        now = time.monotonic()
        if self._stats is not None and now >= self._next:
            self._next = now + _REDRAW_SECONDS
            moved = self._moved() - self._before
            seconds = max(1e-3, now - self._began)
            self._bar.set_postfix_str(f"{show_bytes(moved)} moved, {show_bytes(moved / seconds)}/s", refresh=False)


def _tqdm() -> Any:
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tqdm":
            raise
        raise ModuleNotFoundError(
            "progress bars need tqdm, which is not installed; install it with: pip install 'arrowpool[progress]'",
            name=error.name,
        ) from error
