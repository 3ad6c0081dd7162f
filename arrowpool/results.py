"""What a call returns: the standard library's result objects, which here can also be awaited, and ended before all is answered.

    value = await pool.apply_async(f, (df,))
    async for value in pool.imap(f, frames): ...

No thread waits for that: whoever sets a result wakes the event loop. Cancelling what awaits a result ends its call, as an
interrupt does: tasks that run are interrupted, tasks that wait are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from multiprocessing import TimeoutError
from multiprocessing import pool as stdlib
from multiprocessing.pool import IMapIterator, IMapUnorderedIterator
from typing import Any

from arrowpool.waiting import check_process, slices


class _Watched:
    """Mixed in: wakes event loops when there is something new."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._watchers: deque[Callable[[], None]] = deque()
        self._pid = os.getpid()
        super().__init__(*args, **kwargs)

    def _cancel(self: Any) -> None:
        pool = self._pool  # None once all is answered
        if pool is not None:
            pool._cancel(self._job)

    def _wake(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._watchers.popleft()()

    async def _changed(self: Any, is_there: Callable[[], bool]) -> None:
        """Return when `is_there`, from which on it stays so; a cancellation ends the call."""
        loop = asyncio.get_running_loop()
        while not is_there():
            future: asyncio.Future[None] = loop.create_future()

            def done(future: asyncio.Future[None] = future) -> None:
                if not future.done():
                    future.set_result(None)

            def wake(done: Callable[[], None] = done) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(done)

            self._watchers.append(wake)
            if is_there():
                return
            check_process(self._pid)
            try:
                await future
            except asyncio.CancelledError:
                self._cancel()
                raise


class _Awaitable(_Watched):
    def wait(self: Any, timeout: float | None = None) -> None:
        """Return when the result is there, or after `timeout` seconds."""
        if self.ready():
            return
        check_process(self._pid)
        for seconds in slices(timeout):
            if self._event.wait(seconds):
                return

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
    """Mixed into an imap iterator: takes nothing any more once it was ended; an interrupt while waiting ends its call."""

    _ended = False

    def next(self: Any, timeout: float | None = None) -> Any:
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
        try:
            success, value = self._take(timeout)
        except KeyboardInterrupt:
            self._cancel()
            raise
        if success:
            return value
        raise value

    __next__ = next

    def _take(self: Any, timeout: float | None) -> tuple[bool, Any]:
        if self._pid != os.getpid():
            return self._take_inherited()  # type: ignore[no-any-return]
        with self._cond:
            if not self._is_next_here():
                for seconds in slices(timeout):
                    self._cond.wait(seconds)
                    if self._is_next_here():
                        break
            if self._items:
                outcome: tuple[bool, Any] = self._items.popleft()
                return outcome
            if self._index == self._length:
                self._pool = None
                raise StopIteration
            raise TimeoutError

    def _take_inherited(self: Any) -> tuple[bool, Any]:
        # Without the lock, which a thread may have held at the fork; none is here that changes anything.
        if self._items:
            return self._items.popleft()  # type: ignore[no-any-return]
        if self._index != self._length:
            check_process(self._pid)
        raise StopIteration

    def __aiter__(self) -> Imap:
        return self

    async def __anext__(self: Any) -> Any:
        while True:
            await self._changed(self._has_next)
            try:
                success, value = self._take(0)
            except StopIteration:
                raise StopAsyncIteration from None
            except TimeoutError:
                continue  # a thread was faster
            if success:
                return value
            raise value

    def _has_next(self: Any) -> bool:
        if self._pid != os.getpid():
            return True  # or an error, at once
        with self._cond:
            there: bool = self._is_next_here()
            return there

    def _is_next_here(self: Any) -> bool:
        return bool(self._items) or self._index == self._length

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        if not self._ended:
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

    def fail(self: Any, error: BaseException) -> None:
        """End it: `error` is the last thing that comes."""
        with self._cond:
            if self._index != self._length:
                self._ended = True
                self._items.append((False, error))
                self._index += 1
                self._length = self._index
                self._end()
        self._wake()


class ImapResults(Imap, IMapIterator):  # type: ignore[type-arg]
    """Results in the order of the items."""


class UnorderedImapResults(Imap, IMapUnorderedIterator):  # type: ignore[type-arg]
    """Results in the order in which they come."""


class Unchunked:
    """The results of an imap in chunks, one by one."""

    def __init__(self, chunks: Any):
        self._chunks = chunks
        self._items: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            for item in self._items:
                return item
            self._items = iter(next(self._chunks))

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while True:
            for item in self._items:
                return item
            self._items = iter(await self._chunks.__anext__())


def fail(result: Any, error: BaseException) -> None:
    """End a call with `error`, whatever is missing of it; its callbacks are not called."""
    if isinstance(result, Imap):
        result.fail(error)
    else:
        result._error_callback = None
        if isinstance(result, MapResult):
            result._number_left = 1  # type: ignore[attr-defined]
        result._set(0, (False, error))
