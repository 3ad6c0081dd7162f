"""The metrics: what a pool's threads note down as they go, and the `Stats` made of it when somebody asks.

Cheap where nobody asks: sums, and one comparison a task. The feeder's thread writes what is said of arguments, the
collector's what is said of results; a reader may find them a moment apart.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque

from arrowpool.codecs.explain import reasons
from arrowpool.engine.calls import Task, name_of
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.stats import Pickled, SlowTask, WorkerStats, show_bytes
from arrowpool.threads import tell

_log = logging.getLogger(__name__)

_SLOWEST = 5
_ENDED_KEPT = 100
#: Reasons are looked for this often in one pool: it means to look at the data.
_LOOKS = 200
#: From so many pickled bytes on, it is said once.
_WORTH_A_HINT = 10_000_000
_hinted = False


class Metrics:
    """One pool's notes."""

    def __init__(self) -> None:
        self.tasks = 0
        self.piped_bytes = 0
        self.shared_bytes = 0
        self.copies = 0
        #: Of arguments only, by the feeder.
        self.copies_saved = 0
        self.saved_bytes = 0
        self._slowest: list[tuple[float, str, int]] = []
        self._ended: deque[WorkerStats] = deque(maxlen=_ENDED_KEPT)
        self._pickled: dict[str, tuple[int, int]] = {}
        self._looks = 0

    def answered(self, worker: WorkerHandle, task: Task, decode: float, run: float, encode: float) -> None:
        """A worker has answered a task, which took it so many seconds."""
        self.tasks += 1
        spent = worker.spent
        spent.tasks += 1
        spent.decode += decode
        spent.run += run
        spent.encode += encode
        slowest = self._slowest
        if len(slowest) < _SLOWEST or run > slowest[0][0]:
            add = heapq.heappush if len(slowest) < _SLOWEST else heapq.heapreplace
            add(slowest, (run, name_of(task), task.index))

    def saved(self, nbytes: int) -> None:
        """A task was referred to memory that need not be copied for it."""
        self.copies_saved += 1
        self.saved_bytes += nbytes

    def placed_for_many(self, nbytes: int) -> None:
        """One copy was made of what will be referred to: one reference to it saves nothing."""
        self.copies_saved -= 1
        self.saved_bytes -= nbytes

    def pickled(self, obj: object, nbytes: int) -> None:
        """So many bytes of an object could not be shared."""
        global _hinted
        if self._looks >= _LOOKS:
            why = "not looked into"
        else:
            self._looks += 1
            why = "; ".join(reasons(obj))
        count, total = self._pickled.get(why, (0, 0))
        self._pickled[why] = (count + 1, total + nbytes)
        if nbytes >= _WORTH_A_HINT and not _hinted:
            _hinted = True
            tell(_log.warning, "%s were pickled instead of shared: %s. See pool.stats()", show_bytes(nbytes), why)

    def ended(self, worker: WorkerHandle) -> None:
        """This worker is gone."""
        worker.spent.until = time.monotonic()
        self._ended.appendleft(_stats_of(worker))

    def workers(self, workers: list[WorkerHandle]) -> tuple[WorkerStats, ...]:
        """The workers that there are, and those that were."""
        return (*(_stats_of(worker) for worker in workers if worker.spent.until is None), *list(self._ended))

    def slowest(self) -> tuple[SlowTask, ...]:
        return tuple(SlowTask(name, index, run) for run, name, index in sorted(self._slowest, reverse=True))

    def reasons(self) -> tuple[Pickled, ...]:
        found = [Pickled(why, count, nbytes) for why, (count, nbytes) in list(self._pickled.items())]
        return tuple(sorted(found, key=lambda one: -one.nbytes))


def _stats_of(worker: WorkerHandle) -> WorkerStats:
    spent = worker.spent
    return WorkerStats(
        pid=worker.process.pid or 0,
        tasks=spent.tasks,
        seconds=(spent.until or time.monotonic()) - spent.since,
        decode=spent.decode,
        run=spent.run,
        encode=spent.encode,
        alive=spent.until is None,
    )
