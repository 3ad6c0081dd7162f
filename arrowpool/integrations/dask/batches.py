"""How many tasks of the pool one Dask task carries, and how many of these begin at a time.

Dask takes about a millisecond for each of its tasks, and so do the messages of each step. A batch takes some tens of milliseconds, so that
this does not matter. It is not so large that another node would wait for work longer than for a step. Pure functions.
"""

from __future__ import annotations

#: A batch takes about this long.
BATCH_SECONDS = 0.05
#: A batch that has taken longer ends: what of it has not begun is given out again.
LONG_BATCH_SECONDS = 0.2
#: Tasks that begin together take about this long. When their node is lost, all of them count as begun, and so may the next ones.
STEP_SECONDS = 0.02
#: In a step are at most so many for each process: the first ones of a call may have been short, and those of a step stay with their node.
_STEP_TASKS = 64
#: What a task takes on its way, at least.
_WAY_SECONDS = 30e-6
LARGEST = 1000
#: A batch is full with so many bytes: larger ones are sent no faster.
BATCH_BYTES = 16 << 20


def batch_size(mean_seconds: float | None, processes_per_slot: int, left: int | None, slots: int) -> int:
    """Number of tasks for the next batch.

    Parameters
    ----------
    mean_seconds : float or None
        Of a task of this call, in its process; None before the first is done. The first batches carry a task for each process that runs them.
    processes_per_slot : int
        Task processes for each thread of a Dask worker: so many tasks of a batch run at a time.
    left : int or None
        Number of tasks that are not sent, if it is known.
    slots : int
        Number of batches that all nodes run at a time.
    """
    if mean_seconds is None:
        return processes_per_slot
    size = _fitting(BATCH_SECONDS, mean_seconds, processes_per_slot)
    if left is not None:
        # At the end of a call, batches of a few tasks would take longer on their way than the others wait.
        size = min(size, max(-(-left // (2 * slots)), step_size(mean_seconds, processes_per_slot)))
    return max(processes_per_slot, size)


def _fitting(seconds: float, mean_seconds: float, processes: int) -> int:
    """How many tasks take so many seconds."""
    return min(int(seconds * processes / (mean_seconds + _WAY_SECONDS)), LARGEST)


def may_overlap(mean_seconds: float | None, count: int, processes_per_slot: int) -> bool:
    """Whether a step of so many tasks is so short that the next one is asked for while it runs.

    That step counts as begun then. After a long one it would be asked for in vain: another node could have had its tasks.
    """
    return mean_seconds is not None and mean_seconds * count <= BATCH_SECONDS * processes_per_slot


def step_size(mean_seconds: float | None, processes_per_slot: int, measured: int = LARGEST) -> int:
    """Number of tasks of a batch that begin together.

    The arguments are those of `batch_size`, and the number of tasks of which `mean_seconds` is the mean: no more than these begin together,
    since they say little about more.
    """
    if mean_seconds is None:
        return processes_per_slot
    most = min(measured, _STEP_TASKS * processes_per_slot)
    return max(processes_per_slot, min(most, _fitting(STEP_SECONDS, mean_seconds, processes_per_slot)))
