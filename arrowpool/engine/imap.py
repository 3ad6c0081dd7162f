"""The iterators that `imap` and `imap_unordered` return.

    for value in pool.imap(f, frames): ...
    async for value in pool.imap(f, frames): ...

The results that are not read are in another object, so the pool learns when the user drops the iterator:

    collector -- _set --> Imap (in the pool's cache) <-- take -- IMapIterator (the user's) -- dropped --> pool

Guarantee: the pool holds no reference to the user's iterator.
"""

from __future__ import annotations

import weakref
from collections import deque
from multiprocessing import TimeoutError
from multiprocessing import pool as stdlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arrowpool.engine.unread import Imap, OrderedImap, UnorderedImap

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")

#: An `async for` over results that are already there lets the event loop run this often.
_LOOP_SECONDS = 0.005


# The standard library's iterators take no type parameter at run time.
class IMapIterator(Generic[_T], stdlib.IMapIterator):  # type: ignore[type-arg]
    """The results of `imap`: `multiprocessing.pool.IMapIterator`, also for ``async for``.

    The call ends when the iterator is closed, or dropped after at least one result was asked for: running tasks are
    interrupted, waiting tasks are dropped. An iterator that is dropped unread leaves its tasks running, as with the standard
    library; their results are not kept. With a chunksize above 1, the first error is the last outcome, as with the standard
    library.

    Parameters
    ----------
    pool : ArrowPool
    chunked : bool
        Whether each result of the pool is a list of values.

    Examples
    --------
    >>> from arrowpool import Pool
    >>> with Pool(2) as pool:
    ...     results = pool.imap(abs, [-1, -2, -3])
    ...     results.next(timeout=10), list(results)
    (1, [2, 3])
    """

    _kind: type[Imap] = OrderedImap

    def __init__(self, pool: Any, chunked: bool = False):
        # Not the standard library's constructor: the state is in the `Imap`, which the pool holds.
        self._results: Any = self._kind(pool)
        self._job: int = self._results._job
        #: Values of a chunk that are still to be yielded; None without chunks. The user's threads extend and take; both are atomic.
        self._values: deque[Any] | None = deque() if chunked else None
        #: When to let the event loop run next, by its clock. For the event loop's thread only.
        self._pause_at = 0.0
        #: Whether there are no more results for the user. Written by the user's threads, only to True.
        self._closed = False
        self._let_go = weakref.finalize(self, _let_go, self._results)
        self._let_go.atexit = False

    @property
    def results(self) -> Any:
        """The `Imap` that the pool holds."""
        return self._results

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of call {self._job}>"

    def __iter__(self) -> Self:
        return self

    def next(self, timeout: float | None = None) -> _T:
        """Return the next result.

        Parameters
        ----------
        timeout : float, optional
            Maximum number of seconds to wait. By default there is no limit.

        Raises
        ------
        StopIteration
            When there are no more results.
        multiprocessing.TimeoutError
            When no result comes within `timeout`.
        KeyboardInterrupt
            On Ctrl-C while waiting. It ends the call.
        Exception
            The exception of the task.
        """
        results, values = self._results, self._values
        results.asked = True
        while True:
            if values:
                try:
                    return values.popleft()  # type: ignore[no-any-return]
                except IndexError:
                    pass  # another thread has taken it
            if self._closed:
                raise StopIteration
            success, outcome = results.take(timeout)
            if not success:
                if values is not None:
                    # As with the standard library, whose iterator over chunks is a generator. The other tasks are run anyway.
                    self._closed = True
                    results.drop()
                raise outcome
            if values is None:
                return outcome  # type: ignore[no-any-return]
            values.extend(outcome)

    __next__ = next

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        import asyncio  # see `watching`

        self._results.asked = True
        loop = asyncio.get_running_loop()
        if loop.time() >= self._pause_at:
            await self._results.pause()
            self._pause_at = loop.time() + _LOOP_SECONDS
        while True:
            if not self._values and not self._closed:
                await self._results.arrival()
            try:
                return self.next(0)
            except StopIteration:
                raise StopAsyncIteration from None
            except TimeoutError:
                continue  # another thread has taken it

    def close(self) -> None:
        """End the call. There are no more results."""
        self._results.asked = self._closed = True
        self._let_go()
        self._results.drop()
        if self._values is not None:
            self._values.clear()


class IMapUnorderedIterator(IMapIterator[_T], stdlib.IMapUnorderedIterator):  # type: ignore[type-arg]
    """The results of `imap_unordered`: as `IMapIterator`, in the order in which they arrive."""

    _kind = UnorderedImap


def _let_go(results: Any) -> None:
    """Have the pool drop these results. Called by a finalizer, so it takes no lock."""
    pool = results._pool  # None once the call has all its answers
    if pool is not None:
        pool._drop(results._job, ends=results.asked)
