"""The metrics of a pool: counters and times of its threads, from which `Stats` are made on request.

They are cheap: sums, and one comparison per task. Figures of arguments and of results have different writers, so a reader may see
them a moment apart.
"""

from __future__ import annotations

import heapq
import logging
import threading
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
#: A pool looks for reasons at most this many times, since that reads the data.
_LOOKS = 200
#: A pickle of at least this many bytes is logged, once per process.
_WORTH_A_HINT = 10_000_000
_hinted = False


class Metrics:
    """The counters of one pool."""

    def __init__(self) -> None:
        #: Figures of results. Written by the collector's thread only, so that no count is lost; read by any thread.
        self.tasks = 0
        self.piped_bytes = 0
        self.shared_bytes = 0
        self.copies = 0
        #: Figures of arguments. Written by the one thread that does the feeder's work, read by any thread.
        self.copies_saved = 0
        self.saved_bytes = 0
        #: Written by the collector's thread; any thread reads a copy.
        self._slowest: list[tuple[float, str, int]] = []
        self._ended: deque[WorkerStats] = deque(maxlen=_ENDED_KEPT)
        #: Count and bytes by reason; and the number of looks for a reason. Feeder, collector and callers' threads write, and
        #: readers take a copy, with `_counting` held. The lock is reentrant: a finalizer that runs inside may make a call, whose
        #: argument is counted here too.
        self._pickled: dict[str, tuple[int, int]] = {}
        self._looks = 0
        self._counting = threading.RLock()

    def answered(self, worker: WorkerHandle, task: Task, decode: float, run: float, encode: float) -> None:
        """Count a task that a worker has answered, and its seconds."""
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
        """Count a reference of a task to memory that was already shared."""
        self.copies_saved += 1
        self.saved_bytes += nbytes

    def placed_for_many(self, nbytes: int) -> None:
        """Count the one copy that later references share: the first of them saves nothing."""
        self.copies_saved -= 1
        self.saved_bytes -= nbytes

    def pickled(self, obj: object, nbytes: int) -> None:
        """Count an object of which `nbytes` were pickled instead of shared. Any thread may call this."""
        global _hinted
        with self._counting:
            looks = self._looks < _LOOKS
            self._looks += looks
        # Without the lock: this reads the user's data, and takes a while.
        why = "; ".join(reasons(obj)) if looks else "not looked into"
        with self._counting:
            count, total = self._pickled.get(why, (0, 0))
            self._pickled[why] = (count + 1, total + nbytes)
        if nbytes >= _WORTH_A_HINT and not _hinted:
            _hinted = True
            tell(_log.warning, "%s were pickled instead of shared: %s. See pool.stats()", show_bytes(nbytes), why)

    def ended(self, worker: WorkerHandle) -> None:
        """Note that a worker has ended."""
        worker.spent.until = time.monotonic()
        self._ended.appendleft(_stats_of(worker))

    def workers(self, workers: list[WorkerHandle]) -> tuple[WorkerStats, ...]:
        """Figures of the given workers that run, then of those that have ended, the latest first."""
        return (*(_stats_of(worker) for worker in workers if worker.spent.until is None), *list(self._ended))

    def slowest(self) -> tuple[SlowTask, ...]:
        return tuple(SlowTask(name, index, run) for run, name, index in sorted(self._slowest, reverse=True))

    def reasons(self) -> tuple[Pickled, ...]:
        with self._counting:
            counted = list(self._pickled.items())
        found = [Pickled(why, count, nbytes) for why, (count, nbytes) in counted]
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
