"""The load of a pool at this moment: open calls, tasks that run and wait, memory that is kept. For any thread: reads only."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arrowpool.engine.backlog import Backlog
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.state import PoolState
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import said
from arrowpool.health import Health
from arrowpool.transport.sender import Sender


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Load:
    """Reads the books of a pool's parts. They may change meanwhile: the figures are of moments a little apart.

    Attributes
    ----------
    size : int
        Number of workers of the pool.
    state : PoolState
        Phase and error of the pool.
    cache : Mapping
        Result objects of open calls by job number.
    processes : sequence
        The worker processes.
    workers : list of WorkerHandle
        The workers that are ready: see `Parts`.
    turns : Turns
        The running calls.
    backlog : Backlog
        The tasks that are encoded and not sent.
    sender : Sender
        Has the arguments' arena.
    """

    size: int
    state: PoolState
    cache: Mapping[int, Any]
    processes: Sequence[Any]
    workers: list[WorkerHandle]
    turns: Turns
    backlog: Backlog
    sender: Sender

    def calls(self) -> int:
        """Number of calls whose results are not complete."""
        return len(self.cache)

    def waiting(self) -> int:
        """Number of tasks that are known and have not begun."""
        calls = [call for call in self.turns.calls() if not call.exhausted]
        drawn = sum(call.length - call.last_index - 1 for call in calls if call.length is not None)
        sent = sum(len(worker.outstanding) for worker in list(self.workers))
        return drawn + len(self.backlog) + max(0, sent - len(self.running()))

    def running(self) -> list[float]:
        """For each task that runs, the seconds for which it has run."""
        now = time.monotonic()
        began = [worker.control.began for worker in list(self.workers)]
        return [max(0.0, now - moment) for moment in began if moment]

    def warm_bytes(self) -> int:
        """Bytes of memory without content that the processes of the pool keep for the next tasks."""
        if self.state.is_terminated():
            return 0
        ours = self.sender.resident - self.sender.lifecycle.bytes_live
        return max(0, ours) + sum(worker.spare() for worker in list(self.workers))

    def health(self) -> Health:
        """See `ArrowPool.health`."""
        running, error = self.running(), self.state.error
        return Health(
            state=self.state.describe(),
            broken=None if error is None else said(error, str),
            size=self.size,
            alive=0 if self.state.has_ended() else len(self.processes),
            calls=self.calls(),
            running=len(running),
            waiting=self.waiting(),
            longest=max(running, default=0.0),
        )


def shelf_bytes() -> int:
    """Bytes that this process has put on the shelf, and that end with it."""
    # Not imported: that imports pandas and pyarrow. Without the module, nothing was put.
    module = sys.modules.get("arrowpool.shelf.this_process")
    owner = module.current() if module is not None else None
    return 0 if owner is None else sum(record.nbytes for record in owner.records())
