"""Room in shared memory for what is encoded next: the budget, what was released, and what others could give back.

Used by the feeder, in its thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.transport import protocol
from arrowpool.transport.sender import Sender


class Room:
    """Keeps what is in flight within a budget.

    Parameters
    ----------
    sender : Sender
        Whose arena it is.
    workers : list of WorkerHandle
        The feeder's workers.
    budget : int
        Bytes of segments in flight at a time.
    settle : callable
        Lets go of what answered tasks held.
    in_flight : callable
        Whether there is anything whose end would give room.
    """

    def __init__(
        self,
        sender: Sender,
        workers: list[WorkerHandle],
        budget: int,
        settle: Callable[[], None],
        in_flight: Callable[[], bool],
    ):
        self._sender = sender
        self._workers = workers
        self.budget = budget
        self._settle = settle
        self._in_flight = in_flight
        #: Bytes that users have said shall stay: not in flight.
        self.pinned = 0
        #: Whether what is being placed had better wait for what is in flight than for other processes' memory.
        self.may_wait = False
        sender.relieve = self._relieve

    def make(self, nbytes: int, lasting: bool = False) -> bool:
        """Whether `nbytes` more fit the budget. What exceeds it alone may go when nothing else is in flight; what is
        lasting, since other things will fly beside it, must leave half of it."""
        if lasting and nbytes > self.budget // 2:
            return False
        lifecycle = self._sender.lifecycle
        if lifecycle.live:
            self._settle()
            self.reap()
        return lifecycle.bytes_live - self.pinned + nbytes <= self.budget or not self._in_flight()

    def reap(self) -> None:
        """Free what workers have released."""
        for worker in self._workers:
            if self._sender.reap(worker, worker.control.worker_leases):
                worker.control.arguments = self._sender.use(worker)

    def trim(self) -> None:
        """Give the pages of what is free back to the kernel."""
        if self._sender.arena is not None:
            self._sender.arena.trim()

    def have_trimmed(self, but: WorkerHandle | None = None) -> None:
        """Give back what is kept warm here, and have idle workers do so; busy ones come to it by themselves."""
        self.trim()
        for worker in self._workers:
            if worker is not but and not worker.outstanding:
                with contextlib.suppress(OSError):
                    worker.channel.send(protocol.trim())

    def help(self, worker: WorkerHandle) -> None:
        """A worker is short of memory: have all others give back what they can, and tell it how much that may be."""
        elsewhere = self._spare(worker)
        self.have_trimmed(worker)
        worker.control.answer(elsewhere)

    def _spare(self, but: WorkerHandle | None = None) -> int:
        """Bytes that workers keep warm, or have not noticed to be released."""
        return sum(
            max(0, worker.control.results.resident - worker.receiver.leased())
            for worker in self._workers
            if worker is not but
        )

    def _relieve(self) -> Callable[[int], bool] | None:
        if self.may_wait and self._in_flight():
            return None
        self.reap()
        self.have_trimmed()
        return (lambda lacking: self._spare() >= lacking) if self._workers else None
