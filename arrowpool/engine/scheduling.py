"""Which worker gets what: a free one, several short tasks in one frame; how many are drawn ahead; and taking tasks back.

Those that wait behind a long task are taken back, and those whose call was cancelled:

1. The worker's range of recalled numbers is set: from now on it begins none of them.
2. One period later, what it had begun before it could see that is visible here. All others are given away.
3. A worker that announced a task and then saw the range says so (`SKIPPED`), and that task comes back as well.

Used by the feeder, in its thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from arrowpool.engine.calls import Call, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.tuning import FRAME_SECONDS, FRAME_TASKS, RECALL_SECONDS, SHORT_TASK_SECONDS

#: Time that handling one task costs beside running it, for sizing frames.
_TASK_OVERHEAD_SECONDS = 1e-5


def free_worker(workers: list[WorkerHandle], queue_behind: bool) -> WorkerHandle | None:
    """A worker that has nothing to do; or, if the next task may queue, one with no more than a frame of short ones left.

    What queues behind a task that turns out long is taken back.
    """
    best = None
    for worker in workers:
        count = len(worker.outstanding)
        if worker.doomed or (worker.quota is not None and worker.sent >= worker.quota):
            continue
        if count == 0:
            return worker
        if count <= worker.last_frame and worker.recalled is None and (best is None or count < len(best.outstanding)):
            best = worker
    return best if queue_behind else None


def frame_size(first: Task, worker: WorkerHandle, worker_count: int) -> int:
    """How many tasks may go to a worker in one frame that begins with this one: several if they are short."""
    call = first.call
    mean = call.mean_seconds
    if mean is None or mean >= SHORT_TASK_SECONDS:
        return 1
    # A share of what is left (or, where nobody knows, of what there has been), so that all workers end together.
    share = (call.length - first.index if call.length is not None else first.index) // (2 * worker_count)
    count = min(FRAME_TASKS, share, int(FRAME_SECONDS / (mean + _TASK_OVERHEAD_SECONDS)))
    return count if worker.quota is None else min(count, worker.quota - worker.sent)


def ahead_size(call: Call, worker_count: int, budget: int) -> int:
    """How many tasks of a call may be encoded ahead, or go in one frame: more than workers if they are short, but no more
    than so many that their results are within the budget."""
    mean = call.mean_seconds
    if mean is None or mean >= SHORT_TASK_SECONDS:
        return worker_count
    if not call.result_bytes:
        return FRAME_TASKS // 2
    return max(worker_count, min(FRAME_TASKS // 2, budget * call.replies // call.result_bytes))


def draw_size(call: Call, worker_count: int) -> int:
    """How many tasks may be drawn ahead from a user's iterator: what workers do in two frames, if they are short.

    One, where it could change the function's data from task to task.
    """
    mean = call.mean_seconds
    if mean is None or mean >= SHORT_TASK_SECONDS or not call.blobs or not call.blobs[0].stateless:
        return 1
    return min(FRAME_TASKS, 2 * max(1, worker_count) * int(FRAME_SECONDS / (mean + _TASK_OVERHEAD_SECONDS)))


class Recall:
    """Watches over what is outstanding.

    Parameters
    ----------
    workers : list of WorkerHandle
        The feeder's workers.
    give_back : callable
        Gets tasks that were sent and never begun, in order.
    """

    def __init__(self, workers: list[WorkerHandle], give_back: Callable[[list[Task]], None]):
        self._workers = workers
        self._give_back = give_back

    def is_pending(self) -> bool:
        """Whether `look` has something to look at."""
        return any(len(worker.outstanding) > 1 or worker.recalled for worker in self._workers)

    def look(self) -> None:
        """Take back what waits behind a long task while another worker has nothing to do; to be called each period."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.recalled is not None:
                if now - worker.recalled_at >= RECALL_SECONDS:
                    self._give_away(worker)
                continue
            if len(worker.outstanding) < 2:
                continue
            started = worker.control.started
            if started != worker.progress[1]:
                worker.progress = (now, started)
            elif now - worker.progress[0] >= RECALL_SECONDS and any(not other.outstanding for other in self._workers):
                self._take_back(worker, started)

    def cancel(self, call: Call) -> None:
        """Nobody waits for this call any more: take back what of it was not begun, interrupt what runs."""
        call.cancelled = True
        for worker in self._workers:
            if any(task.call is call for task in list(worker.outstanding.values())):
                self._take_back(worker, worker.control.started)
            self._interrupt(worker)

    def _take_back(self, worker: WorkerHandle, started: int) -> None:
        # The one announced last too: it may be one taken back before, and the worker about to look whether it was.
        worker.control.recall(max(0, started - 1), worker.sent)
        worker.recalled = (started if worker.recalled is None else worker.recalled[0], worker.sent)
        worker.recalled_at = time.monotonic()

    def _give_away(self, worker: WorkerHandle) -> None:
        assert worker.recalled is not None
        first, end = worker.recalled
        worker.recalled = None
        worker.last_frame = 0
        self._interrupt(worker)
        tasks = [worker.outstanding.pop(number, None) for number in range(max(first, worker.control.started), end)]
        self._give_back([task for task in tasks if task is not None])

    def _interrupt(self, worker: WorkerHandle) -> None:
        number = worker.control.started - 1
        running = worker.outstanding.get(number)
        if running is not None and running.call.cancelled and worker.process.pid is not None:
            worker.control.interrupt(number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGINT)
