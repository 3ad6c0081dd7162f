"""Items in words: errors say which item of their call they belong to, and how often it was tried; traces name the items of a task.

Errors are named in the collector's thread, before a result is set.
"""

from __future__ import annotations

from arrowpool.engine.calls import Call, TaskOfCall, name_of
from arrowpool.errors import name_item
from arrowpool.transport.protocol import NO_ITEM


def numbers_of(call: Call, index: int, count: int, positions: range) -> range | None:
    """The indexes of the items that an error may belong to: one if it is known which, otherwise all of the task.

    Parameters
    ----------
    call : Call
        The call.
    index, count : int
        Index of the task in the call, and number of its items.
    positions : range
        Positions in the task of the items that may have caused the error; empty if they are not known.

    Returns
    -------
    range or None
        None for a call without items, such as `apply`.
    """
    names = call.names
    if names is None:
        return None
    numbers = names.numbers(index, count)
    return numbers[positions.start : positions.stop] or numbers


def raised_for(at: int) -> range:
    """As positions, the position for which a function raised, as `TaskFailed` has it."""
    return range(max(0, at), at + 1)


def name_error(error: BaseException, call: Call, index: int, count: int, at: int, tries: int = 1) -> None:
    """Note the item in an error, and its index as an attribute.

    Parameters
    ----------
    error : BaseException
        The error. Its type, arguments and text stay.
    call, index, count
        As for `numbers_of`.
    at : int
        Position of the item in the task; `SOME_ITEM` if it is not known, `NO_ITEM` for an error that no item has caused.
    tries : int
        How often the task was run.
    """
    if at == NO_ITEM:
        return
    tried = f"tried {tries} times" if tries > 1 else ""
    numbers = numbers_of(call, index, count, raised_for(at))
    if numbers is None or call.names is None:
        name_item(error, call.job, note=tried)
        return
    note = ", ".join(filter(None, (call.names.note(numbers), tried)))
    name_item(error, call.job, numbers[0] if len(numbers) == 1 else None, note)


def describe(task: TaskOfCall, numbers: range | None = None) -> str:
    """A task in words: "compute on item 617 of 1,000".

    Parameters
    ----------
    task : TaskOfCall
        The task.
    numbers : range, optional
        The indexes of its items that are meant. By default all of them.
    """
    call, name = task.call, name_of(task)
    if call.names is None:
        # A call that other code has queued has tasks; a single call has one.
        return name if call.length == 1 else f"task {task.index:,} of {name}"
    return f"{name} on {call.names.text(numbers or call.names.numbers(task.index, task.count))}"


def items_of(call: Call, index: int, count: int) -> str:
    """The items of a task in words: "items 30 to 39 of 1,000"; empty for a single call.

    Parameters
    ----------
    call : Call
        The call.
    index, count : int
        Index of the task in the call, and number of its items; or of a first task, and number of the items of several.
    """
    if call.names is None:
        return "" if call.length == 1 else f"task {index:,}"
    return call.names.text(call.names.numbers(index, count))
