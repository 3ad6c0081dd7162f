"""Whose turn it is: the running calls, and which of them gives the next task.

Calls give their tasks one call after the other, as they came. Those whose tasks a user's iterator makes have a queue of
their own, with one task a turn; the two queues take turns. So an iterator that goes on and on does not keep other calls
waiting, nor a long list an iterator's next item.

Pure but for what it asks: whether a source has tasks, whether a call is held back. Used by the feeder, in its thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from arrowpool.engine.calls import Call


class Turns:
    """The running calls.

    Parameters
    ----------
    is_throttled : callable
        Whether a call has to wait until results of it are read.
    """

    def __init__(self, is_throttled: Callable[[Call], bool]):
        self._is_throttled = is_throttled
        #: Those that are not over, by job: they have tasks to give, or tasks under way.
        self._running: dict[int, Call] = {}
        #: Those that may have tasks to give now, without and with a source. What is exhausted is taken out when it is met.
        self._listed: deque[Call] = deque()
        self._drawn: deque[Call] = deque()
        #: The jobs of those with a source that are in that queue, or throttled.
        self._known: set[int] = set()
        self._throttled: dict[int, Call] = {}
        #: Whether the calls with a source come first.
        self._sources_first = False

    def __len__(self) -> int:
        return len(self._running)

    def calls(self) -> list[Call]:
        """All that are running."""
        return list(self._running.values())

    def add(self, call: Call) -> None:
        """A new call."""
        self._running[call.job] = call
        if call.source is None:
            self._listed.append(call)

    def find(self, job: int) -> Call | None:
        return self._running.get(job)

    def drawn(self, job: int) -> None:
        """The source of this job has tasks."""
        call = self._running.get(job)
        if call is not None and job not in self._known:
            self._known.add(job)
            self._drawn.append(call)

    def release(self, job: int) -> None:
        """A call that was throttled need not be so any more."""
        call = self._throttled.pop(job, None)
        if call is not None:
            # To where it was taken from, nearly: before those that came after it.
            (self._listed if call.source is None else self._drawn).appendleft(call)

    def release_all(self) -> None:
        for job in list(self._throttled):
            self.release(job)

    def next(self) -> Call | None:
        """The call that gives the next task; None when no call has one to give now."""
        first, second = (self._drawn, self._listed) if self._sources_first else (self._listed, self._drawn)
        return self._head(first) or self._head(second)

    def _head(self, calls: deque[Call]) -> Call | None:
        while calls:
            call = calls[0]
            if call.exhausted or (call.source is not None and not call.source.has_some()):
                calls.popleft()
                self._known.discard(call.job)
            elif self._is_throttled(call):
                self._throttled[call.job] = calls.popleft()
            else:
                return call
        return None

    def took(self, call: Call) -> None:
        """A call has given one or more tasks: it is others' turn."""
        self._sources_first = call.source is None
        if call.source is not None and self._drawn and self._drawn[0] is call:
            self._drawn.rotate(-1)

    def exhausted(self, call: Call) -> None:
        """A call gives no more tasks; those it gave may be under way."""
        call.exhausted = True
        call.set_length = None
        call.tasks = iter(())
        self._throttled.pop(call.job, None)
        if call.source is not None:
            call.source.close()
            call.source = None

    def over(self, call: Call) -> None:
        """Nothing of this call is under way any more."""
        self._running.pop(call.job, None)
