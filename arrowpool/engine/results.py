"""What a call returns: the standard library's result objects, which here can also be awaited, and ended before all is answered.

    value = await pool.apply_async(f, (df,))
    async for value in pool.imap(f, frames): ...

No thread waits for that: whoever sets a result wakes the event loop. Cancelling the last one that waits for a result ends its
call, as an interrupt does: tasks that run are interrupted, tasks that wait are dropped.

Of an imap, the pool holds the results (`Imap`) and the user an iterator over them (`ImapResults`), so that the pool learns
when the user has let go of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from multiprocessing import TimeoutError
from multiprocessing import pool as stdlib
from multiprocessing.pool import IMapIterator, IMapUnorderedIterator
from typing import Any

from arrowpool.threads import check_process, slices

#: Who iterates over results that are there lets the event loop run as often as this.
_LOOP_SECONDS = 0.005


class _Watched:
    """Mixed in: wakes event loops when there is something new."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._pid = os.getpid()
        #: Who waits, threads and coroutines, by a token of theirs: how to wake them. One atomic operation at a time.
        self._watchers: dict[object, Callable[[], None]] = {}
        super().__init__(*args, **kwargs)

    def _cancel(self: Any) -> None:
        pool = self._pool  # None once all is answered
        if pool is not None:
            pool._cancel(self._job)

    def _wake(self) -> None:
        if self._watchers:
            for wake in list(self._watchers.values()):
                wake()

    async def _changed(self, is_there: Callable[[], bool]) -> None:
        """Return when `is_there`, from which on it stays so. Cancelled while nobody else waits, it ends the call."""
        if is_there():
            return
        loop = asyncio.get_running_loop()
        with self._awaited() as token:
            while not is_there():
                future: asyncio.Future[None] = loop.create_future()
                self._watchers[token] = _waker(loop, future)
                if is_there():
                    return
                check_process(self._pid)
                await future

    async def pause(self) -> None:
        """Let the event loop run; a cancellation is one of waiting."""
        with self._awaited():
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def _awaited(self) -> Iterator[object]:
        """A coroutine waits; gives its token."""
        token = object()
        self._watchers[token] = _do_nothing
        try:
            yield token
        except asyncio.CancelledError:
            self._watchers.pop(token, None)
            if not self._watchers:
                self._cancel()
            raise
        finally:
            self._watchers.pop(token, None)


def _do_nothing() -> None:
    pass


def _waker(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], None]:
    def done() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done)

    return wake


class _Awaitable(_Watched):
    def wait(self: Any, timeout: float | None = None) -> None:
        """Return when the result is there, or after `timeout` seconds."""
        if self.ready():
            return
        check_process(self._pid)
        token = object()
        self._watchers[token] = _do_nothing  # the event wakes this thread
        try:
            for seconds in slices(timeout):
                if self._event.wait(seconds):
                    return
        finally:
            self._watchers.pop(token, None)

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        super()._set(index, outcome)  # type: ignore[misc]
        if self.ready():
            self._wake()

    def __await__(self: Any) -> Generator[Any, None, Any]:
        yield from self._changed(self.ready).__await__()
        return self.get(0)


class AsyncResult(_Awaitable, stdlib.AsyncResult):  # type: ignore[type-arg]
    """The result of `apply_async`: `multiprocessing.pool.AsyncResult`, and awaitable."""


class MapResult(_Awaitable, stdlib.MapResult):  # type: ignore[type-arg]
    """The result of `map_async` and `starmap_async`: `multiprocessing.pool.MapResult`, and awaitable."""


class Imap(_Watched):
    """Mixed into an iterator of the standard library's: the results of an imap, as they come, and until they are taken.

    The collector sets them; it and the feeder end them; any thread takes them, by way of an `ImapResults`.
    """

    _job: int
    #: Whether the user has ever asked for a result.
    asked = False
    #: Whether nothing is taken in any more; and whether what comes is only counted, since nobody will read it.
    _ended = False
    _unkept = False
    #: Called, once, when a result is taken or need not be kept.
    _when_read: Callable[[], Any] | None = None

    def take(self: Any, timeout: float | None) -> tuple[bool, Any]:
        """The next outcome; an interrupt while waiting ends the call.

        Raises
        ------
        StopIteration
            When there are no more.
        multiprocessing.TimeoutError
            When none comes within `timeout` seconds.
        """
        if self._pid != os.getpid():
            return self._take_inherited()  # type: ignore[no-any-return]
        try:
            with self._cond:
                if not self._is_next_here():
                    self._wait(timeout)
                if self._items:
                    outcome: tuple[bool, Any] = self._items.popleft()
                elif self._index == self._length:
                    self._pool = None
                    raise StopIteration
                else:
                    raise TimeoutError
        except KeyboardInterrupt:
            self._cancel()
            raise
        self._was_read()
        return outcome

    def _take_inherited(self: Any) -> tuple[bool, Any]:
        # Without the lock, which a thread may have held at the fork; none is here that changes anything.
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
        """Return when there is an outcome to take, or the end."""
        await self._changed(self._has_next)

    def _has_next(self: Any) -> bool:
        if self._pid != os.getpid():
            return True  # or an error, at once
        with self._cond:
            there: bool = self._is_next_here()
            return there

    def _is_next_here(self: Any) -> bool:
        return bool(self._items) or self._index == self._length

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        if self._ended:
            return
        if self._unkept:
            with self._cond:
                self._index += 1
                if self._index == self._length:
                    self._end()
        else:
            super()._set(index, outcome)  # type: ignore[misc]
            self._wake()

    def _set_length(self: Any, length: int) -> None:
        # As in the standard library, but for the condition: the feeder may come to this after the end.
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
        """How many results are here that nobody has taken."""
        return len(self._items) + len(self._unsorted)

    def when_read(self, tell: Callable[[], Any]) -> None:
        """Have `tell` called, once, when there are fewer unread results."""
        self._when_read = tell

    def _was_read(self) -> None:
        tell, self._when_read = self._when_read, None
        if tell is not None:
            tell()

    def fail(self: Any, error: BaseException) -> None:
        """End it: `error` is the last thing that comes."""
        with self._cond:
            if self._index != self._length:
                self._ended = True
                if not self._unkept:
                    self._items.append((False, error))
                self._index += 1
                self._length = self._index
                self._end()
        self._wake()

    def drop(self: Any) -> None:
        """Nobody will read it: let go of what is here, keep nothing of what comes. Its tasks are run all the same."""
        if self._pid != os.getpid():
            return
        with self._cond:
            self._unkept = True
            self._index += len(self._unsorted)
            dropped = [*self._items, *self._unsorted.values()]
            self._items.clear()
            self._unsorted.clear()
            if self._index == self._length:
                self._end()
        del dropped  # without the lock: who knows what their finalizers do
        self._was_read()


class _OrderedImap(Imap, IMapIterator):  # type: ignore[type-arg]
    """Results in the order of the items."""


class _UnorderedImap(Imap, IMapUnorderedIterator):  # type: ignore[type-arg]
    """Results in the order in which they come."""


class ImapResults(IMapIterator):  # type: ignore[type-arg]
    """The results of `imap`: `multiprocessing.pool.IMapIterator`, for event loops too. With chunks, an error is the last
    thing that comes, as with the standard library.

    Once you let go of it in the middle, or `close` it, its call ends: what runs of it is interrupted, what waits is dropped.
    One that was never read from is let run, as with the standard library; its results are not kept.

    Parameters
    ----------
    pool : ArrowPool
    chunked : bool
        Whether each result is a list of values.
    """

    _kind: type[Imap] = _OrderedImap

    def __init__(self, pool: Any, chunked: bool = False):
        # Not the standard library's constructor: all state is in what the pool has.
        self._results: Any = self._kind(pool)
        self._job: int = self._results._job
        #: The values of a chunk that are still to come, None without chunks.
        self._values: deque[Any] | None = deque() if chunked else None
        #: When to let the event loop run, by its clock.
        self._pause_at = 0.0
        self._closed = False
        self._let_go = weakref.finalize(self, _let_go, self._results)
        self._let_go.atexit = False

    @property
    def results(self) -> Any:
        """What the pool has of it."""
        return self._results

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of call {self._job}>"

    def __iter__(self) -> ImapResults:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises
        ------
        StopIteration
            When there are no more.
        multiprocessing.TimeoutError
            When none comes within `timeout` seconds.
        KeyboardInterrupt
            When interrupted; the call is cancelled then.
        """
        results, values = self._results, self._values
        results.asked = True
        while True:
            if values:
                try:
                    return values.popleft()
                except IndexError:
                    pass  # another thread was faster
            if self._closed:
                raise StopIteration
            success, value = results.take(timeout)
            if not success:
                if values is not None:
                    # As with the standard library, whose iterator over chunks is a generator. What is left is run all the same.
                    self._closed = True
                    results.drop()
                raise value
            if values is None:
                return value
            values.extend(value)

    __next__ = next

    def __aiter__(self) -> ImapResults:
        return self

    async def __anext__(self) -> Any:
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
                continue  # a thread was faster

    def close(self) -> None:
        """End the call; there are no more results."""
        self._results.asked = self._closed = True
        self._let_go()
        self._results.drop()
        if self._values is not None:
            self._values.clear()


class UnorderedImapResults(ImapResults, IMapUnorderedIterator):  # type: ignore[type-arg]
    """The results of `imap_unordered`; see `ImapResults`."""

    _kind = _UnorderedImap


def _let_go(results: Any) -> None:
    """Nobody will read these results any more. A finalizer: it takes no lock."""
    pool = results._pool  # None once all is answered
    if pool is not None:
        pool._drop(results._job, ends=results.asked)


def fail(result: Any, error: BaseException) -> None:
    """End a call with `error`, whatever is missing of it; its callbacks are not called."""
    if isinstance(result, Imap):
        result.fail(error)
    else:
        result._error_callback = None
        if isinstance(result, MapResult):
            result._number_left = 1  # type: ignore[attr-defined]
        result._set(0, (False, error))
