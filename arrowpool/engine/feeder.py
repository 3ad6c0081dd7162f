"""The feeder: the thread that turns calls into tasks in workers' pipes.

    inbox --> Mailbox --> Feeder --> FeederEvents: what each event changes
                                 --> Sending --> Dispatcher --> Backlog: the next task, encoded
                                                            --> Delivery: a frame to a worker

One thread at a time encodes arguments and keeps the books of their arena: the feeder, or, while the feeder sleeps, the thread of a
source that has a task to send, or the collector at the end of a call (see `mailbox`). `parts` puts the parts together.

Tasks are bound to a worker as late as possible. Some are encoded ahead. None is sent behind a running task, except where tasks
are measured to be short and go several to a frame; those are taken back when the task before them turns out long (see `recall`).
Bytes in flight stay within the budget: the feeder waits for releases, so a user's generator is consumed only as fast as workers
make room.

User code in this thread: what pickling an argument calls, and the iterator of a call that other code queued in the standard
library's form. Other iterators are drawn in threads of their own (see `source`).
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from multiprocessing import util
from typing import Any

from arrowpool.engine import events
from arrowpool.engine.calls import Share, Task
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.parts import Parts
from arrowpool.engine.state import PoolState
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import PoolTerminatedError, said
from arrowpool.threads import Service


class Feeder(Service):
    """Runs until it gets a `Stop`, which comes after the last call is answered, or when the pool is terminated.

    Parameters
    ----------
    parts : Parts
        The parts of this thread's work. Its own from here on.
    tell_collector : callable
        Passes events on to the collector.
    has_ended : callable
        Called at the end of this thread.
    state : PoolState
        Noted there: that this thread sends no more.
    metrics : Metrics
        Gets the time for which this thread works.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        tell_collector: Callable[[Any], None],
        has_ended: Callable[[], None],
        state: PoolState,
        metrics: Metrics,
    ):
        super().__init__("arrowpool-feeder")
        self.parts = parts
        self._tell_collector = tell_collector
        self._has_ended = has_ended
        self._state = state
        self._metrics = metrics
        self._mailbox = parts.mailbox
        self._events = parts.events
        self._settlement = parts.settlement
        self._sending = parts.sending
        self._turns = parts.turns
        self._backlog = parts.backlog
        self._workers = parts.workers
        self._budget = parts.budget
        self._recorder = parts.recorder

    def __repr__(self) -> str:
        return (
            f"<Feeder workers: {len(self._workers)} | calls: {len(self._turns)} | {self._backlog!r} | "
            f"{self._mailbox!r} | {self._budget!r}>"
        )

    # From any thread

    @property
    def workers(self) -> list[WorkerHandle]:
        """The workers that are ready."""
        return list(self._workers)

    def answered(self, tasks: list[Task], frees_worker: bool) -> None:
        """These tasks have their results. From the collector's thread.

        `frees_worker` says whether their worker may get more tasks now.
        """
        if self._mailbox.answered(tasks, frees_worker):
            self._sending.settle()

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
                event = self._mailbox.next()
                if isinstance(event, Share):
                    event.placed.set_exception(PoolTerminatedError("the pool has ended"))

    # The loop

    def run(self) -> None:
        try:
            while not self._events.ended:
                self._turn()
        except BaseException as error:
            self._tell_collector(events.Broken(PoolTerminatedError(f"the pool cannot go on: {said(error)}")))
            raise
        finally:
            util.debug("feeder exiting")
            with self._mailbox.working:
                self._let_go()
            self.refuse()
            self._has_ended()

    def _turn(self) -> None:
        # A method, so that the event, and the user's objects in it, do not stay in a variable during the next wait.
        wait = self._recorder.wait_begins(self._mailbox.waited_for)
        event = self._mailbox.wait()
        self._recorder.wait_ends(wait)
        with self._mailbox.working:
            began = time.monotonic()
            self._go_on(event)
            self._metrics.acting += time.monotonic() - began

    def _go_on(self, event: Any) -> None:
        """Handle this event and all others that have arrived, then send and encode what there is."""
        self._mailbox.begin()
        self._events.handle(event)
        self._settlement.settle_answered()
        with contextlib.suppress(queue.Empty):
            while True:
                self._events.handle(self._mailbox.next())
        if not self._events.ended:
            self._events.take_back()
            self._sending.run()

    def _let_go(self) -> None:
        self._turns.clear()
        self._settlement.rest()
        self._backlog.clear()
        self._workers.clear()
        self._mailbox.clear()
