"""The budget: how many bytes of segments may be in flight to the workers, and whether an object fits.

Used by the acting thread (see `mailbox`). Decides only: the caller has a task wait that does not fit.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

from arrowpool.engine.calls import Task
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.memory.lifecycle import LifecycleManager
from arrowpool.tuning import FRAME_PLACED_BYTES


class Verdict(enum.Enum):
    """What to do with a task whose large memory is not placed."""

    #: It does not fit: wait until a task that is in flight has ended.
    WAIT = enum.auto()
    #: It fits. If the system has no memory for it, wait in the same way; other processes keep their memory.
    PLACE_OR_WAIT = enum.auto()
    #: No task is in flight whose end would help. If the system has no memory, other processes must give some back.
    PLACE = enum.auto()


class Budget:
    """Keeps the bytes in flight within a limit.

    Parameters
    ----------
    limit : int
        Bytes of segments in flight at a time.
    lifecycle : LifecycleManager
        The books of the arguments' arena.
    reclaim : Reclaim
        Frees segments that workers have released, before an object is said not to fit.
    workers : list of WorkerHandle
        The workers that are ready. The feeder's list.
    ahead : collection of Task
        Tasks that are encoded and not sent. The backlog's.
    """

    def __init__(
        self,
        limit: int,
        lifecycle: LifecycleManager,
        reclaim: Reclaim,
        workers: list[WorkerHandle],
        ahead: Collection[Task],
    ):
        self.limit = limit
        self._lifecycle = lifecycle
        self._reclaim = reclaim
        self._workers = workers
        self._ahead = ahead
        #: Bytes of live segments that stay until a user or a call releases them, and so do not count as in flight. The encoder
        #: adds and subtracts, in the acting thread.
        self.pinned = 0
        #: Bytes that were judged since workers' releases were last looked at: not for each of many small tasks.
        self._judged = 0

    def __repr__(self) -> str:
        return f"<Budget limit: {self.limit:,} | in flight: {self.in_flight_bytes:,}>"

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of segments that count towards the limit."""
        return self._lifecycle.bytes_live - self.pinned

    def in_flight(self) -> bool:
        """Whether there is a task whose end would give memory back."""
        return bool(self._ahead) or any(worker.outstanding for worker in self._workers)

    def judge(self, nbytes: int, borrows: bool = False) -> Verdict:
        """What to do with a task that needs `nbytes` in segments, and may also borrow memory of others."""
        if borrows:
            self._reap()  # borrowed memory does not count here, and it is large
        if not self.fits(nbytes):
            return Verdict.WAIT
        return Verdict.PLACE_OR_WAIT if self.in_flight() else Verdict.PLACE

    def fits(self, nbytes: int) -> bool:
        """Whether `nbytes` more may be placed now.

        An object that exceeds the limit by itself fits when nothing is in flight: it travels alone.
        """
        self._judged += nbytes
        if self._judged >= FRAME_PLACED_BYTES or self.in_flight_bytes + nbytes > self.limit:
            self._reap()
        return self.in_flight_bytes + nbytes <= self.limit or not self.in_flight()

    def exceeds(self, nbytes: int) -> bool:
        """Whether more than `nbytes` are in flight."""
        if self.in_flight_bytes > nbytes:
            self._reap()
        return self.in_flight_bytes > nbytes

    def _reap(self) -> None:
        self._judged = 0
        if self._lifecycle.live:
            self._reclaim.reap()

    def fits_for_many(self, nbytes: int) -> bool:
        """Whether an object of `nbytes` that several tasks refer to may be placed now.

        Segments of other tasks are in flight at the same time: half of the limit is for them.
        """
        return nbytes <= self.limit // 2 and self.fits(nbytes)
