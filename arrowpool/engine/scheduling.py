"""Which worker gets the next task, how many tasks go in one frame, and how many are encoded or drawn ahead.

Functions of what is measured, without state. Used in the feeder's thread.
"""

from __future__ import annotations

from arrowpool.engine.calls import Call, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.tuning import FRAME_SECONDS, FRAME_TASKS, SHORT_TASK_SECONDS

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
