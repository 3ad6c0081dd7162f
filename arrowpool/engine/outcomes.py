"""What the result object of a call gets for an error of a task: the error is raised, or returned in the place of a value.

Used in the collector's thread.
"""

from __future__ import annotations

import pickle
import traceback
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

from arrowpool.engine.calls import Call, OnError, TaskOfCall
from arrowpool.engine.naming import describe, name_error, numbers_of, raised_for
from arrowpool.errors import TaskTimeoutError, TransferError, WorkerLostError, again, name_item, said, trace_of
from arrowpool.transport.protocol import NO_ITEM
from arrowpool.transport.sent_errors import Outcomes, SentError


def outcome_of(error: BaseException, call: Call, index: int, count: int, at: int) -> tuple[bool, Any]:
    """Whether a failed task counts as one that succeeded, and its value.

    Parameters
    ----------
    error : BaseException
        The error.
    call, index, count, at
        As for `name_error`. An error that no item has caused is raised in any case.
    """
    if call.on_error is OnError.RAISE or at == NO_ITEM:
        return False, error
    if call.on_error is OnError.RETURN:
        return True, error
    assert call.names is not None
    return True, one_for_each(error, call.job, call.names.numbers(index, count))


def one_for_each(error: BaseException, job: int, numbers: range) -> list[BaseException]:
    """The error of several items of a call for each of them, with its index."""
    errors = [error, *(_copied(error) for _ in numbers[1:])]
    for one, number in zip(errors, numbers, strict=True):
        if isinstance(one, (WorkerLostError, TaskTimeoutError)):
            one.index = number
        else:
            name_item(one, job, number)
    return errors


def _copied(error: BaseException) -> BaseException:
    try:
        return again(error)
    except Exception:  # the class of the user's exception cannot be copied
        return error


def not_rebuilt(error: BaseException, task: TaskOfCall, at: int, text: str | None) -> TransferError:
    """The error of a task whose result or exception could not be rebuilt. Refers to no memory of the worker.

    Parameters
    ----------
    error : BaseException
        The error of rebuilding it.
    task : TaskOfCall
        The task.
    at : int
        As for `name_error`.
    text : str or None
        The traceback of the exception that could not be rebuilt; None for a result.
    """
    numbers = numbers_of(task.call, task.index, task.count, raised_for(at))
    kind = "result" if text is None else "exception"
    failure = TransferError(f"the {kind} of {describe(task, numbers)} could not be rebuilt here: {said(error)}")
    if numbers is not None and len(numbers) == 1:
        name_item(failure, task.call.job, numbers[0])
    # The variables of all frames are cleared: they hold leases. The first frame still runs, so it is left out.
    trace = trace_of(error)
    below = None if trace is None else trace.tb_next
    traceback.clear_frames(below)
    failure.__cause__ = BaseException.with_traceback(error, below) if text is None else RemoteTraceback(text)
    return failure


def merged(task: TaskOfCall, outcomes: Outcomes) -> list[Any]:
    """The values of a task, and its exceptions in their places."""
    call, index, count = task.call, task.index, task.count
    values: list[Any] = []
    for at, value in enumerate(outcomes.values):
        if type(value) is SentError:
            numbers = numbers_of(call, index, count, range(at, at + 1))
            value = rebuilt(value, describe(task, numbers))
            if not isinstance(value, TransferError):
                name_error(value, call, index, count, at, task.losses + 1)
            elif numbers is not None:
                name_item(value, call.job, numbers[0])
        values.append(value)
    return values


def rebuilt(sent: SentError, what: str) -> BaseException:
    """An exception that came as a value; a `TransferError` in its place if it cannot be rebuilt.

    Parameters
    ----------
    sent : SentError
        The exception.
    what : str
        The task that raised it, in words.
    """
    try:
        error = pickle.loads(sent.stream)
    except BaseException as failure:
        error = TransferError(f"the exception of {what} could not be rebuilt here: {said(failure)}")
        error.__cause__ = RemoteTraceback(sent.text)
    assert isinstance(error, BaseException)
    return error
