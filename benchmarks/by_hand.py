"""What one would write without a library: a frame of floats in one `SharedMemory`, and tasks that name rows of it.

Called by `contenders`. As good as that gets: the block is kept from call to call, so its memory is warm, a worker keeps
it attached, and results are written by the workers into a second block. It does for one frame of one dtype, whose
shape the caller knows; and a result is the caller's only until the next call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Rows:
    """What is sent to a worker: which rows of which block, and the block for results."""

    source: str
    target: str
    rows: int
    columns: tuple[str, ...]
    start: int
    stop: int
    task: Callable[[pd.DataFrame], Any]


class Blocks:
    """The two blocks of the sender, made when the size changes. Its only state."""

    def __init__(self) -> None:
        # Before workers are forked: one that had to start its own would unlink the blocks as it ends.
        resource_tracker.ensure_running()
        self._held: tuple[SharedMemory, SharedMemory] | None = None
        self._size = 0

    def map(
        self, pool: Any, task: Callable[[pd.DataFrame], Any], frame: pd.DataFrame, bounds: Sequence[tuple[int, int]]
    ) -> list[Any]:
        """``pool.map(task, row chunks)``, by hand."""
        source, target = self._blocks(frame.size * 8)
        columns = tuple(frame.columns)
        # Column after column, as pandas has it: a chunk is a slice of each.
        np.copyto(_values(source, len(frame), len(columns)), frame.to_numpy().T)
        jobs = [Rows(source.name, target.name, len(frame), columns, start, stop, task) for start, stop in bounds]
        answers = pool.map(run_rows, jobs, 1)
        written = _values(target, len(frame), len(columns))
        return [
            answer if answer is not None else _frame(written, columns, job.start, job.stop)
            for answer, job in zip(answers, jobs, strict=True)
        ]

    def _blocks(self, size: int) -> tuple[SharedMemory, SharedMemory]:
        if self._held is None or self._size != size:
            self.close()
            self._held, self._size = (SharedMemory(create=True, size=size), SharedMemory(create=True, size=size)), size
        return self._held

    def close(self) -> None:
        """Give the blocks back; arrays that still show them keep the maps."""
        for block in self._held or ():
            block.unlink()
            with contextlib.suppress(BufferError):
                block.close()
        self._held = None


_attached: dict[str, SharedMemory] = {}


def run_rows(job: Rows) -> Any:
    """In a worker: the task's answer, or None for a frame, which then lies in the block for results."""
    columns = len(job.columns)
    chunk = _frame(_values(_attach(job.source, job), job.rows, columns), job.columns, job.start, job.stop)
    answer = job.task(chunk)
    if not isinstance(answer, pd.DataFrame):
        return answer
    np.copyto(_values(_attach(job.target, job), job.rows, columns)[:, job.start : job.stop], answer.to_numpy().T)
    return None


def _attach(name: str, job: Rows) -> SharedMemory:
    if name not in _attached:
        for other in [other for other in _attached if other not in (job.source, job.target)]:
            _attached.pop(other).close()
        _attached[name] = SharedMemory(name)
    return _attached[name]


def _values(block: SharedMemory, rows: int, columns: int) -> np.ndarray:
    return np.ndarray((columns, rows), np.float64, block.buf)


def _frame(values: np.ndarray, columns: tuple[str, ...], start: int, stop: int) -> pd.DataFrame:
    return pd.DataFrame(
        values[:, start:stop].T, index=pd.RangeIndex(start, stop), columns=pd.Index(columns), copy=False
    )
