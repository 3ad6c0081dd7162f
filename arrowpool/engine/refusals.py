"""What becomes of a task whose arguments cannot be pickled: its error says which of them, and where in it."""

from __future__ import annotations

from typing import Any

from arrowpool.errors import contained
from arrowpool.transport.culprits import explain, in_task, one_of
from arrowpool.transport.protocol import NO_ITEM, SOME_ITEM


def refused(error: BaseException, star: int, payload: Any, *, by_function: bool) -> tuple[BaseException, int, int]:
    """The error of a task that could not be pickled, its number of items, and the position of the one that is the reason.

    Parameters
    ----------
    error : BaseException
        The error.
    star, payload
        As of a task.
    by_function : bool
        Whether the call's function could not be pickled: then no item has caused the error, and who pickles functions explains it.
    """
    failure = contained(error, "pickling it")
    if by_function:
        return failure, 1, NO_ITEM
    at = explain(error, in_task(star, payload), noted_in=failure)
    return failure, len(payload) if star else 1, one_of(payload, at) if star else SOME_ITEM
