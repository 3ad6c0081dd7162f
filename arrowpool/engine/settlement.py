"""What tasks and calls hold, and how it is let go of at their end. Used in the feeder's thread."""

from __future__ import annotations

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
        The feeder's: has the tasks that have their results.
    encoder : Encoder
        Has the books of what tasks and calls refer to.
    turns : Turns
        The running calls.
    workers : list of WorkerHandle
        The workers that are up. The feeder's list.
    """

    def __init__(self, mailbox: Mailbox, encoder: Encoder, turns: Turns, workers: list[WorkerHandle]):
        self._mailbox = mailbox
        self._encoder = encoder
        self._turns = turns
        self._workers = workers

    def settle_answered(self) -> None:
        """Settle all tasks that have their results, before free workers are looked for."""
        while (task := self._mailbox.take()) is not None:
            self.settle(task)

    def settle_early(self) -> None:
        """The same while tasks are encoded, when memory is about to be needed."""
        if self._mailbox.answers:
            while (task := self._mailbox.take_early()) is not None:
                self.settle(task)

    def settle(self, task: Task) -> None:
        """A task is over: let go of what it held, and of what its call held if it was the last one."""
        if self._encoder.holds(task):
            self.forget(self._encoder.settled(task))
        call = task.call
        call.pending -= 1
        if call.exhausted:
            self.finish(call)

    def finish(self, call: Call) -> None:
        """Let go of what a call held, if no task of it is to come or under way."""
        if call.exhausted and not call.pending:
            self._turns.over(call)
            self.forget(self._encoder.finish(call))

    def forget(self, blobs: list[Blob]) -> None:
        """No task will refer to these blobs: have the workers that know them drop them, with the next frame."""
        for blob in blobs:
            for worker in self._workers:
                if blob.number in worker.known_blobs:
                    worker.known_blobs.discard(blob.number)
                    worker.to_forget.append(blob.number)
