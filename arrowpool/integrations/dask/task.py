"""What runs in a task process of a node: rebuild, run, seal. The only place on a node where the user's objects exist.

The function is applied as in a local pool, by the worker's own `Items`: so the local pool knows which item runs, and for which one the
function raised. Positions are those of items in the task of the cluster's pool.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from arrowpool.errors import add_note, contained, said
from arrowpool.integrations.dask.sealed import Opened, Sealed, rebuild, sealed
from arrowpool.transport.error_packing import not_encoded, traceback_of, with_traceback
from arrowpool.transport.protocol import SOME_ITEM
from arrowpool.transport.reducer import Reducer, dumps_stream
from arrowpool.tuning import INLINE_LIMIT
from arrowpool.worker.items import Items
from arrowpool.worker.results import encode_value, goes_on, not_sendable

#: Reducers that are not in use: a reduction may begin while another one runs. Each operation is atomic.
_idle: list[Reducer] = []

_NO_MODULE = (
    "This node does not have the module. Of the client's modules, only the script itself travels. Send others with "
    "client.upload_file(path), or have all nodes find them: in a directory that they share, or installed."
)


def initialize(opened: Opened) -> None:
    """Run the user's initializer."""
    ((function, args),) = _rebuild([opened])
    function(*args)


def run(function: Opened | None, task: tuple[Opened, int, dict[int, Opened]]) -> tuple[bool, Sealed, str, int, float]:
    """Run one task of the pool.

    Parameters
    ----------
    function : Opened
        The function. None where the payload has it.
    task : tuple
        The payload, which was reduced after the function; a `Star`, which says how the function is applied; and the shared
        objects that they refer to, by number.

    Returns
    -------
    tuple
        Whether the task succeeded, its value or exception, the traceback of the exception, the position of the item that raised it
        (as in `TaskFailed`), and the seconds that all took.
    """
    began = time.perf_counter()
    success, value, text, at = _run(function, *task)
    return success, value, text, at, time.perf_counter() - began


def _run(
    function: Opened | None, payload: Opened, star: int, shared: dict[int, Opened]
) -> tuple[bool, Sealed, str, int]:
    items = Items.own
    try:
        if function is None:
            ((called, payload_),) = _rebuild([payload], shared)
        else:
            called, payload_ = _rebuild([function, payload], shared)
        del function, payload, shared
        value = items.apply_within(called, star, payload_)
    except BaseException as error:
        return _failed(error, items.failed_at())
    payload_ = None  # what of it is a part of the value belongs to the value alone now
    try:
        return True, encode_value(value, star, goes_on(called, star), _seal, _seal, dumps_stream), "", SOME_ITEM
    except BaseException as error:
        failure, at = not_sendable(error, value, star)
        return False, _seal(failure), said(error, str), at


def _rebuild(parcels: Sequence[Opened], shared: Mapping[int, Opened] | None = None) -> list[Any]:
    try:
        return rebuild(parcels, shared)
    except ModuleNotFoundError as error:
        add_note(error, _NO_MODULE)
        raise


def _failed(error: BaseException, at: int) -> tuple[bool, Sealed, str, int]:
    # A function of its own, so that no frame in the traceback holds the error: that cycle would keep the arguments.
    failure, text = contained(error), traceback_of(error)
    try:
        return False, _seal(with_traceback(error, failure)), text, at
    except BaseException as why:
        return False, _seal(not_encoded(why, failure, "the exception")), text, at


def _seal(value: Any) -> Sealed:
    try:
        reducer = _idle.pop()
        reducer.refresh()  # a task may register reducers
    except IndexError:
        reducer = Reducer(inline_limit=INLINE_LIMIT)
    try:
        return sealed(*reducer.reduce(value))
    finally:
        _idle.append(reducer)
