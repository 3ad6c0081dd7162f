"""What becomes of a task whose arguments cannot be pickled: its error says which of them, and where in it."""

from __future__ import annotations

from typing import Any

from arrowpool.engine.calls import Call
from arrowpool.engine.events import Failed
from arrowpool.errors import contained
from arrowpool.transport.culprits import explain, in_task, one_of
from arrowpool.transport.protocol import NO_ITEM, SOME_ITEM


def refused(error: BaseException, call: Call, index: int, star: int, payload: Any, *, by_function: bool) -> Failed:
    """The outcome of a task that could not be encoded.

    Parameters
    ----------
    error : BaseException
        The error.
    call, index
        The call, and the index of the task in it.
    star, payload
        As of a task.
    by_function : bool
        Whether the call's function could not be encoded: then no item has caused the error.
    """
    failure = contained(error, "pickling it")
    if by_function:
        return Failed(call, index, failure, at=NO_ITEM)
    at = explain(error, in_task(star, payload), noted_in=failure)
    return Failed(call, index, failure, len(payload) if star else 1, one_of(payload, at) if star else SOME_ITEM)
