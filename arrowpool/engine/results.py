"""The result objects of `apply_async`, `map_async` and `starmap_async`: the standard library's, and awaitable.

    value = await pool.apply_async(f, (df,))

The collector's thread sets a result. Any thread or coroutine waits for it. The results of an imap are in `unread`.

The attributes are the standard library's. The collector's thread writes `_success` and `_value`, then sets `_event`; other
threads read the two after they have seen the event. After the end of the collector, threads that make calls end all open calls
(`fail`). Two threads may end the same call, with the same error: the second gets a KeyError, which `OpenCalls` ignores.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Generator
from multiprocessing import pool as stdlib
from typing import Any, TypeVar

from arrowpool.engine.watching import Watched
from arrowpool.interrupts import check_process, slices
from arrowpool.threads import tell

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ApplyResult(Watched, stdlib.ApplyResult[_T]):
    """The result of `apply_async`: `multiprocessing.pool.ApplyResult`, and awaitable.

    Methods `ready`, `successful` and `get` are the standard library's. After Ctrl-C in `get` or `wait` the call goes on;
    cancelling the last coroutine that awaits the result ends the call.

    Examples
    --------
    >>> import asyncio
    >>> from arrowpool import Pool
    >>> async def main(pool):
    ...     return await pool.apply_async(pow, (2, 10))
    >>> with Pool(2) as pool:
    ...     asyncio.run(main(pool))
    1024
    """

    def __init__(
        self,
        pool: Any,
        callback: Callable[[_T], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ):
        super().__init__(pool, _guarded(callback), error_callback=_guarded(error_callback))

    def wait(self: Any, timeout: float | None = None) -> None:
        """Wait until the result is there, at most `timeout` seconds."""
        if self.ready():
            return
        check_process(self._pid)
        with self._waiting():  # the event wakes this thread
            for seconds in slices(timeout):
                if self._event.wait(seconds):
                    return

    def __await__(self: Any) -> Generator[Any, None, _T]:
        yield from self._changed(self.ready).__await__()
        value: _T = self.get(0)
        return value

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        super()._set(index, outcome)  # type: ignore[misc]
        if self.ready():
            self._wake()

    def fail(self: Any, error: BaseException) -> None:
        """End the call with `error`. Its callbacks are not called."""
        self._error_callback = None
        self._set(0, (False, error))


#: The standard library's name for it.
AsyncResult = ApplyResult


class MapResult(ApplyResult[list[_T]], stdlib.MapResult[_T]):
    """The result of `map_async` and `starmap_async`: `multiprocessing.pool.MapResult`, and awaitable.

    `get` and `await` give the list of values, in the order of the items.
    """

    def __init__(
        self,
        pool: Any,
        chunksize: int,
        length: int,
        callback: Callable[[list[_T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ):
        # Not the constructor of `ApplyResult`: the standard library's constructors have different parameters.
        super(ApplyResult, self).__init__(
            pool, chunksize, length, _guarded(callback), error_callback=_guarded(error_callback)
        )

    def _set(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        # Directly, without the methods in between: this is called for each of many thousand tasks.
        stdlib.MapResult._set(self, index, outcome)  # type: ignore[attr-defined]
        if self._number_left <= 0:
            self._wake()

    def fail(self: Any, error: BaseException) -> None:
        self._number_left = 1  # number of tasks without an answer: the next one that is set is the last
        super().fail(error)


def _guarded(callback: Callable[[Any], object] | None) -> Callable[[Any], None] | None:
    """A callback whose exceptions are logged: an exception would end the thread that sets all results."""
    if callback is None:
        return None

    def call(value: Any) -> None:
        try:
            callback(value)
        except BaseException:
            # As text: a log record with the traceback would keep the frames alive, and the results in them.
            tell(_log.error, "a callback of the pool raised\n%s", traceback.format_exc())

    return call
