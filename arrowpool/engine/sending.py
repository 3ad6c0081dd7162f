"""The feeder's work after its events: send to free workers, encode ahead, and rest.

The feeder does it, or a thread that stands in for the sleeping feeder (see `mailbox`): that of a source, which has a task to send, or
the collector, which settles what it has answered.
"""

from __future__ import annotations

import time

from arrowpool.engine.backlog import Backlog
from arrowpool.engine.dispatcher import Dispatcher
from arrowpool.engine.events import Answered, Drawn
from arrowpool.engine.mailbox import Mailbox
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.recall import Recall
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.settlement import Settlement
from arrowpool.memory.lifecycle import LifecycleManager
from arrowpool.transport.sender import Sender
from arrowpool.tuning import IDLE_SECONDS, RECALL_SECONDS

#: Interval for looking again while a task waits for memory: a lease that ends in a garbage collection has no event.
_LOOK_AGAIN_SECONDS = 0.02


class Sending:
    """Sends what can be sent, and says how long the feeder may sleep after that.

    Parameters
    ----------
    mailbox : Mailbox
        The feeder's: learns what may end the rest.
    settlement : Settlement
        Settles answered tasks, before free workers are looked for.
    turns : Turns
        The running calls.
    dispatcher : Dispatcher
        Sends, and has tasks encoded ahead.
    backlog : Backlog
        Says whether there is something left to send.
    recall : Recall
        Says whether it has something to look at.
    lifecycle : LifecycleManager
        Says whether there are segments that may be released.
    sender : Sender
        Says whether there is memory to trim.
    metrics : Metrics
        Gets the time for which a source stands in.
    """

    def __init__(
        self,
        *,
        mailbox: Mailbox,
        settlement: Settlement,
        turns: Turns,
        dispatcher: Dispatcher,
        backlog: Backlog,
        recall: Recall,
        lifecycle: LifecycleManager,
        sender: Sender,
        metrics: Metrics,
    ):
        self._mailbox = mailbox
        self._settlement = settlement
        self._turns = turns
        self._dispatcher = dispatcher
        self._backlog = backlog
        self._recall = recall
        self._lifecycle = lifecycle
        self._sender = sender
        self._metrics = metrics

    def run(self) -> None:
        """Send and encode what there is, then rest. In the feeder's thread."""
        self._dispatcher.run()
        self._mailbox.rest(bool(self._backlog), self._patience(), self._backlog.waits)

    def stand_in(self, job: int, last: bool) -> None:
        """The source of this job has tasks. In the source's thread.

        The source sends a single task itself while the feeder sleeps: to wake another thread for each task would cost more than the
        task. When more tasks follow (not `last`), they are drawn while the feeder wakes up.
        """
        mailbox = self._mailbox
        if not last or not mailbox.stand_in():
            mailbox.put(Drawn(job))
            return
        began = time.monotonic()
        try:
            self._turns.drawn(job)
            self._settlement.settle_answered()
            self._dispatcher.run()
            mailbox.rest_as_stand_in(bool(self._backlog), self._patience(), self._backlog.waits)
            # A call may have become exhausted since: its last answer came before that, and so did not wake the feeder.
            self._settlement.settle_answered()
        except BaseException as error:
            mailbox.fail(error)
        finally:
            self._metrics.acting += time.monotonic() - began
            mailbox.stand_down()

    def settle(self) -> None:
        """Settle what was answered, with nothing to send. In the collector's thread, if the feeder sleeps; else the feeder does it."""
        mailbox = self._mailbox
        if not mailbox.stand_in():
            mailbox.put(Answered())
            return
        try:
            self._settlement.settle_answered()
        except BaseException as error:
            mailbox.fail(error)
        finally:
            mailbox.stand_down()

    def _patience(self) -> float | None:
        """Maximum number of seconds to sleep; None for no limit."""
        if self._backlog.waits:
            return _LOOK_AGAIN_SECONDS
        if self._recall.is_pending():
            return RECALL_SECONDS
        return IDLE_SECONDS if self._lifecycle.live or self._sender.resident else None
