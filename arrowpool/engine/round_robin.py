"""Round robin: the running calls, and which of them gives the next task.

Calls with a list give all their tasks in turn, in the order in which the calls were made. Calls with a source (a user's iterator)
have a queue of their own, and give one task a turn. The two queues take turns. So an endless iterator does not keep other calls
waiting, and a long list does not keep the next item of an iterator waiting.

Used by the acting thread (see `mailbox`). Decides only, without IO.
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
        Whether a call must wait until some of its results are read.
    """

    def __init__(self, is_throttled: Callable[[Call], bool]):
        self._is_throttled = is_throttled
        #: Calls that are not over, by job: they have tasks to give, or tasks under way.
        self._running: dict[int, Call] = {}
        #: Calls without a source that may have tasks to give now. An exhausted call is removed when its turn comes.
        self._listed: deque[Call] = deque()
        #: Calls with a source that may have tasks to give now; the same.
        self._drawn: deque[Call] = deque()
        #: Jobs with a source that are in `_drawn` or `_throttled`.
        self._known: set[int] = set()
        #: Calls that must wait until some of their results are read, by job.
        self._throttled: dict[int, Call] = {}
        #: Whether the calls with a source come first.
        self._sources_first = False

    def __len__(self) -> int:
        return len(self._running)

    def calls(self) -> list[Call]:
        """All running calls."""
        return list(self._running.values())

    def add(self, call: Call) -> None:
        """Add a new call."""
        self._running[call.job] = call
        if call.source is None:
            self._listed.append(call)

    def find(self, job: int) -> Call | None:
        return self._running.get(job)

    def drawn(self, job: int) -> None:
        """Note that the source of this job has tasks."""
        call = self._running.get(job)
        if call is not None and job not in self._known:
            self._known.add(job)
            self._drawn.append(call)

    def release(self, job: int) -> None:
        """Stop throttling a call, if it is throttled."""
        call = self._throttled.pop(job, None)
        if call is not None:
            # About where it was: before the calls that were made after it.
            (self._listed if call.source is None else self._drawn).appendleft(call)

    def release_all(self) -> None:
        for job in list(self._throttled):
            self.release(job)

    def next(self) -> Call | None:
        """The call that gives the next task; None when no call has a task now."""
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
        """Note that a call has given tasks: others have their turn next."""
        self._sources_first = call.source is None
        if call.source is not None and self._drawn and self._drawn[0] is call:
            self._drawn.rotate(-1)

    def exhausted(self, call: Call) -> None:
        """Note that a call gives no more tasks. Earlier tasks may be under way."""
        call.exhausted = True
        call.set_length = None
        call.tasks = iter(())
        call.release_items()  # as soon as the standard library does
        self._throttled.pop(call.job, None)
        if call.source is not None:
            call.source.close()
            call.source = None

    def over(self, call: Call) -> None:
        """Remove a call: none of its tasks is to come or under way."""
        self._running.pop(call.job, None)

    def clear(self) -> None:
        """Forget all calls, at the end of the feeder: they refer to the user's items."""
        for call in self.calls():
            self.exhausted(call)
        for calls in (self._running, self._listed, self._drawn, self._known, self._throttled):
            calls.clear()
