"""The feeder: the thread that turns calls into tasks in workers' pipes.

    inbox --> Mailbox --> Feeder --> Dispatcher --> Backlog: the next task, encoded
                                                --> Delivery: a frame to a worker

It encodes arguments and keeps the books of their arena, in one thread at a time: its own, or while that sleeps, the thread of a
source that has a task to send (see `mailbox`). All parts that the feeder is made of are used by that thread alone, unless they
say otherwise.

Tasks are bound to a worker as late as possible. Some are encoded ahead, but none is sent behind a running task, except where
tasks are measured to be short and go several to a frame; those are taken back when the task before them turns out long (see
`recall`). Bytes in flight stay within the budget: then the feeder waits for releases, and so a user's generator is consumed only
as fast as workers make room. No user's iterator is drawn in this thread (see `source`), except in a call that other code queued
in the standard library's form. Other than that, the only code of the user's that runs in it is what pickling an argument calls.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import util
from typing import Any, ClassVar

from arrowpool.engine import events
from arrowpool.engine.backlog import Backlog
from arrowpool.engine.budget import Budget
from arrowpool.engine.calls import Call, Share, Task, queued_call
from arrowpool.engine.delivery import Delivery
from arrowpool.engine.dispatcher import Dispatcher
from arrowpool.engine.encoder import Encoder
from arrowpool.engine.mailbox import Mailbox
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.recall import Recall, Recalled
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.settlement import Settlement
from arrowpool.engine.snapshot import Snapshots
from arrowpool.engine.source import Source
from arrowpool.engine.state import PoolState
from arrowpool.engine.throttle import Throttle
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import PoolTerminatedError, contained, said
from arrowpool.memory.limits import is_tight
from arrowpool.threads import Service
from arrowpool.transport.sender import Sender
from arrowpool.tuning import IDLE_SECONDS, RECALL_SECONDS, WARM_SECONDS

#: How often to look again while a task waits for memory: a lease that ends in a garbage collection has no event.
_LOOK_AGAIN_SECONDS = 0.02


class Feeder(Service):
    """Runs until it gets a `Stop`, which comes after the last call is answered, or when the pool is terminated.

    Parameters
    ----------
    inbox : queue.SimpleQueue
        `Call` objects, events, and calls in the standard library's form, ``(tasks, set_length or None)``.
    tell_collector : callable
        Passes events on to the collector.
    cache : dict
        Result objects of running calls by job number.
    sender : Sender
        Encodes arguments into the parent's arena. This thread's own from here on.
    budget : int
        Bytes of segments in flight at a time.
    one_by_one : bool
        Whether no task may wait in a worker behind another one.
    has_ended : callable
        Called with None at the end of this thread.
    metrics : Metrics
        What is counted and measured.
    state : PoolState
        Noted there: that this thread sends nothing any more.
    """

    def __init__(
        self,
        inbox: queue.SimpleQueue[Any],
        tell_collector: Callable[[Any], None],
        cache: dict[int, Any],
        sender: Sender,
        budget: int,
        one_by_one: bool,
        has_ended: Callable[[None], None],
        metrics: Metrics,
        state: PoolState,
    ):
        super().__init__("arrowpool-feeder")
        self._inbox = inbox
        self._tell_collector = tell_collector
        self._sender = sender
        self._has_ended = has_ended
        self._state = state
        #: The workers that are up. Whoever works appends and removes; other threads take a copy, which is atomic.
        self._workers: list[WorkerHandle] = []
        ahead: deque[Task] = deque()
        self._mailbox = Mailbox(inbox)
        self._reclaim = Reclaim(sender, self._workers)
        self._budget = Budget(budget, sender.lifecycle, self._reclaim, self._workers, ahead)
        #: Takes single calls, in their callers' threads.
        self.snapshots = Snapshots(sender)
        self._encoder = Encoder(sender, self._budget, self._reclaim, metrics, self.snapshots)
        self._throttle = Throttle(budget, cache, inbox)
        self._turns = Turns(self._throttle.holds_back)
        self._settlement = Settlement(self._mailbox, self._encoder, self._turns, self._workers)
        self._backlog = Backlog(
            ahead=ahead,
            turns=self._turns,
            encoder=self._encoder,
            budget=self._budget,
            reclaim=self._reclaim,
            settlement=self._settlement,
            throttle=self._throttle,
            workers=self._workers,
            limit=budget,
            tell_collector=tell_collector,
        )
        self._delivery = Delivery(sender, self._reclaim)
        self._dispatcher = Dispatcher(
            limit=budget,
            one_by_one=one_by_one,
            workers=self._workers,
            backlog=self._backlog,
            turns=self._turns,
            delivery=self._delivery,
            settlement=self._settlement,
            mailbox=self._mailbox,
            tell_collector=tell_collector,
        )
        self._recall = Recall(self._workers)
        #: Whether this thread ends. Its own.
        self._ended = False
        #: When there was first seen to be no work; None while there is some. Whoever works writes and reads it.
        self._idle_since: float | None = None

    def __repr__(self) -> str:
        return (
            f"<Feeder workers: {len(self._workers)} | calls: {len(self._turns)} | {self._backlog!r} | "
            f"{self._sender.lifecycle!r}>"
        )

    # From any thread

    @property
    def sender(self) -> Sender:
        return self._sender

    @property
    def workers(self) -> list[WorkerHandle]:
        """The workers that are up."""
        return list(self._workers)

    @property
    def piped_bytes(self) -> int:
        """Bytes that were sent through pipes."""
        return self._delivery.piped_bytes

    def answered(self, tasks: list[Task]) -> None:
        """These tasks have their results. From the collector's thread."""
        self._mailbox.answered(tasks)

    def end(self) -> None:
        """End: there will be no more calls, and all are answered."""
        self._mailbox.put(events.Stop(drain=True))

    def halt(self) -> None:
        """Send nothing more, and end. Also in a finalizer."""
        self._mailbox.put(events.Stop(drain=False))

    def wake(self) -> None:
        """Look again: at the workers, one of which may be used again, and at what they have released."""
        self._mailbox.put(events.LookAgain())

    def hurry(self) -> None:
        """The pool is closed: results may pile up, since its user may read them only after its end."""
        self._mailbox.put(events.Hurry())

    def refuse(self) -> None:
        """This thread has ended, or is given up: fail what came too late to be placed."""
        self._state.sends_no_more = True
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if isinstance(event, Share):
                    event.placed.set_exception(PoolTerminatedError("the pool has ended"))

    # The loop

    def run(self) -> None:
        try:
            while not self._ended:
                event = self._mailbox.wait()
                with self._mailbox.working:
                    self._go_on(event)
        except BaseException as error:
            self._tell_collector(events.Broken(PoolTerminatedError(f"the pool cannot go on: {said(error)}")))
            raise
        finally:
            util.debug("feeder exiting")
            with self._mailbox.working:
                self._let_go()
            self.refuse()
            self._has_ended(None)

    def _go_on(self, event: Any) -> None:
        """Take this event and all that are there; send and encode what there is."""
        self._mailbox.begin()
        self._handle(event)
        self._settlement.settle_answered()
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(self._mailbox.next())
        if not self._ended:
            self._act_on(self._recall.look())
            self._dispatcher.run()
            self._mailbox.rest(bool(self._backlog), self._patience())

    def _let_go(self) -> None:
        for call in self._turns.calls():
            self._turns.exhausted(call)
            self._turns.over(call)
        self._backlog.clear()
        self._workers.clear()
        self._mailbox.answers.clear()

    def _patience(self) -> float | None:
        """Seconds to sleep at most; None for no limit."""
        if self._backlog.waits:
            return _LOOK_AGAIN_SECONDS
        if self._recall.is_pending():
            return RECALL_SECONDS
        return IDLE_SECONDS if self._sender.lifecycle.live or self._sender.resident else None

    def _was_drawn(self, job: int, last: bool) -> None:
        """A source has tasks. In its thread.

        It sends a single task itself while the feeder sleeps: to wake another thread for each task would cost more than the
        task. Of several tasks, more are drawn while the feeder wakes up.
        """
        mailbox = self._mailbox
        if not last or not mailbox.stand_in():
            mailbox.put(events.Drawn(job))
            return
        try:
            self._turns.drawn(job)
            self._settlement.settle_answered()
            self._dispatcher.run()
            mailbox.rest_as_stand_in(bool(self._backlog), self._patience())
            # A call may have become exhausted since, whose last answer came before that and so woke nobody.
            self._settlement.settle_answered()
        except BaseException as error:
            mailbox.fail(error)
        finally:
            mailbox.stand_down()

    # Events

    def _handle(self, event: Any) -> None:
        """Do what an event asks for.

        Raises
        ------
        TypeError
            For anything but an event for the feeder.
        """
        self._handlers[type(event)](self, event)

    def _begin(self, call: Call) -> None:
        self._encoder.adopt(call)
        self._idle_since = None
        if call.lazy:
            source = Source(call.tasks, functools.partial(self._was_drawn, call.job), self)
            if source.try_start():  # otherwise its tasks are drawn here
                call.tasks = call.source = source
        self._turns.add(call)
        self._backlog.draw_on(call)

    def _begin_queued(self, queued: tuple[Any, Any]) -> None:
        self._begin(queued_call(*queued))

    def _drawn(self, event: events.Drawn) -> None:
        self._turns.drawn(event.job)

    def _read(self, event: events.Read) -> None:
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
        """Do no more of a call: drop what is left of it, take back what was sent, interrupt what runs."""
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

    def _place_share(self, share: Share) -> None:
        try:
            share.blob = self._encoder.pin(share.obj)
        except BaseException as error:
            share.placed.set_exception(contained(error, "pickling it"))
        else:
            share.placed.set_result(None)

    def _unshare(self, event: events.Unshare) -> None:
        if event.share.blob is not None:
            self._settlement.forget(self._encoder.unpin(event.share.blob))

    def _worker_joined(self, event: events.WorkerJoined) -> None:
        worker = event.worker
        worker.ready = True
        # Only if all workers can read it.
        self._sender.lends = worker.may_borrow and (self._sender.lends or not self._workers)
        self._sender.consumer_joined(worker)
        self._workers.append(worker)

    def _worker_exited(self, event: events.WorkerExited) -> None:
        worker = event.worker
        if worker in self._workers:
            self._workers.remove(worker)
            self._sender.consumer_lost(worker)
        # Sent after the collector had buried it: not read by anyone.
        self._backlog.give_back(list(worker.outstanding.values()))
        worker.outstanding.clear()

    def _help(self, event: events.Short) -> None:
        self._reclaim.help(event.worker)

    def _released(self, _: events.Released) -> None:
        if is_tight():
            self._reclaim.trim_all()

    def _look_again(self, _: events.LookAgain) -> None:
        self._reclaim.reap()

    def _late(self, _: events.Late) -> None:
        """Nothing came for a while: free what was released, and after a longer while trim."""
        self._reclaim.reap()
        now = time.monotonic()
        if self._turns or any(worker.outstanding for worker in self._workers):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= WARM_SECONDS:
            self._reclaim.trim()

    def _answered(self, _: events.Answered) -> None:
        """Answers are settled after any event."""

    def _stop(self, _: events.Stop) -> None:
        self._ended = True

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
