"""The parts of the feeder's work: which there are, and which part gets which.

*The acting thread* (see `mailbox`) alone uses them, unless a part says otherwise.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arrowpool.engine.backlog import Backlog
from arrowpool.engine.budget import Budget
from arrowpool.engine.calls import Task
from arrowpool.engine.delivery import Delivery
from arrowpool.engine.dispatcher import Dispatcher
from arrowpool.engine.encoder import Encoder
from arrowpool.engine.feeder_events import FeederEvents
from arrowpool.engine.mailbox import Mailbox
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.placing import Placing
from arrowpool.engine.recall import Recall
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.sending import Sending
from arrowpool.engine.settlement import Settlement
from arrowpool.engine.snapshot import Snapshots
from arrowpool.engine.throttle import Throttle
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.transport.sender import Sender


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Parts:
    """The parts, each described in its class."""

    sender: Sender
    #: The workers that are ready. The acting thread appends and removes. Other threads read a copy (`list`), which is one atomic
    #: operation, with and without the GIL.
    workers: list[WorkerHandle]
    mailbox: Mailbox
    reclaim: Reclaim
    budget: Budget
    #: Also used by the threads that make calls.
    snapshots: Snapshots
    encoder: Encoder
    throttle: Throttle
    turns: Turns
    settlement: Settlement
    backlog: Backlog
    delivery: Delivery
    dispatcher: Dispatcher
    recall: Recall
    sending: Sending
    events: FeederEvents
    #: Also used by all other threads of the pool.
    recorder: Recorder


def assemble(
    *,
    inbox: queue.SimpleQueue[Any],
    tell_collector: Callable[[Any], None],
    cache: dict[int, Any],
    sender: Sender,
    budget: int,
    one_by_one: bool,
    workers: list[WorkerHandle],
    metrics: Metrics,
    rested: Callable[[], None],
    recorder: Recorder,
) -> Parts:
    """Make the parts.

    Parameters
    ----------
    inbox : queue.SimpleQueue
        `Call` objects, events, and calls in the standard library's form, ``(tasks, set_length or None)``. Any thread puts into it.
    tell_collector : callable
        Passes events on to the collector.
    cache : dict
        Result objects of running calls by job number.
    sender : Sender
        Encodes arguments into the parent's arena.
    budget : int
        Bytes of segments in flight at a time.
    one_by_one : bool
        Whether no task may wait in a worker behind another one.
    workers : list of WorkerHandle
        The workers that are ready: see `Parts`. Empty.
    metrics : Metrics
        Gets counts, bytes and times.
    rested : callable
        Called when no call is left.
    recorder : Recorder
        Has the tape of the trace that is open.
    """
    ahead: deque[Task] = deque()
    mailbox = Mailbox(inbox)
    reclaim = Reclaim(sender, workers)
    in_flight = Budget(budget, sender.lifecycle, reclaim, workers, ahead)
    snapshots = Snapshots(sender, recorder)
    encoder = Encoder(sender, in_flight, reclaim, metrics, snapshots, Placing(sender, recorder))
    throttle = Throttle(budget, cache, inbox, metrics.held_back)
    turns = Turns(throttle.holds_back)
    settlement = Settlement(mailbox, encoder, turns, workers, rested)
    backlog = Backlog(
        ahead=ahead,
        turns=turns,
        encoder=encoder,
        budget=in_flight,
        reclaim=reclaim,
        settlement=settlement,
        throttle=throttle,
        workers=workers,
        limit=budget,
        tell_collector=tell_collector,
    )
    delivery = Delivery(sender, reclaim, metrics, recorder)
    dispatcher = Dispatcher(
        limit=budget,
        one_by_one=one_by_one,
        workers=workers,
        backlog=backlog,
        turns=turns,
        delivery=delivery,
        settlement=settlement,
        mailbox=mailbox,
        tell_collector=tell_collector,
    )
    recall = Recall(workers)
    sending = Sending(
        mailbox=mailbox,
        settlement=settlement,
        turns=turns,
        dispatcher=dispatcher,
        backlog=backlog,
        recall=recall,
        lifecycle=sender.lifecycle,
        sender=sender,
        metrics=metrics,
    )
    events = FeederEvents(
        encoder=encoder,
        turns=turns,
        backlog=backlog,
        throttle=throttle,
        settlement=settlement,
        recall=recall,
        reclaim=reclaim,
        sender=sender,
        workers=workers,
        drawn=sending.stand_in,
        metrics=metrics,
        recorder=recorder,
    )
    return Parts(
        sender=sender,
        workers=workers,
        mailbox=mailbox,
        reclaim=reclaim,
        budget=in_flight,
        snapshots=snapshots,
        encoder=encoder,
        throttle=throttle,
        turns=turns,
        settlement=settlement,
        backlog=backlog,
        delivery=delivery,
        dispatcher=dispatcher,
        recall=recall,
        sending=sending,
        events=events,
        recorder=recorder,
    )
