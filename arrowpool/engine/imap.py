"""The results of `imap` and `imap_unordered`: the object that collects them, and the iterator that the user gets.

    for value in pool.imap(f, frames): ...
    async for value in pool.imap(f, frames): ...

Two objects, so that the pool learns when the user drops the iterator:

    collector -- _set --> Imap (in the pool's cache) <-- take -- IMapIterator (the user's) -- dropped --> pool

Guarantee: the pool holds no reference to the user's iterator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing import TimeoutError
from multiprocessing import pool as stdlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arrowpool.engine.watching import Watched
from arrowpool.interrupts import check_process, slices

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")

#: An `async for` over results that are already there lets the event loop run this often.
_LOOP_SECONDS = 0.005


def _do_nothing() -> None:
    pass


class Imap(Watched):
    """Mixin for an iterator of the standard library: the unread results of an imap.

    The collector's thread adds results and ends the call; the acting thread (see `mailbox`) sets its length; any thread takes or
    drops results through an `IMapIterator`. All of them hold the standard library's condition `_cond` while they read and write
    `_items`, `_unsorted`, `_index`, `_length` and the attributes below, except `asked`.
    """

    _job: int
    #: Whether the user has ever asked for a result. Written by the user's threads, only to True; read by the finalizer.
    asked = False
    #: Whether further results are ignored: the call has failed.
    _ended = False
    #: Whether further results are counted and not kept: the user dropped the iterator.
    _unkept = False
    #: Called once, when a result is taken or dropped. The acting thread (see `mailbox`) sets it; the thread that takes or drops a
    #: result removes it.
    _when_read: Callable[[], Any] | None = None

    def take(self: Any, timeout: float | None) -> tuple[bool, Any]:
        """Take the next outcome, as `IMapIterator.next`: whether the task succeeded, and its value or exception."""
        if self._pid != os.getpid():
            return self._take_inherited()  # type: ignore[no-any-return]
        try:
            with self._cond:
                if not self._is_next_here():
                    self._wait(timeout)
                if self._items:
                    outcome: tuple[bool, Any] = self._items.popleft()
                    tell, self._when_read = self._when_read, None
                elif self._index == self._length:
                    self._pool = None
                    raise StopIteration
                else:
                    raise TimeoutError
        except KeyboardInterrupt:
            self._cancel()
            raise
        if tell is not None:
            tell()
        return outcome

    def _take_inherited(self: Any) -> tuple[bool, Any]:
        # In a forked child. Without the lock: a thread of the parent may have held it at the fork, and no thread changes results
        # here.
        if self._items:
            return self._items.popleft()  # type: ignore[no-any-return]
        if self._index != self._length:
            check_process(self._pid)
        raise StopIteration

    def _wait(self: Any, timeout: float | None) -> None:
        token = object()
        self._watchers[token] = _do_nothing  # the condition wakes this thread
        try:
            for seconds in slices(timeout):
                self._cond.wait(seconds)
                if self._is_next_here():
                    return
        finally:
            self._watchers.pop(token, None)

    async def arrival(self) -> None:
        """Return when there is an outcome to take, or the end is reached."""
        await self._changed(self._has_next)

    def _has_next(self: Any) -> bool:
        if self._pid != os.getpid():
            return True  # or `take` raises at once
        with self._cond:
            there: bool = self._is_next_here()
            return there

    def _is_next_here(self: Any) -> bool:
        return bool(self._items) or self._index == self._length

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        # Not the standard library's: another thread may drop the results until the lock is taken, and each is counted once.
        with self._cond:
            if self._ended:
                return
            if self._unkept:
                self._index += 1
            else:
                self._keep(index, outcome)
            if self._index == self._length:
                self._end()
            else:
                self._cond.notify()
        self._wake()

    def _keep(self, index: int, outcome: tuple[bool, Any]) -> None:
        """Keep an outcome, with the lock held. Move the outcomes whose turn it is to `_items`, and count them in `_index`."""
        raise NotImplementedError

    def _set_length(self: Any, length: int) -> None:
        # As in the standard library, except that nothing changes after the end of the call.
        with self._cond:
            if not self._ended:
                self._length = length
                if self._index == length:
                    self._end()
        self._wake()

    def _end(self: Any) -> None:
        self._cond.notify_all()
        self._pool = None
        with contextlib.suppress(KeyError):
            del self._cache[self._job]

    def unread(self: Any) -> int:
        """Number of results that have arrived and were not taken. Without the lock: an estimate."""
        return len(self._items) + len(self._unsorted)

    def when_read(self: Any, tell: Callable[[], Any]) -> None:
        """Call `tell` once, when a result is taken or dropped. The caller looks at `unread` again after this.

        Race: the user takes all results while the feeder asks.

        1. The feeder sees too many unread results.
        2. The user takes all of them. No `tell` is set.
        3. The feeder sets `tell`, which no later result calls.
        4. The feeder looks at `unread` again, and sees that the results are taken.

        Verdict: the feeder does not wait for a call that never comes.
        """
        with self._cond:
            self._when_read = tell

    def fail(self: Any, error: BaseException) -> None:
        """End the call: `error` is the last outcome. Results that wait for earlier ones are dropped."""
        dropped: dict[int, Any] = {}
        with self._cond:
            if self._index != self._length:
                dropped, self._unsorted = self._unsorted, dropped
                self._ended = True
                if not self._unkept:
                    self._items.append((False, error))
                self._index += 1
                self._length = self._index
                self._end()
        del dropped  # outside the lock: finalizers of results may run any code
        self._wake()

    def drop(self: Any) -> None:
        """Drop the results that have arrived, and keep no later ones. The call's tasks are run anyway."""
        if self._pid != os.getpid():
            return
        with self._cond:
            self._unkept = True
            self._index += len(self._unsorted)
            dropped = [*self._items, *self._unsorted.values()]
            self._items.clear()
            self._unsorted.clear()
            tell, self._when_read = self._when_read, None
            if self._index == self._length:
                self._end()
        del dropped  # outside the lock: finalizers of results may run any code
        if tell is not None:
            tell()


class _OrderedImap(Imap, stdlib.IMapIterator):  # type: ignore[type-arg]
    """Results in the order of the items."""

    def _keep(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        if index != self._index:
            self._unsorted[index] = outcome
            return
        self._items.append(outcome)
        self._index += 1
        while self._index in self._unsorted:
            self._items.append(self._unsorted.pop(self._index))
            self._index += 1


class _UnorderedImap(Imap, stdlib.IMapUnorderedIterator):  # type: ignore[type-arg]
    """Results in the order in which they arrive."""

    def _keep(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        self._items.append(outcome)
        self._index += 1


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

    _kind: type[Imap] = _OrderedImap

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

    _kind = _UnorderedImap


def _let_go(results: Any) -> None:
    """Have the pool drop these results. Called by a finalizer, so it takes no lock."""
    pool = results._pool  # None once the call has all its answers
    if pool is not None:
        pool._drop(results._job, ends=results.asked)
