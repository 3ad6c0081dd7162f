"""The calls that wait for results: sets their results, and ends them.

Used in the collector's thread, so no result is set by two threads at a time; except `halt` (any thread) and, after the end of that
thread, `end_all` (the threads that make calls).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from arrowpool.errors import again


class Notifier:
    """The pool's ``_change_notifier``: the cache of calls notifies the supervisor when it becomes empty.

    Only the supervisor of a closed pool waits for that, and to wake it after each call would cost as much as the call.

    Race: a pool is closed while its last call gets its result.

    1. The cache becomes empty. `put` looks at the state, and wakes the supervisor of a closed pool.
    2. `Engine.close` notes that the pool is closed, and wakes the supervisor.

    If 1 finds the pool open, 2 has still to wake the supervisor, which then finds the cache empty. Verdict: a supervisor that waits
    for both sees both.

    Parameters
    ----------
    wake : callable
        Wakes the supervisor. Called in any thread, also in a finalizer.
    is_taking_calls : callable
        Whether the pool is not closed.
    """

    def __init__(self, wake: Callable[[], None], is_taking_calls: Callable[[], bool]):
        self._wake = wake
        self._is_taking_calls = is_taking_calls

    def put(self, _: object) -> None:
        """The cache is empty. Any thread may call this, also in a finalizer."""
        if not self._is_taking_calls():
            self._wake()


class OpenCalls:
    """The result objects of one pool that are not complete.

    Parameters
    ----------
    cache : dict
        Result objects of running calls by job number. Each enters itself in the thread that makes the call, and removes itself when
        it is complete.
    """

    def __init__(self, cache: dict[int, Any]):
        self._cache = cache
        #: Whether no more results are set. Written by any thread, only to True; read by the collector's thread.
        self._halted = False

    def __repr__(self) -> str:
        return f"<OpenCalls: {len(self._cache)}{' | halted' if self._halted else ''}>"

    def jobs(self) -> list[int]:
        """The job numbers of all open calls."""
        return list(self._cache)

    def set(self, job: int, index: int, success: bool, value: Any) -> None:
        """Set the outcome of one task of a call, if the call is open."""
        result = self._cache.get(job)
        if result is not None and not self._halted:
            result._set(index, (success, value))

    def end(self, job: int, error: BaseException) -> None:
        """End a call with `error`, if it is open."""
        result = self._cache.get(job)
        if result is not None:
            result.fail(error)

    def end_all(self, error: BaseException) -> None:
        """End all open calls with `error`, so that no call waits indefinitely."""
        for result in list(self._cache.values()):
            with contextlib.suppress(KeyError):  # another thread has ended it
                result.fail(again(error))

    def halt(self) -> None:
        """Set no more results. Takes no lock, so it may be called in a finalizer."""
        self._halted = True

    def find(self, job: int) -> Any:
        """The result object of an open call; None when the call is complete."""
        return self._cache.get(job)
