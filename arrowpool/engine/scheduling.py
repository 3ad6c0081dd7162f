"""Scheduling: which worker gets the next task, how many tasks go in one frame, and how many are encoded or drawn ahead.

Functions of measured values, without state. Used by the acting thread (see `mailbox`), `gather_seconds` by the collector.
"""

from __future__ import annotations

from collections.abc import Iterable

from arrowpool.engine.calls import Call, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.tuning import FRAME_SECONDS, FRAME_TASKS, SHORT_TASK_SECONDS

#: Time that a task costs in addition to running it, for the size of frames.
_TASK_OVERHEAD_SECONDS = 1e-5

#: What a message costs: a frame of less work than this would take longer to send than to run.
_MESSAGE_SECONDS = 1e-4

#: Maximum number of tasks that are drawn ahead. The thread that draws is woken once for that many, as a worker is for each frame.
_DRAWN_TASKS = 1024

#: Replies are gathered while a worker has at least this many short tasks, for at most this long.
_GATHER_TASKS = 4
_GATHER_SECONDS = 2e-3


def free_worker(workers: list[WorkerHandle], queue_behind: bool) -> WorkerHandle | None:
    """A worker without tasks; or, if the next task may queue, a worker with at most one frame of short tasks left.

    Tasks that queue behind one that turns out long are taken back (see `recall`).
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


def frame_size(first: Task, worker: WorkerHandle, worker_count: int, budget: int) -> int:
    """How many tasks may go to a worker in one frame that begins with this one: several if they are short.

    Each worker may have two frames. The results of all frames must be within the budget, since the user may read none of them.
    """
    call = first.call
    mean = call.mean_seconds
    if mean is None or mean >= SHORT_TASK_SECONDS:
        return 1
    # A share of the tasks that are left (of those so far, if the length is unknown), so that all workers end at about the same
    # time.
    share = (call.length - first.index if call.length is not None else first.index) // (2 * worker_count)
    seconds = mean + _TASK_OVERHEAD_SECONDS
    count = min(FRAME_TASKS, max(share, int(_MESSAGE_SECONDS / seconds)), int(FRAME_SECONDS / seconds))
    if call.result_bytes:
        count = min(count, max(1, _results_within(budget, call) // (2 * worker_count)))
    return count if worker.quota is None else min(count, worker.quota - worker.sent)


def gather_seconds(workers: Iterable[WorkerHandle]) -> float:
    """Seconds to let replies gather before they are read: reading them one by one costs more than a short task.

    Half of the time for which a worker has work, so it gets more before it is idle. 0 where tasks are long or few, or nearly done.
    """
    left = 0.0
    for worker in workers:
        count = len(worker.outstanding)
        if count >= _GATHER_TASKS and worker.pace < SHORT_TASK_SECONDS:
            left = max(left, count * (worker.pace + _TASK_OVERHEAD_SECONDS))
    return min(_GATHER_SECONDS, left / 2) if left > _MESSAGE_SECONDS else 0.0


def ahead_size(call: Call, worker_count: int, budget: int) -> int:
    """How many tasks of a call may be encoded ahead: more than workers if they are short, and their results within the budget."""
    mean = call.mean_seconds
    if mean is None or mean >= SHORT_TASK_SECONDS:
        return worker_count
    if not call.result_bytes:
        return max(worker_count, FRAME_TASKS // 2)
    return max(worker_count, min(FRAME_TASKS // 2, _results_within(budget, call)))


def draw_size(call: Call, worker_count: int, budget: int) -> int:
    """How many tasks may be drawn ahead from a user's iterator.

    Two frames for each worker if the tasks are short and their results within the budget. One if the iterator could change the
    function's data between two tasks.
    """
    mean = call.mean_seconds
    if mean is None or mean >= SHORT_TASK_SECONDS or not call.blobs or not call.blobs[0].stateless:
        return 1
    in_a_frame = min(FRAME_TASKS, int(FRAME_SECONDS / (mean + _TASK_OVERHEAD_SECONDS)))
    count = min(_DRAWN_TASKS, 2 * max(1, worker_count) * in_a_frame)
    return min(count, max(1, _results_within(budget, call))) if call.result_bytes else count


def _results_within(budget: int, call: Call) -> int:
    """How many results of a call fit in the budget, by their mean size so far."""
    return budget * call.replies // call.result_bytes
