"""Settling tasks and calls at their end: their memory is released. Used by the acting thread (see `mailbox`)."""

from __future__ import annotations

from collections.abc import Callable

from arrowpool.engine.calls import Blob, Call, Task
from arrowpool.engine.encoder import Encoder
from arrowpool.engine.mailbox import Mailbox
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.worker_handle import WorkerHandle


class Settlement:
    """Settles tasks and finishes calls.

    Parameters
    ----------
    mailbox : Mailbox
        Has the tasks whose results have arrived.
    encoder : Encoder
        Releases segments and blobs of tasks and calls.
    turns : Turns
        The running calls.
    workers : list of WorkerHandle
        The workers that are ready. The feeder's list.
    rested : callable
        Called when no call is left.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        encoder: Encoder,
        turns: Turns,
        workers: list[WorkerHandle],
        rested: Callable[[], None],
    ):
        self._mailbox = mailbox
        self._encoder = encoder
        self._turns = turns
        self._workers = workers
        self._rested = rested

    def settle_answered(self) -> None:
        """Settle all tasks whose results have arrived, before free workers are looked for."""
        while (task := self._mailbox.take()) is not None:
            self.settle(task)

    def settle_early(self) -> None:
        """As `settle_answered`, while tasks are encoded: before memory is needed."""
        if self._mailbox.answers:
            while (task := self._mailbox.take_early()) is not None:
                self.settle(task)

    def settle(self, task: Task) -> None:
        """End a task: release its memory, and that of its call if it was the last task."""
        if self._encoder.holds(task):
            self.forget(self._encoder.settled(task))
        call = task.call
        call.pending -= 1
        if call.exhausted:
            self.finish(call)

    def finish(self, call: Call) -> None:
        """End a call if none of its tasks is to come or under way: release its memory."""
        if call.exhausted and not call.pending:
            self._turns.over(call)
            self.forget(self._encoder.finish(call))
            if not self._turns:
                self.rest()

    def rest(self) -> None:
        """Note that no call is left."""
        self._rested()

    def forget(self, blobs: list[Blob]) -> None:
        """Have the workers that know these blobs drop them, with the next frame: no task will refer to them again."""
        for blob in blobs:
            for worker in self._workers:
                if blob.number in worker.known_blobs:
                    worker.known_blobs.discard(blob.number)
                    worker.to_forget.append(blob.number)
