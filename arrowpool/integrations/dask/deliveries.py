"""Delivers outcomes to the calls: opens what the nodes have sealed, says in errors which item they belong to, and sets results.

In a thread of its own, which runs the user's code: unpickling and callbacks. So neither Dask's event loop nor the feeder waits for it.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from arrowpool.engine.calls import OnError, TaskOfCall
from arrowpool.engine.events import Failed
from arrowpool.engine.naming import describe, name_error, numbers_of
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.outcomes import merged, not_rebuilt, outcome_of
from arrowpool.engine.unread import Imap
from arrowpool.errors import TaskTimeoutError, WorkerLostError
from arrowpool.integrations.dask.sealed import Sealed, rebuild
from arrowpool.integrations.dask.steps import Outcome
from arrowpool.threads import Service
from arrowpool.transport.protocol import SOME_ITEM
from arrowpool.transport.sent_errors import Outcomes


class Deliveries(Service):
    """The thread that sets results.

    Parameters
    ----------
    open_calls : OpenCalls
        The calls that wait for results.
    """

    def __init__(self, open_calls: OpenCalls):
        super().__init__("arrowpool-results")
        self._open_calls = open_calls
        #: Any thread puts, this service's thread gets.
        self._acts: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def deliver(self, task: TaskOfCall, outcome: Outcome) -> None:
        """Set the outcome of one task."""
        self._acts.put(lambda: self._deliver(task, outcome))

    def lose(self, task: TaskOfCall, error: BaseException) -> None:
        """Set the outcome of a task that no node has."""
        self._acts.put(lambda: self._set_error(task, error, SOME_ITEM))

    def refuse(self, failed: Failed) -> None:
        """Set the outcome of a task that could not be sent."""

        def act() -> None:
            given = failed.call, failed.index, failed.count, failed.at
            name_error(failed.error, *given)
            self._open_calls.set(failed.call.job, failed.index, *outcome_of(failed.error, *given))

        self._acts.put(act)

    def end(self, job: int, error: BaseException) -> None:
        """End a call."""
        self._acts.put(lambda: self._open_calls.end(job, error))

    def end_all(self, error: BaseException) -> None:
        """End all calls."""
        self._acts.put(lambda: self._open_calls.end_all(error))

    def do(self, act: Callable[[], None]) -> None:
        """Do something after all that was put before."""
        self._acts.put(act)

    def stop(self) -> None:
        """End the thread after what was put before."""
        self._acts.put(None)

    def run(self) -> None:
        while True:
            act = self._acts.get()
            if act is None:
                return
            act()
            del act  # it refers to a result

    def _deliver(self, task: TaskOfCall, outcome: Outcome) -> None:
        result = self._open_calls.find(task.call.job)
        if result is None or task.call.cancelled:
            return
        if isinstance(result, Imap) and not result.is_kept:  # counted, and not rebuilt
            self._open_calls.set(task.call.job, task.index, True, None)
            return
        success, value, text, at = outcome
        found: Any = None
        if not isinstance(value, Sealed):
            _rename(value, task)
            self._set_error(task, value, SOME_ITEM)
            return
        try:
            (found,) = rebuild([value])
        except BaseException as error:
            self._set_error(task, not_rebuilt(error, task, at, None if success else text), SOME_ITEM)
            return
        if not success:
            name_error(found, task.call, task.index, task.count, at, task.losses + 1)
            self._set_error(task, found, at)
            return
        if type(found) is Outcomes and task.call.on_error is OnError.RETURN_EACH:
            found = merged(task, found)
        self._open_calls.set(task.call.job, task.index, True, found)

    def _set_error(self, task: TaskOfCall, error: BaseException, at: int) -> None:
        outcome = outcome_of(error, task.call, task.index, task.count, at)
        self._open_calls.set(task.call.job, task.index, *outcome)


def _rename(error: BaseException, task: TaskOfCall) -> None:
    """Name the task in an error of a local pool, whose `index` is the position of an item in this task."""
    if not isinstance(error, (WorkerLostError, TaskTimeoutError)):
        for of_position in ("__notes__", "index"):
            vars(error).pop(of_position, None)
        name_error(error, task.call, task.index, task.count, SOME_ITEM, task.losses + 1)
        return
    at = error.index
    numbers = numbers_of(task.call, task.index, task.count, range(0) if at is None else range(at, at + 1))
    error.task = describe(task, numbers)
    error.index = numbers[0] if numbers is not None and len(numbers) == 1 else None
    error.args = (*error.args[:2], error.task)
    if isinstance(error, WorkerLostError):
        error.tries += task.losses
