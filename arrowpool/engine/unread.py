"""The unread results of an imap: collected in the pool, until the user's iterator takes them (see `imap`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from multiprocessing import TimeoutError
from multiprocessing import pool as stdlib
from typing import Any

from arrowpool.engine.watching import Watched
from arrowpool.interrupts import check_process, slices


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
        with self._waiting():  # the condition wakes this thread
            for seconds in slices(timeout):
                self._cond.wait(seconds)
                if self._is_next_here():
                    return

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

    @property
    def is_kept(self) -> bool:
        """Whether results that arrive are kept: not after `drop`. Without the lock: it only changes to False."""
        return not self._unkept

    def taken(self: Any) -> int:
        """Number of results that were taken or dropped. Without the lock: an estimate."""
        return self._index - len(self._items)  # type: ignore[no-any-return]

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


class OrderedImap(Imap, stdlib.IMapIterator):  # type: ignore[type-arg]
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


class UnorderedImap(Imap, stdlib.IMapUnorderedIterator):  # type: ignore[type-arg]
    """Results in the order in which they arrive."""

    def _keep(self: Any, index: int, outcome: tuple[bool, Any]) -> None:
        self._items.append(outcome)
        self._index += 1
