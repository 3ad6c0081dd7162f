"""What the feeder does at each event. Used in the feeder's thread."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, ClassVar

from arrowpool.engine import events
from arrowpool.engine.backlog import Backlog
from arrowpool.engine.calls import Call, Share, queued_call
from arrowpool.engine.encoder import Encoder
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.recall import Recall, Recalled
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.settlement import Settlement
from arrowpool.engine.source import Source
from arrowpool.engine.throttle import Throttle
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError, contained
from arrowpool.memory.limits import is_tight
from arrowpool.transport.sender import Sender
from arrowpool.tuning import WARM_SECONDS


class FeederEvents:
    """Handles events; sends nothing itself.

    Parameters
    ----------
    encoder : Encoder
        Has the books of what calls refer to.
    turns : Turns
        The running calls.
    backlog : Backlog
        Gets tasks that come back, and draws on sources.
    throttle : Throttle
        Opened when the pool is closed.
    settlement : Settlement
        Finishes calls.
    recall : Recall
        Takes tasks back from workers.
    reclaim : Reclaim
        Frees memory.
    sender : Sender
        Has the books of the workers' leases.
    workers : list of WorkerHandle
        The workers that are ready. Changed here only.
    drawn : callable
        Called in the thread of a call's source, with the job and whether nothing more is drawn now, when the source has tasks.
    metrics : Metrics
        Learns when calls begin, and the time of users' iterators.
    recorder : Recorder
        For the sources.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        turns: Turns,
        backlog: Backlog,
        throttle: Throttle,
        settlement: Settlement,
        recall: Recall,
        reclaim: Reclaim,
        sender: Sender,
        workers: list[WorkerHandle],
        drawn: Callable[[int, bool], None],
        metrics: Metrics,
        recorder: Recorder,
    ):
        self._encoder = encoder
        self._turns = turns
        self._backlog = backlog
        self._throttle = throttle
        self._settlement = settlement
        self._recall = recall
        self._reclaim = reclaim
        self._sender = sender
        self._workers = workers
        self._source_has_drawn = drawn
        self._metrics = metrics
        self._recorder = recorder
        #: Whether the feeder has to end. For the feeder's thread only.
        self.ended = False
        #: When the pool was first seen without work; None while there is work. For the feeder's thread only.
        self._idle_since: float | None = None

    def handle(self, event: Any) -> None:
        """Do what an event asks for.

        Raises
        ------
        TypeError
            For anything but an event for the feeder.
        """
        self._handlers[type(event)](self, event)

    def take_back(self) -> None:
        """Take back tasks that wait in a worker behind a long one."""
        self._act_on(self._recall.look())

    # Calls

    def _begin(self, call: Call) -> None:
        self._encoder.adopt(call)
        self._idle_since = None
        if call.lazy:
            drawn = functools.partial(self._source_has_drawn, call.job)
            source = Source(call.tasks, drawn, self._metrics.drew, self._recorder)
            if source.try_start():  # otherwise its tasks are drawn here
                call.tasks = call.source = source
        self._turns.add(call)
        self._metrics.busy.start()
        self._backlog.draw_on(call)

    def _begin_queued(self, queued: tuple[Any, Any]) -> None:
        self._begin(queued_call(*queued))

    def _drawn(self, event: events.Drawn) -> None:
        self._turns.drawn(event.job)

    def _read(self, event: events.Read) -> None:
        self._throttle.were_read()
        self._turns.release(event.job)
        call = self._turns.find(event.job)
        if call is not None:
            self._backlog.draw_on(call)

    def _hurry(self, _: events.Hurry) -> None:
        self._throttle.open()
        self._turns.release_all()
        for call in self._turns.calls():
            self._backlog.draw_on(call)

    def _returned(self, event: events.Returned) -> None:
        self._backlog.give_back(event.tasks)

    def _cancel(self, event: events.Cancelled) -> None:
        """Do no more of a call: drop its waiting tasks, take back what was sent, interrupt what runs."""
        call = self._turns.find(event.job)
        if call is None:
            return
        call.cancelled = True
        self._turns.exhausted(call)
        if call.pending:
            self._backlog.drop(call)
            if call.pending:
                self._act_on(self._recall.cancel(call))
        self._settlement.finish(call)

    def _act_on(self, recalled: Recalled) -> None:
        for worker, number in recalled.interrupts:
            worker.interrupt(number)
        self._backlog.give_back(recalled.tasks)

    # Objects that users share

    def _place_share(self, share: Share) -> None:
        try:
            share.blob = self._encoder.pin(share.obj)
        except BaseException as error:
            self._metrics.shares_refused += isinstance(error, ArenaFullError)
            share.placed.set_exception(contained(error, "pickling it"))
        else:
            share.placed.set_result(None)

    def _unshare(self, event: events.Unshare) -> None:
        if event.share.blob is not None:
            self._settlement.forget(self._encoder.unpin(event.share.blob))

    # Workers

    def _worker_joined(self, event: events.WorkerJoined) -> None:
        worker = event.worker
        worker.ready = True
        self._metrics.worker_is_ready()
        # Only if all workers can read it.
        self._sender.lends = worker.may_borrow and (self._sender.lends or not self._workers)
        self._sender.consumer_joined(worker)
        self._workers.append(worker)

    def _worker_exited(self, event: events.WorkerExited) -> None:
        worker = event.worker
        if worker in self._workers:
            self._workers.remove(worker)
            self._sender.reap(worker, worker.control.released_by_worker)
            self._sender.consumer_lost(worker, event.descendants)
        # These tasks were sent after the collector had buried the worker, which has not read them.
        self._backlog.give_back(list(worker.outstanding.values()))
        worker.outstanding.clear()

    # Memory

    def _help(self, event: events.Short) -> None:
        self._reclaim.help(event.worker)

    def _released(self, _: events.Released) -> None:
        if is_tight():
            self._reclaim.trim_all()

    def _look_again(self, _: events.LookAgain) -> None:
        self._reclaim.reap()

    def _late(self, _: events.Late) -> None:
        """No event came for a while: free what was released, and after a longer while trim."""
        self._reclaim.reap()
        now = time.monotonic()
        if self._turns or any(worker.outstanding for worker in self._workers):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= WARM_SECONDS:
            self._reclaim.trim()

    # The feeder's thread

    def _answered(self, _: events.Answered) -> None:
        """Answers are settled after any event."""

    def _stop(self, _: events.Stop) -> None:
        self.ended = True

    _handlers: ClassVar[events.Handlers] = events.Handlers(
        "feeder",
        {
            Call: _begin,
            tuple: _begin_queued,
            events.Drawn: _drawn,
            events.Read: _read,
            events.Hurry: _hurry,
            events.Returned: _returned,
            events.Cancelled: _cancel,
            Share: _place_share,
            events.Unshare: _unshare,
            events.WorkerJoined: _worker_joined,
            events.WorkerExited: _worker_exited,
            events.Short: _help,
            events.Released: _released,
            events.LookAgain: _look_again,
            events.Late: _late,
            events.Answered: _answered,
            events.Stop: _stop,
        },
    )
