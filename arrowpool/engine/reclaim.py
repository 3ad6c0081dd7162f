"""Memory that can be had back: what workers have released, and what the processes of a pool keep warm without need.

Called in the feeder's thread, by the budget (before it says that there is no room), by the encoder (when the system has no
memory) and by the feeder (when a worker has none, or the pool is idle).
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
        The workers that are up. The feeder's list, which it changes.
    """

    def __init__(self, sender: Sender, workers: list[WorkerHandle]):
        self._sender = sender
        self._workers = workers

    def reap(self) -> None:
        """Free the segments that workers have released."""
        for worker in self._workers:
            if self._sender.reap(worker, worker.control.released_by_worker):
                worker.control.arguments = self._sender.use(worker)

    def trim(self) -> None:
        """Give the pages of the arena's free ranges back to the kernel."""
        self._sender.trim()

    def trim_all(self, but: WorkerHandle | None = None) -> None:
        """Give back what is kept warm here, and have idle workers do the same. Busy workers do so when they are idle."""
        self.trim()
        for worker in self._workers:
            if worker is not but and not worker.outstanding:
                with contextlib.suppress(OSError):  # it has ended
                    worker.channel.send(protocol.trim())

    def help(self, worker: WorkerHandle) -> None:
        """A worker has no memory for a result: have all others trim, and tell it how much they can give back."""
        elsewhere = self._spare(worker)
        self.trim_all(but=worker)
        worker.control.answer(elsewhere)

    def relieve(self) -> Callable[[int], bool] | None:
        """There is no memory for an argument: have all others give back what they can.

        Returns
        -------
        callable or None
            Tells whether the workers still have so many bytes to give back, so that waiting for them makes sense. None
            without workers.
        """
        self.reap()
        self.trim_all()
        return (lambda lacking: self._spare() >= lacking) if self._workers else None

    def _spare(self, but: WorkerHandle | None = None) -> int:
        """Bytes that workers keep warm, or that were released and they have not noticed."""
        return sum(worker.spare() for worker in self._workers if worker is not but)
