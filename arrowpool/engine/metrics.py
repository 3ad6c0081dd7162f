"""The metrics of a pool: counters and times of its threads, from which `Stats` are made on request.

They are cheap: sums, and one comparison per task. Figures of arguments and of results have different writers, so a reader may see
them a moment apart.
"""

from __future__ import annotations

import heapq
import logging
import operator
import threading
import time
from collections import deque
from typing import Any, NamedTuple

from arrowpool.codecs.explain import how_many, is_small, reasons
from arrowpool.engine.calls import Task, name_of
from arrowpool.engine.clock import Clock
from arrowpool.engine.naming import numbers_of
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.stats import show_bytes
from arrowpool.stats_rows import Pickled, SlowTask, WorkerStats
from arrowpool.threads import tell

_log = logging.getLogger(__name__)

_SLOWEST = 5
_ENDED_KEPT = 100
#: A pool looks for reasons at most this many times, since that reads the data.
_LOOKS = 200
_NOT_LOOKED = "not looked into"
#: When a pool has pickled this many bytes for one reason, that is logged: once for each reason, for a few in a process.
_WORTH_A_HINT = 10_000_000
_HINTS = 5
#: Reasons that were logged. Any thread adds, and any thread reads: both are atomic. Two at a time may log the same reason.
_hinted: set[str] = set()


class Times(NamedTuple):
    """Seconds of workers: rebuilding arguments, running tasks, placing results; computing, and waiting for a processor, in these."""

    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0
    cpu: float = 0.0
    delayed: float = 0.0

    def __add__(self, other: Any) -> Times:
        return Times(*map(operator.add, self, other))


class Metrics:
    """The counters of one pool."""

    def __init__(self) -> None:
        #: Figures of results. Written by the collector's thread only, so that no count is lost; read by any thread.
        self.tasks = 0
        self.piped_bytes = 0
        self.shared_bytes = 0
        self.copies = 0
        #: Workers that were lost; and those that were killed for time. Tasks that ended with their worker, and the
        #: seconds that they ran. Calls that were cancelled. Objects without memory. The same.
        self.lost_workers = 0
        self.timeouts = 0
        self.lost_tasks = 0
        self.lost_run = 0.0
        self.cancelled = 0
        self.refused = 0
        #: Workers that replace others. Written by the supervisor's thread, read by any thread.
        self.replaced = 0
        #: Objects of `share` without memory. As the figures of arguments.
        self.shares_refused = 0
        #: Figures of arguments. Written by the one thread that does the feeder's work, read by any thread.
        self.copies_saved = 0
        self.saved_bytes = 0
        self.sent_bytes = 0
        #: Runs while there are calls; and while a call is held back since its results are not read.
        self.busy = Clock()
        self.held_back = Clock()
        #: Seconds for which a thread did the feeder's work. The acting thread writes, any thread reads. A number, not a clock: a
        #: task may cost no more than a few microseconds.
        self.acting = 0.0
        #: Seconds for which calls waited until the first worker was ready; None until it is. The same writer and readers.
        self.starting: float | None = None
        #: Seconds in which users' iterators made items, and in which frames were cut and results joined. The threads of sources, and
        #: those that make calls, write, with `_adding` held; any thread reads. Reentrant: a signal's handler may make a call.
        self.drawing = 0.0
        self.framing = 0.0
        self._adding = threading.RLock()
        #: Seconds, function, index of the first item, what was run, how it ended. Written by the collector's thread; any thread reads a
        #: copy.
        self._slowest: list[tuple[float, str, int, str, str]] = []
        self._ended: deque[WorkerStats] = deque(maxlen=_ENDED_KEPT)
        #: Seconds of all workers that have ended. The same.
        self._spent_by_ended = Times()
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
            self._note_slow(run, task)

    def cut_short(self, task: Task, seconds: float, how: str, positions: range) -> None:
        """Note a task that ended with its worker, if it is one of the slowest.

        Parameters
        ----------
        task : Task
            The task.
        seconds : float
            How long the items ran that ran last.
        how : str
            How the worker ended, in words.
        positions : range
            Positions of these items in the task; empty if they are not known.
        """
        if len(self._slowest) < _SLOWEST or seconds > self._slowest[0][0]:
            self._note_slow(seconds, task, how, positions)

    def _note_slow(self, seconds: float, task: Task, how: str = "", positions: range = range(0)) -> None:
        add = heapq.heappush if len(self._slowest) < _SLOWEST else heapq.heapreplace
        add(self._slowest, (seconds, *_item_of(task, positions), how))

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
        with self._counting:
            looks = self._looks < _LOOKS
            self._looks += looks
        # Without the lock: this reads the user's data, and takes a while.
        why = "; ".join(reasons(obj)) if looks else _NOT_LOOKED
        small = is_small(why)
        objects = how_many(obj) if small else 1
        with self._counting:
            count, total = self._pickled.get(why, (0, 0))
            self._pickled[why] = (count + objects, total + nbytes)
            hint = None if small or total + nbytes < _WORTH_A_HINT else self._hint(why)
            if hint is not None:
                _hinted.add(hint)
        if hint is not None:
            tell(
                _log.warning,
                "%s were pickled instead of shared: %s. See pool.stats()",
                show_bytes(total + nbytes),
                hint,
            )

    def _hint(self, why: str) -> str | None:
        """What to say of a reason for which much was pickled; None if it was said, or there is nothing to say."""
        if why == _NOT_LOOKED:
            looked = {one: nbytes for one, (_, nbytes) in self._pickled.items() if one != why and not is_small(one)}
            why = max(looked, key=looked.__getitem__, default="")
        return why if why and why not in _hinted and len(_hinted) < _HINTS else None

    def drew(self, seconds: float) -> None:
        """Count the time in which a user's iterator made items. From the threads of sources."""
        with self._adding:
            self.drawing += seconds

    def framed(self, seconds: float) -> None:
        """Count the time in which a frame was cut, or results were joined. From the threads that make calls."""
        with self._adding:
            self.framing += seconds

    def worker_is_ready(self) -> None:
        """Note that a worker takes tasks."""
        if self.starting is None:
            self.starting = self.busy.seconds()

    def ended(self, worker: WorkerHandle) -> None:
        """Note that a worker has ended. Can be called again. After the collector's end, for the thread that ends the pool."""
        if worker.spent.until is None:
            worker.spent.until = now = time.monotonic()
            seconds = worker.running_for(now)
            if seconds:
                worker.spent.run += seconds
                self.lost_run += seconds
                self.lost_tasks += 1
            self._spent_by_ended += _times_of(worker)
            self._ended.appendleft(_stats_of(worker, now))

    def times(self, workers: list[WorkerHandle]) -> Times:
        """The seconds of the given workers that run, and of all that have ended."""
        return sum((_times_of(worker) for worker in workers if worker.spent.until is None), self._spent_by_ended)

    def workers(self, workers: list[WorkerHandle]) -> tuple[WorkerStats, ...]:
        """Figures of the given workers that run, then of those that have ended, the latest first."""
        now = time.monotonic()
        return (*(_stats_of(worker, now) for worker in workers if worker.spent.until is None), *list(self._ended))

    def slowest(self) -> tuple[SlowTask, ...]:
        slowest = sorted(self._slowest, reverse=True)
        return tuple(SlowTask(name, index, run, items, ended) for run, name, index, items, ended in slowest)

    def reasons(self) -> tuple[Pickled, ...]:
        with self._counting:
            counted = list(self._pickled.items())
        found = [Pickled(why, count, nbytes) for why, (count, nbytes) in counted]
        return tuple(sorted(found, key=lambda one: -one.nbytes))


def _times_of(worker: WorkerHandle) -> Times:
    spent = worker.spent
    return Times(spent.decode, spent.run, spent.encode, worker.control.cpu, worker.control.delayed)


def _item_of(task: Task, positions: range) -> tuple[str, int, str]:
    """The function of a task, the index of its first item, and its items in words; of the items at these positions, if there are any."""
    name, names = name_of(task), task.call.names
    numbers = numbers_of(task.call, task.index, task.count, positions)
    if names is None or numbers is None:
        return name, task.index, ""
    return name, numbers[0], names.text(numbers)


def _stats_of(worker: WorkerHandle, now: float) -> WorkerStats:
    spent = worker.spent
    return WorkerStats(
        pid=worker.process.pid or 0,
        tasks=spent.tasks,
        seconds=(spent.until or now) - spent.since,
        decode=spent.decode,
        run=spent.run,
        encode=spent.encode,
        running=worker.running_for(now) if spent.until is None else 0.0,
        cpu=worker.control.cpu,
        alive=spent.until is None,
    )
