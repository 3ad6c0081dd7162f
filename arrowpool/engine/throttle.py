"""The throttle: holds calls back while many of their results are unread, so a generator is consumed as fast as results are read."""

from __future__ import annotations

import functools
import queue
from collections.abc import Mapping
from typing import Any

from arrowpool.engine.calls import Call
from arrowpool.engine.clock import Clock
from arrowpool.engine.events import Read
from arrowpool.engine.unread import Imap


class Throttle:
    """Holds calls back. Used by the acting thread (see `mailbox`).

    Parameters
    ----------
    limit : int
        Bytes of unread results that one call may have.
    cache : Mapping
        Result objects of running calls by job number.
    inbox : queue.SimpleQueue
        The feeder's. Gets a `Read` when results of a call that is held back are read.
    clock : Clock
        Runs while a call is held back.
    """

    def __init__(self, limit: int, cache: Mapping[int, Any], inbox: queue.SimpleQueue[Any], clock: Clock):
        self._limit = limit
        self._cache = cache
        self._inbox = inbox
        self._clock = clock
        #: Whether the pool is closed, so no call is held back any more.
        self._open = False

    def open(self) -> None:
        """Hold no call back from now on: the pool is closed, and its user may read results only after its end."""
        self._open = True
        self.were_read()

    def were_read(self) -> None:
        """Note that results of a call that was held back were read, or that no call is left."""
        self._clock.stop()

    def holds_back(self, call: Call) -> bool:
        """Whether a call must wait. If so, a `Read` follows when results of it are read.

        Race: a user reads results while the feeder looks at them.

        1. The feeder finds too many unread results, and asks for a `Read`.
        2. A user's thread reads results, and puts a `Read` if the feeder has asked.
        3. The feeder looks again.

        If 2 comes after 1, the feeder gets the `Read`. If 2 comes before 1, the feeder sees at 3 that there are fewer unread
        results. Verdict: a call that waits gets a `Read`.
        """
        if self._open or not call.result_bytes:
            return False
        results = self._cache.get(call.job)
        if not isinstance(results, Imap) or not self._is_piled_up(call, results):
            return False
        results.when_read(functools.partial(self._inbox.put, Read(call.job)))
        if not self._is_piled_up(call, results):
            return False
        self._clock.start()
        return True

    def _is_piled_up(self, call: Call, results: Imap) -> bool:
        return call.result_bytes / call.replies * results.unread() > self._limit
