"""Makes a `SentError` of an exception, and what a worker sends in the place of a value that cannot be sent.

How objects are pickled is up to the caller: here and there, they travel in different ways.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.pool import ExceptionWithTraceback, MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any, TypeAlias

from arrowpool.errors import add_note, contained, said, trace_of, with_notes
from arrowpool.transport.culprits import explain, in_task
from arrowpool.transport.protocol import SOME_ITEM
from arrowpool.transport.sent_errors import SentError

#: Pickles an object into one stream.
Pickle: TypeAlias = Callable[[Any], bytes]

#: Where the exceptions are from that pickle raises itself.
_OWN_MODULES = frozenset({"builtins", "pickle", "_pickle"})

#: Of one task, so many items that cannot be sent are looked into.
_MOST_EXPLAINED = 20


class _Said:
    """An object with a given `repr`."""

    def __init__(self, text: str):
        self._text = text

    def __repr__(self) -> str:
        return self._text


def not_encoded(error: BaseException, value: Any, what: str = "the result") -> MaybeEncodingError:
    """The standard library's error for a value that cannot be sent. Its text has the `repr` of both, even if that fails.

    A note says where in it the object is that cannot be pickled.
    """
    failure = _encoding_error(error, value)
    explain(error, [(what, value)], returned=True, noted_in=failure)
    return failure


def not_encoded_of(error: BaseException, results: list[Any]) -> tuple[MaybeEncodingError, int]:
    """As `not_encoded`, of the results of a task's items, and the position of the item whose result cannot be sent."""
    failure = _encoding_error(error, results)
    at = explain(error, [("the result", one) for one in results], returned=True, noted_in=failure)
    return failure, SOME_ITEM if at is None else at


def _encoding_error(error: BaseException, value: Any) -> MaybeEncodingError:
    failure = MaybeEncodingError(_Said(said(error)), _Said(said(value)))
    # Only exceptions that surely arrive.
    if (
        type(error).__module__ in _OWN_MODULES
        and isinstance(error, Exception)
        and all(type(one) is str for one in error.args)
    ):
        failure.refusal = type(error), error.args
    return failure


def refusal_of(error: BaseException) -> BaseException:
    """The error of an executor's future for the error of a pool's call.

    A pool raises `MaybeEncodingError` for a result that cannot be pickled, an executor the error of pickling it, as those of the
    standard library do.
    """
    if type(error) is not MaybeEncodingError:
        return error
    cls, args = vars(error).get("refusal", (None, ()))
    if cls is None:
        return error
    try:
        refusal: BaseException = cls(*args)
    except Exception:  # a class that only says that it is Python's own
        return error
    for note in vars(error).get("__notes__", ()):
        add_note(refusal, note)
    refusal.__cause__ = error.__cause__
    return refusal


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception as text, even if the exception's own code fails while it is formatted."""
    try:
        return "".join(traceback.format_exception(type(error), error, trace_of(error)))
    except BaseException as failure:
        called = "".join(traceback.format_tb(trace_of(error)))
        return f"Traceback (most recent call last):\n{called}{type(error).__qualname__}, which cannot be shown: {said(failure)}\n"


def with_traceback(error: BaseException, failure: BaseException) -> ExceptionWithTraceback:
    """`failure`, which is `error` or stands for it, with the text of the traceback of `error`."""
    try:
        wrapped = ExceptionWithTraceback(failure, trace_of(error))
    except BaseException:
        wrapped = object.__new__(ExceptionWithTraceback)
        wrapped.exc, wrapped.tb = failure, f'\n"""\n{traceback_of(error)}"""'
        BaseException.with_traceback(failure, None)
    if sys.version_info < (3, 11):
        wrapped.tb = with_notes(wrapped.tb, failure)
    return wrapped


def raised(error: BaseException, pickle: Pickle) -> SentError:
    """An exception that was raised here, with its traceback."""
    text = traceback_of(error)
    return SentError(_stream(with_traceback(error, contained(error)), error, pickle), text)


def unraised(error: BaseException, pickle: Pickle) -> SentError:
    """An exception whose traceback says nothing."""
    return SentError(_stream(error, error, pickle), "")


def sendable(
    items: Sequence[Any], reduce: Callable[[Any], object], star: int, pickle: Pickle
) -> tuple[Any, ...] | None:
    """The items of a task, with an error in the place of each that `reduce` raises for; None if there is no such item."""
    found: list[Any] = []
    failures = 0
    for item in items:
        try:
            reduce(item)
        except BaseException as error:
            failures += 1
            if failures <= _MOST_EXPLAINED:
                explain(error, in_task(star, (item,)))
            item = unraised(contained(error, "pickling it"), pickle)
        found.append(item)
    return tuple(found) if failures else None


def _stream(wrapped: Any, error: BaseException, pickle: Pickle) -> bytes:
    try:
        return pickle(wrapped)
    except BaseException as failure:
        return pickle(not_encoded(failure, error, "the exception"))
