"""The feeder of a cluster's pool: takes calls, draws their tasks, and answers for each of them.

    calls --> Feeder -- a batch --> Links --> a node
                 ^------ events ------'

One thread, which alone keeps the books: open calls, batches, nodes (`Dispatch`). It sends while a node has room in its window, so a
generator is read only as fast as nodes make room. The calls take turns.

What a lost node had not begun goes to other nodes. What it had begun fails with `NodeLostError`, or runs again with `retries`. What has
its outcome never runs again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, ClassVar

from arrowpool.engine.calls import Call, queued_call
from arrowpool.engine.naming import describe, numbers_of
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.source import Source
from arrowpool.errors import ArrowPoolError, PoolTerminatedError, WorkerInitError, said
from arrowpool.integrations.dask import events
from arrowpool.integrations.dask.deliveries import Deliveries
from arrowpool.integrations.dask.demand import NOTHING
from arrowpool.integrations.dask.dispatch import Dispatch
from arrowpool.integrations.dask.drawing import Drawing, OpenCall
from arrowpool.integrations.dask.errors import NodeError, NodeLostError
from arrowpool.integrations.dask.events import Batch, Item
from arrowpool.integrations.dask.links import Links
from arrowpool.integrations.dask.sealed import Sealed
from arrowpool.integrations.dask.sealer import Sealer
from arrowpool.integrations.dask.stats import Counts
from arrowpool.integrations.dask.steps import Outcome
from arrowpool.threads import Service, tell

_log = logging.getLogger(__name__)

#: How often Dask learns what waits here, and how long something waits before.
_WEIGH_SECONDS = 0.25
_MOMENT_SECONDS = 1.0


class Feeder(Service):
    """Runs until it gets a `Halt`, or no call can be answered, or it is closed and has no open call.

    Parameters
    ----------
    inbox : queue
        Calls and events.
    sealer, deliveries, open_calls, links
        Collaborators.
    retries : int
        How many times a task is run again after its node was lost.
    counts : Counts
        Counted here.
    broken : callable
        Gets the error for which no call can be answered.
    """

    def __init__(
        self,
        *,
        inbox: queue.SimpleQueue[Any],
        sealer: Sealer,
        deliveries: Deliveries,
        open_calls: OpenCalls,
        links: Links,
        retries: int,
        counts: Counts,
        broken: Callable[[BaseException], None],
    ):
        super().__init__("arrowpool-feeder")
        self._inbox = inbox
        self._sealer = sealer
        self._deliveries = deliveries
        self._open_calls = open_calls
        self._links = links
        self._retries = retries
        self._counts = counts
        self._broken = broken
        drawing = Drawing(
            sealer=sealer, deliveries=deliveries, open_calls=open_calls, look=lambda: inbox.put(events.Look())
        )
        self._dispatch = Dispatch(drawing, sealer)
        # For this thread only.
        self._calls: dict[int, OpenCall] = {}
        self._batches: dict[int, Batch] = {}
        self._closed = False
        self._halted = False
        #: What Dask knows of as waiting; since when something waits; and when to look again, as `time.monotonic` says.
        self._expected = NOTHING
        self._waits_since: float | None = None
        self._weigh_at = 0.0

    @property
    def processes(self) -> int:
        """Task processes of all nodes. From any thread."""
        return self._dispatch.processes

    def run(self) -> None:
        try:
            while not self._halted and not (self._closed and not self._calls):
                with contextlib.suppress(queue.Empty):
                    self._take(self._inbox.get(timeout=self._patience()))
                    while not self._halted:
                        self._take(self._inbox.get_nowait())
                if not self._halted:
                    self._send()
        except BaseException as error:
            self._broken(PoolTerminatedError(f"the pool cannot go on: {said(error)}"))
            raise
        finally:
            for state in self._calls.values():
                state.close()
            self._calls.clear()
            self._dispatch.clear()
            self._batches.clear()

    def _send(self) -> None:
        for state, batch in self._dispatch.batches():
            if batch is not None:
                self._batches[batch.number] = batch
                self._counts.batches += 1
                self._counts.sent_bytes += batch.nbytes
                self._links.send(batch)
            elif state.failure is not None:
                self._end(state.call.job, state.failure)
            else:
                self._finish(state)
        if time.monotonic() >= self._weigh_at:
            self._weigh()

    def _weigh(self) -> None:
        """Let Dask know what waits here. Not of what waits for a moment, unless there are no nodes."""
        now = time.monotonic()
        self._weigh_at = now + _WEIGH_SECONDS
        waiting = self._dispatch.waiting()
        if not waiting.tasks:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        if waiting.tasks and self._dispatch.has_nodes and now - (self._waits_since or now) < _MOMENT_SECONDS:
            return
        if waiting != self._expected:
            self._expected = waiting
            self._links.expect(waiting)

    def _patience(self) -> float | None:
        """Seconds until this looks again at what waits; None when there is nothing."""
        if not self._calls and not self._expected.tasks and self._waits_since is None:
            return None
        return max(0.0, self._weigh_at - time.monotonic())

    # Events

    def _take(self, event: Any) -> None:
        if isinstance(event, Call):
            self._open(event)
        elif type(event) is tuple:  # other code put a call into the standard library's queue
            self._open(queued_call(*event))
        else:
            handle = self._handlers.get(type(event))
            if handle is not None:
                handle(self, event)

    def _open(self, call: Call) -> None:
        state = OpenCall(call, self._sealer.adopt(call))
        if call.lazy:
            look = events.Look()
            call.source = Source(call.tasks, lambda _: self._inbox.put(look), lambda _: None, Recorder())
            call.tasks = call.source
            call.source.start()
        self._calls[call.job] = state
        self._dispatch.add(state)

    def _look(self, _: events.Look) -> None:
        """Only to go on."""

    def _halt(self, _: events.Halt) -> None:
        self._halted = True

    def _close(self, _: events.Close) -> None:
        self._closed = True
        self._dispatch.hurry()

    def _joined(self, event: events.NodeJoined) -> None:
        self._dispatch.join(event)

    def _runs(self, event: events.NodeRuns) -> None:
        self._dispatch.set_running(event.address, event.running)
        if not event.running:
            self._links.recall([batch for batch in self._batches.values() if batch.node == event.address])

    def _left(self, event: events.NodeLeft) -> None:
        self._counts.lost_nodes += 1
        self._dispatch.leave(event.address)

    def _unusable(self, event: events.NodeRefused | events.ClusterLost) -> None:
        if isinstance(event, events.ClusterLost) or not event.others:
            self._break(event.error)
        else:
            tell(_log.warning, "%s; the pool goes on with other nodes", event.error)

    def _break(self, error: BaseException) -> None:
        self._halted = True
        self._broken(error)

    def _settle(self, batch: Batch) -> OpenCall | None:
        """Note that a batch is over; return its call if that is open."""
        del self._batches[batch.number]
        self._dispatch.over(batch)
        state = self._calls.get(batch.call)
        if state is not None:
            state.pending -= len(batch.items) - batch.answered
        return state

    def _answered(self, event: events.Answered) -> None:
        batch, start, done = event
        items = batch.items[start : start + len(done.outcomes)]
        batch.answered = start + len(items)
        state = self._calls.get(batch.call)
        if batch.answered == len(batch.items):
            self._settle(batch)
        if state is None:
            return
        state.pending -= len(items)
        for item, outcome in zip(items, done.outcomes, strict=True):
            if isinstance(outcome.value, WorkerInitError):
                self._break(NodeError(batch.node, said(outcome.value, str)))
                return
            self._deliver(state, item, outcome)
        state.answered += len(items)
        mean = done.seconds / len(items)
        state.mean_seconds = mean if state.mean_seconds is None else (state.mean_seconds + mean) / 2
        self._finish(state)

    def _deliver(self, state: OpenCall, item: Item, outcome: Outcome) -> None:
        if isinstance(outcome.value, Sealed):
            state.result_bytes += outcome.value.nbytes
            self._counts.received_bytes += outcome.value.nbytes
        self._counts.tasks += 1
        self._deliveries.deliver(item, outcome)
        self._links.forget(self._sealer.settle(state.sealed, item))

    def _lose(self, state: OpenCall, item: Item, error: BaseException) -> None:
        self._deliveries.lose(item, error)
        self._links.forget(self._sealer.settle(state.sealed, item))

    def _returned(self, event: events.Returned) -> None:
        state = self._settle(event.batch)
        if state is not None:
            state.returned.extend(event.batch.items[event.batch.answered :])
            self._finish(state)

    def _gone(self, event: events.NodeGone) -> None:
        batch = event.batch
        state = self._settle(batch)
        if state is None:
            return
        for item in batch.items[batch.answered : batch.begun]:
            item.losses += 1
            if item.losses > self._retries:
                numbers = numbers_of(item.call, item.index, item.count, range(0))
                index = numbers[0] if numbers is not None and len(numbers) == 1 else None
                self._lose(state, item, NodeLostError(batch.node, describe(item), index, item.losses))
            else:
                state.returned.append(item)
        state.returned.extend(batch.items[batch.begun :])
        self._finish(state)

    def _failed(self, event: events.BatchFailed) -> None:
        batch, error = event
        state = self._settle(batch)
        if state is None:
            return
        for item in batch.items[batch.answered :]:
            failure = ArrowPoolError(f"Dask has not run {describe(item)} on node {batch.node}: {said(error)}")
            failure.__cause__ = error
            self._lose(state, item, failure)
        self._finish(state)

    def _cancelled(self, event: events.Cancelled) -> None:
        self._give_up(event.job, event.error or CancelledError())

    def _dropped(self, event: events.Dropped) -> None:
        result = self._open_calls.find(event.job)
        if result is not None:
            result.drop()
        if event.ends:
            self._give_up(event.job, CancelledError())

    def _released(self, event: events.Released) -> None:
        self._links.forget(self._sealer.release(event.blob))

    def _give_up(self, job: int, error: BaseException) -> None:
        """End a call whose results are not wanted any more."""
        state = self._calls.get(job)
        if state is not None:
            state.call.cancelled = True
            self._end(job, error)

    def _end(self, job: int, error: BaseException) -> None:
        state = self._calls.pop(job, None)
        if state is None:
            return
        state.close()
        self._forget(state)
        self._deliveries.end(job, error)
        if state.pending:
            self._links.cancel(job)

    def _finish(self, state: OpenCall) -> None:
        """End a call that has all its outcomes."""
        if state.exhausted and not state.pending and not state.returned and state.call.job in self._calls:
            del self._calls[state.call.job]
            self._forget(state)

    def _forget(self, state: OpenCall) -> None:
        self._dispatch.remove(state)
        self._links.forget(self._sealer.end(state.sealed))

    _handlers: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        events.Look: _look,
        events.Halt: _halt,
        events.Close: _close,
        events.NodeJoined: _joined,
        events.NodeRuns: _runs,
        events.NodeLeft: _left,
        events.NodeRefused: _unusable,
        events.ClusterLost: _unusable,
        events.Answered: _answered,
        events.Returned: _returned,
        events.NodeGone: _gone,
        events.BatchFailed: _failed,
        events.Cancelled: _cancelled,
        events.Dropped: _dropped,
        events.Released: _released,
    }
