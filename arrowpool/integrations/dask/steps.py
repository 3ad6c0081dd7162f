"""The steps of a batch on its node: which of its tasks begin when, and when their outcomes are sent.

    batch -- begin, as the client permits --> local pool --> outcomes --> line

In the thread of the batch, in the Dask worker process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from arrowpool.engine.imap import IMapIterator
from arrowpool.integrations.dask.batches import LONG_BATCH_SECONDS, may_overlap, step_size
from arrowpool.integrations.dask.line import Line
from arrowpool.integrations.dask.sealed import Sealed
from arrowpool.transport.protocol import SOME_ITEM

#: Outcomes are held back for the rest of their step, but no longer if none comes for so long.
_MOMENT_SECONDS = 0.02


class NodeTask(NamedTuple):
    """A task on its node: its payload, its `Star`, and how many positions it has: of items, or of groups."""

    payload: Sealed
    star: int
    positions: int


class Outcome(NamedTuple):
    """Of one task.

    Attributes
    ----------
    success : bool
        Whether it succeeded.
    value : Sealed or BaseException
        Its value or exception; not sealed if it is an error of the local pool. The `index` of such an error is a position.
    text : str
        The traceback of the exception.
    at : int
        The position for which the function raised: as in `TaskFailed`.
    """

    success: bool
    value: Sealed | BaseException
    text: str
    at: int = SOME_ITEM


class Done(NamedTuple):
    """The outcomes of tasks that are sent together, and the seconds that they took in their processes, all in all."""

    outcomes: list[Outcome]
    seconds: float


class Steps:
    """Runs the tasks of one batch. They begin in steps, whose size depends on what a task takes.

    When half of a short step is done, the next one begins behind it, so that no process waits for the client's permission or for this
    thread. Outcomes are sent at the end of each step, or when nothing else comes for a moment. The batch ends early when the client
    permits no more, or after a long time.

    Parameters
    ----------
    line : Line
        Permits tasks to begin, and takes their outcomes.
    batch : int
        The batch's number.
    tasks : sequence of NodeTask
        Its tasks.
    pace : (float or None, int)
        The mean seconds of the call's tasks so far, if it is known, and the number of these tasks.
    processes : int
        How many tasks of the batch run at a time.
    begin : callable
        Begins tasks in the local pool; returns its results.
    over : callable
        Gets the results when all are there.

    Attributes
    ----------
    answered : int
        So many tasks have their outcomes.
    """

    def __init__(
        self,
        line: Line,
        batch: int,
        tasks: Sequence[NodeTask],
        pace: tuple[float | None, int],
        processes: int,
        begin: Callable[[Sequence[NodeTask]], IMapIterator[Any]],
        over: Callable[[IMapIterator[Any]], None],
    ):
        self._line = line
        self._batch = batch
        self._tasks = tasks
        self._mean_seconds, self._measured = pace
        self._processes = processes
        self._begin_in_pool = begin
        self._over = over
        self._began = time.perf_counter()
        #: Number of tasks that have begun; and whether more may.
        self._begun = 0
        self._goes_on = True
        #: The steps that run: the number of tasks of each, and their results.
        self._running: deque[tuple[int, IMapIterator[Any]]] = deque()
        self._failure: Exception | None = None
        self.answered = 0

    def run(self) -> None:
        """Return when all that has begun has its outcomes, and nothing more begins.

        Raises
        ------
        Exception
            When the local pool takes no tasks. Those that had begun have their outcomes nevertheless.
        """
        self._begin()
        while self._running:
            self._collect()
            if not self._running:
                self._begin()
        if self._failure is not None:
            raise self._failure

    def _begin(self) -> None:
        """Begin the next step, if there is one and the client permits it."""
        size = step_size(self._mean_seconds, self._processes, self._measured + self._begun)
        these = self._tasks[self._begun : self._begun + size]
        self._goes_on = (
            self._goes_on
            and bool(these)
            and time.perf_counter() - self._began < LONG_BATCH_SECONDS
            and self._line.may_begin(self._batch, self._begun, len(these))
        )
        if self._goes_on:
            try:
                self._running.append((len(these), self._begin_in_pool(these)))
                self._begun += len(these)
            except Exception as error:
                self._failure, self._goes_on = error, False

    def _collect(self) -> None:
        """Send the outcomes of the first step that runs. Begins the next one on the way."""
        count, results = self._running.popleft()
        waiting: list[Outcome] = []
        done, seconds, sent_seconds = 0, 0.0, 0.0
        for found in _outcomes(results, count):
            if found is not None:
                outcome, of_task = found
                waiting.append(outcome)
                done, seconds = done + 1, seconds + of_task
                self._mean_seconds = seconds / done
            if waiting and (found is None or done == count):
                self._line.put("outcomes", self._batch, self.answered, Done(waiting, seconds - sent_seconds))
                self.answered, sent_seconds, waiting = self.answered + len(waiting), seconds, []
            may_begin = self._goes_on and not self._running and 2 * done >= count
            if may_begin and may_overlap(self._mean_seconds, count, self._processes):
                self._begin()
        self._over(results)


def _outcomes(results: IMapIterator[Any], count: int) -> Iterator[tuple[Outcome, float] | None]:
    """All outcomes, in order, each with the seconds that the task took. None whenever there is no other for a moment."""
    error: BaseException = CancelledError()
    while count:
        found: tuple[Outcome, float] | None
        try:
            success, value, text, at, seconds = results.next(_MOMENT_SECONDS)
            found = Outcome(success, value, text, at), seconds
        except multiprocessing.TimeoutError:
            yield None
            continue
        except StopIteration:  # the call was cancelled
            yield from [(Outcome(False, error, ""), 0.0)] * count
            return
        except BaseException as of_pool:  # the task process was lost, or has no memory
            error = of_pool
            found = Outcome(False, error, ""), 0.0
        count -= 1
        yield found
