"""The results in the value of a task, and what is sent in the place of those that cannot be sent.

How objects are encoded is up to the caller: into shared memory, into a pickle, or sealed for the client of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any, TypeVar

from arrowpool.frames.work import Answer, ApplyToRun
from arrowpool.transport.error_packing import Pickle, not_encoded, not_encoded_of, unraised
from arrowpool.transport.protocol import KEEPS_GOING, SOME_ITEM, Star
from arrowpool.transport.sent_errors import Outcomes, SentError

_Encoded = TypeVar("_Encoded")


def goes_on(function: Any, star: int) -> bool:
    """Whether a task goes on after an exception of one of its items."""
    return star in KEEPS_GOING or (type(function) is ApplyToRun and function.goes_on)


def encode_value(
    value: Any,
    star: int,
    goes_on: bool,
    encode: Callable[[Any], _Encoded],
    attempt: Callable[[Any], object],
    pickle: Pickle,
    passes: tuple[type[BaseException], ...] = (),
) -> _Encoded:
    """Encode the value of a task that has succeeded.

    Parameters
    ----------
    value : object
        The value.
    star : int
        How the function was applied: a `Star`.
    goes_on : bool
        Whether the task goes on after exceptions. Then each result that cannot be encoded becomes an error of its own.
    encode : callable
        Encodes the value.
    attempt : callable
        Raises for a result that cannot be encoded.
    pickle : callable
        Pickles the error in its place.
    passes : tuple of type
        Exceptions that say nothing of the value.

    Raises
    ------
    BaseException
        What `encode` raises: see `not_sendable`.
    """
    try:
        return encode(value)
    except passes:
        raise
    except BaseException:
        results = _results_of(value, star) if goes_on else None
        if results is None:
            raise
    return encode(_with_results(value, [_sendable(one, attempt, pickle) for one in results]))


def not_sendable(error: BaseException, value: Any, star: int) -> tuple[MaybeEncodingError, int]:
    """The error of a task whose value cannot be sent, and the position of the item whose result is the reason."""
    results = _results_of(value, star)
    return (not_encoded(error, value), SOME_ITEM) if results is None else not_encoded_of(error, results)


def _sendable(value: Any, attempt: Callable[[Any], object], pickle: Pickle) -> Any:
    """The value, or an error in its place if it cannot be encoded."""
    try:
        if type(value) is not SentError:
            attempt(value)
        return value
    except BaseException as error:
        return unraised(not_encoded(error, value), pickle)


def _results_of(value: Any, star: int) -> list[Any] | None:
    """The result of each item, or of each group of a run, in the value of a task; None if they are not apart."""
    if type(value) is Outcomes:
        return value.values
    answer = _answer_in(value)
    if answer is not None:
        return answer.values if type(answer.values) is list else None
    return value if star != Star.CALL and type(value) is list else None


def _with_results(value: Any, results: list[Any]) -> Any:
    """The value of a task with other results in the places of those from `_results_of`, some of them a `SentError`."""
    answer = _answer_in(value)
    if answer is None:
        return Outcomes(results)
    changed = answer._replace(values=results)
    return [changed] if type(value) is list else changed


def _answer_in(value: Any) -> Answer | None:
    """The results of a run of groups, if a value is that: the only item of its chunk, or the value of a call."""
    only = value[0] if type(value) is list and len(value) == 1 else value
    return only if type(only) is Answer else None
