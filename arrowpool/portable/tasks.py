"""What a worker does with a task where there is no shared memory: it applies the function, and pickles what comes of it.

All of it is done before the standard library's loop sends the reply. So every reply can be sent, and rebuilt where it arrives.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from arrowpool.engine.item_names import ItemNames
from arrowpool.errors import add_note, contained, said, set_index
from arrowpool.portable.parcels import Parcel, dumps_value
from arrowpool.transport.culprits import explain, in_function, in_task
from arrowpool.transport.error_packing import raised
from arrowpool.transport.protocol import SOME_ITEM, Star
from arrowpool.transport.sent_errors import SentError
from arrowpool.worker.items import Items
from arrowpool.worker.results import encode_value, goes_on, not_sendable


class Reply(NamedTuple):
    """What a worker answers.

    Attributes
    ----------
    stream : bytes
        The pickle of the value, or of the exception.
    text : str or None
        The traceback of the exception; None for a value.
    at : int
        Position of the item that has caused the exception, as for `name_error`.
    items : int
        Number of items of the task.
    """

    stream: bytes
    text: str | None
    at: int
    items: int


def _caught(error: BaseException) -> SentError:
    return raised(error, dumps_value)


#: For the worker's main thread only. What runs is not noted: a lost worker ends its pool.
_items = Items(lambda at, count: None, lambda at, key: None, _caught)


def run(stream: bytes, count: int) -> Reply:
    """Run a task.

    Parameters
    ----------
    stream : bytes
        The pickle of the function, of a `Star`, and of the payload.
    count : int
        Number of items.
    """
    function: Any = None
    try:
        function, star, payload = pickle.loads(stream)
        value = _items.apply(0, function, star, payload)
        payload = None
    except BaseException as error:
        return _failed(error, count)
    try:
        stream = encode_value(value, star, goes_on(function, star), dumps_value, dumps_value, dumps_value)
        return Reply(stream, None, SOME_ITEM, count)
    except BaseException as error:
        failure, at = not_sendable(error, value, star)
        return Reply(dumps_value(failure), said(error, str), at, count)


def _failed(error: BaseException, count: int) -> Reply:
    # A separate function: no frame of the traceback refers to the error, and such a cycle would keep the arguments alive.
    at = _items.failed_at()
    return Reply(*raised(error, dumps_value), at, count)


class _Value:
    """An object that is rebuilt when the message arrives that it is in."""

    __slots__ = ("_value",)

    def __init__(self, value: Any):
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return pickle.loads, (dumps_value(self._value),)
        except BaseException as error:
            explain(error, [("the result", self._value)], returned=True)
            raise


class TaskParcel(Parcel):
    """A task of the executor, ``(function, star, payload)``. Where it cannot be pickled, its error says where the object is.

    Parameters
    ----------
    function, star, payload
        As of a task.
    names : ItemNames, optional
        Names the items of a chunk.
    """

    __slots__ = ("_names",)

    def __init__(self, function: Any, star: Star, payload: Any, names: ItemNames | None = None):
        super().__init__((function, star, payload))
        self._names = names

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return super().__reduce__()
        except BaseException as error:
            function, star, payload = self.open()
            at = explain(error, in_task(star, payload))
            if at is None:
                explain(error, in_function(function))
            elif self._names is not None:
                numbers = self._names.numbers(0, len(payload))[at : at + 1]
                add_note(error, self._names.note(numbers))
                set_index(error, numbers[0])
            # Anything but an Exception would end the standard library's thread, and all calls would wait.
            if isinstance(error, Exception):
                raise
            raise contained(error, "pickling it") from error


def run_chunk(parcel: Parcel, count: int) -> Reply:
    """As `run`, for a task of the executor's that has items."""
    return run(parcel.packed, count)


def run_directly(parcel: Parcel) -> Any:
    """Run a task of the executor's that is one call. The standard library handles its exceptions."""
    try:
        function, _, (args, kwds) = parcel.open()
        return _Value(function(*args, **kwds))
    except (SystemExit, KeyboardInterrupt) as error:
        raise contained(error) from error
