"""Getting memory back: segments that workers have released, and free memory that the processes of a pool keep warm.

Used by the acting thread (see `mailbox`): by the budget, before it says that an object does not fit; by the encoder, when the
system has no memory; and by the feeder, when a worker has no memory, or the pool is idle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.transport import protocol
from arrowpool.transport.sender import Sender


class Reclaim:
    """Gets memory back from this process and its workers.

    Parameters
    ----------
    sender : Sender
        Owner of the arguments' arena.
    workers : list of WorkerHandle
        The workers that are ready. The feeder's list.
    """

    def __init__(self, sender: Sender, workers: list[WorkerHandle]):
        self._sender = sender
        self._workers = workers

    def reap(self) -> None:
        """Free the segments that workers have released, and those of lost workers whose descendants are gone."""
        self._sender.reap_lost()
        for worker in self._workers:
            if self._sender.reap(worker, worker.control.released_by_worker):
                worker.control.arguments = self._sender.use(worker)

    def trim(self) -> None:
        """Give the pages of the arena's free ranges back to the kernel."""
        self._sender.trim()

    def trim_all(self, but: WorkerHandle | None = None) -> None:
        """Give warm memory of this process back, and have idle workers do the same. Busy workers do so when they are idle."""
        self.trim()
        for worker in self._workers:
            if worker is not but and not worker.outstanding:
                with contextlib.suppress(OSError):  # it has ended
                    worker.channel.send(protocol.trim())

    def help(self, worker: WorkerHandle) -> None:
        """Help a worker that has no memory for a result: have all others trim, and tell it how much they can give back."""
        elsewhere = self._spare(worker)
        self.trim_all(but=worker)
        worker.control.answer(elsewhere)

    def relieve(self) -> Callable[[int], bool] | None:
        """Have all workers give memory back, since there is none for an argument.

        Returns
        -------
        callable or None
            Called with a number of bytes; says whether the workers can still give back so many, so waiting makes sense. None
            without workers.
        """
        self.reap()
        self.trim_all()
        return (lambda lacking: self._spare() >= lacking) if self._workers else None

    def _spare(self, but: WorkerHandle | None = None) -> int:
        """Bytes that workers keep warm, and bytes that were released and not yet noticed by the worker."""
        return sum(worker.spare() for worker in self._workers if worker is not but)
