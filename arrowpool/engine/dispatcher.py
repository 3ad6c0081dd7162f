"""The dispatcher: gives tasks to free workers, as late as possible, and has tasks encoded ahead in the remaining time.

Used by the acting thread (see `mailbox`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arrowpool.engine.backlog import Backlog
from arrowpool.engine.calls import Call, Task
from arrowpool.engine.delivery import Delivery
from arrowpool.engine.events import Failed
from arrowpool.engine.mailbox import Mailbox
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.scheduling import ahead_size, frame_size, free_worker
from arrowpool.engine.settlement import Settlement
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError
from arrowpool.tuning import PREFETCH_SECONDS


class Dispatcher:
    """Sends while a worker is free.

    Parameters
    ----------
    limit : int
        Maximum number of bytes of the results that frames in flight may have.
    one_by_one : bool
        Whether no task may wait in a worker behind another one.
    workers : list of WorkerHandle
        The workers that are ready. The feeder's list.
    backlog : Backlog
        Gives the next tasks.
    turns : Turns
        Learns which call has given tasks.
    delivery : Delivery
        Sends them.
    settlement : Settlement
        Ends tasks that cannot be sent.
    mailbox : Mailbox
        The feeder's. Any event may change which task comes next, so events are handled first.
    tell_collector : callable
        Gets a `Failed` for each task that cannot be sent.
    """

    def __init__(
        self,
        *,
        limit: int,
        one_by_one: bool,
        workers: list[WorkerHandle],
        backlog: Backlog,
        turns: Turns,
        delivery: Delivery,
        settlement: Settlement,
        mailbox: Mailbox,
        tell_collector: Callable[[Any], None],
    ):
        self._limit = limit
        self._one_by_one = one_by_one
        self._workers = workers
        self._backlog = backlog
        self._turns = turns
        self._delivery = delivery
        self._settlement = settlement
        self._mailbox = mailbox
        self._tell_collector = tell_collector

    def run(self) -> None:
        """Send while a worker is free, then encode ahead, until there is an event."""
        backlog, mailbox = self._backlog, self._mailbox
        while True:
            worker = free_worker(self._workers, queue_behind=self._may_queue(backlog.call()))
            if worker is None:
                break
            first = backlog.peek()
            if first is None:
                return
            self._send(worker, backlog.take(self._size(first, worker)))
            self._turns.took(first.call)
            if not mailbox.is_empty():
                return
        while mailbox.is_empty():
            call = self._turns.next()
            least = len(self._workers)
            if not backlog.encode_ahead(least if call is None else self._ahead_size(call), least):
                return

    def _send(self, worker: WorkerHandle, tasks: list[Task]) -> None:
        try:
            self._delivery.send(worker, tasks)
        except ArenaFullError as error:
            if len(tasks) > 1:  # there may be memory, or leases, for some of them
                for task in tasks:
                    self._send(worker, [task])
                return
            self._tell_collector(Failed(tasks[0].call, tasks[0].index, error, tasks[0].count))
            self._settlement.settle(tasks[0])

    def _size(self, first: Task, worker: WorkerHandle) -> int:
        """How many tasks to send in one frame that begins with this one."""
        if self._one_by_one:
            return 1
        return frame_size(first, worker, len(self._workers), self._limit)

    def _ahead_size(self, call: Call) -> int:
        """How many tasks of a call to encode ahead."""
        worker_count = len(self._workers)
        return worker_count if self._one_by_one else ahead_size(call, worker_count, self._limit)

    def _may_queue(self, call: Call | None) -> bool:
        """Whether a task of this call may wait in a worker behind another one: if its tasks are short."""
        if self._one_by_one or call is None or call.mean_seconds is None:
            return False
        return call.mean_seconds < PREFETCH_SECONDS
