"""Taking tasks back from a worker: tasks behind one that turns out long, and tasks of a cancelled call.

This class decides, and recalls tasks in the worker's control page. The feeder sends returned tasks to other workers,
and interrupts running tasks.

Race between a worker and the parent
------------------------------------
The worker begins task n:

1. It sets `started` to n + 1.
2. It reads up to which task all are recalled.
3. It runs n; or, if n is recalled, replies that it has skipped n.

The parent takes tasks back:

A. It reads `started`, and recalls all tasks that were sent.
B. A period later it reads `started` again. Tasks recalled at A that are not announced (from `started` on) go to other workers.

If 2 comes before A, the worker runs n. It has announced n before that, and the period between A and B is far longer than a store
takes to become visible to another process: at B, `started` is above n. Verdict: n stays with the worker, and runs once.

If A comes before 2, the worker skips n. If 1 came before B, the parent leaves n at B, and the reply returns it. If 1 comes after
B, the parent has given n away, and finds no task to the reply. Verdict: in both cases n runs once, elsewhere.

If the parent does A once more, the worker may be between 1 and 2 with a task that was given away before. What is recalled stays
recalled. Verdict: a task that was given away is skipped.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from arrowpool.engine.calls import Call, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.tuning import RECALL_SECONDS


class Recalled(NamedTuple):
    """What the feeder has to do now.

    Attributes
    ----------
    tasks : list of Task
        Tasks that were sent and not begun: send them to other workers first, in this order.
    interrupts : list of (WorkerHandle, int)
        Running tasks of cancelled calls, by number: interrupt them.
    """

    tasks: list[Task]
    interrupts: list[tuple[WorkerHandle, int]]


class Recall:
    """Watches the tasks that workers have. Used by the acting thread (see `mailbox`).

    Parameters
    ----------
    workers : list of WorkerHandle
        The workers that are ready. The feeder's list.
    """

    def __init__(self, workers: list[WorkerHandle]):
        self._workers = workers

    def is_pending(self) -> bool:
        """Whether `look` has a worker to watch."""
        return any(len(worker.outstanding) > 1 or worker.recalled for worker in self._workers)

    def look(self) -> Recalled:
        """Take back tasks that wait behind a long one while another worker is idle. Called once a period."""
        now = time.monotonic()
        recalled = Recalled([], [])
        for worker in self._workers:
            if worker.recalled is not None:
                if now - worker.recalled_at >= RECALL_SECONDS:
                    self._collect(worker, recalled)
                continue
            if len(worker.outstanding) < 2:
                continue
            started = worker.control.started
            if started != worker.progress[1]:
                worker.progress = (now, started)
            elif now - worker.progress[0] >= RECALL_SECONDS and any(not other.outstanding for other in self._workers):
                self._take_back(worker, started)
        return recalled

    def cancel(self, call: Call) -> Recalled:
        """Take back the tasks of a cancelled call that are not begun, and interrupt those that run."""
        call.cancelled = True
        recalled = Recalled([], [])
        for worker in self._workers:
            if any(task.call is call for task in list(worker.outstanding.values())):
                self._take_back(worker, worker.control.started)
            self._interrupt(worker, recalled)
        return recalled

    def _take_back(self, worker: WorkerHandle, started: int) -> None:
        """Step A."""
        worker.control.recall(worker.sent)
        worker.recalled = (started if worker.recalled is None else worker.recalled[0], worker.sent)
        worker.recalled_at = time.monotonic()

    def _collect(self, worker: WorkerHandle, recalled: Recalled) -> None:
        """Step B."""
        assert worker.recalled is not None
        first, end = worker.recalled
        worker.recalled = None
        worker.last_frame = 0
        # Once more: it may have begun another task of the call, or have continued after the first signal.
        self._interrupt(worker, recalled)
        for number in range(max(first, worker.control.started), end):
            task = worker.outstanding.pop(number, None)
            if task is not None:  # else the worker has said that it skipped it
                recalled.tasks.append(task)

    def _interrupt(self, worker: WorkerHandle, recalled: Recalled) -> None:
        number = worker.control.started - 1
        running = worker.outstanding.get(number)
        if running is not None and running.call.cancelled:
            recalled.interrupts.append((worker, number))
