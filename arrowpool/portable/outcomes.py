"""Tasks on their way to a worker, and replies on their way to the result objects, in the pool's own process.

The errors of both say which item they belong to, as where memory is shared: see `engine.replies`.
"""

from __future__ import annotations

import pickle
from typing import Any

from arrowpool.engine.calls import PLAIN, Call, OnError, Task
from arrowpool.engine.naming import name_error
from arrowpool.engine.outcomes import merged, not_rebuilt, outcome_of
from arrowpool.engine.refusals import refused
from arrowpool.portable.parcels import dumps, dumps_value
from arrowpool.portable.tasks import Reply
from arrowpool.transport.culprits import explain, in_function
from arrowpool.transport.error_packing import sendable
from arrowpool.transport.protocol import KEEPS_GOING, SOME_ITEM, Star
from arrowpool.transport.sent_errors import Outcomes


def packed(function: Any, star: Star, payload: Any) -> bytes:
    """The pickle of a task. Where errors are returned, items that cannot be pickled are replaced by theirs.

    Raises
    ------
    BaseException
        Whatever pickling raises.
    """
    try:
        return dumps((function, star, payload))
    except BaseException:
        rest = sendable(payload, dumps, star, dumps_value) if star in KEEPS_GOING else None
        if rest is None:
            raise
    return dumps((function, star, rest))


def refusal(error: BaseException, call: Call, index: int, star: Star, payload: Any) -> tuple[bool, Any]:
    """What the result gets for a task that could not be pickled. If its function is the reason, no item has caused the error."""
    by_function = _is_refused(call.function)
    failure, count, at = refused(error, star, payload, by_function=by_function)
    if by_function:
        explain(error, in_function(call.function), noted_in=failure)
    name_error(failure, call, index, count, at)
    return outcome_of(failure, call, index, count, at)


def _is_refused(function: Any) -> bool:
    try:
        dumps(function)
    except BaseException:
        return True
    return False


def outcome_of_reply(call: Call, index: int, reply: Reply) -> tuple[bool, Any]:
    """What the result gets for a reply."""
    task = Task(call, index, Star.CALL, PLAIN, (), count=reply.items)
    try:
        value = pickle.loads(reply.stream)
    except BaseException as error:
        failure = not_rebuilt(error, task, reply.at, reply.text)
        return outcome_of(failure, call, index, reply.items, SOME_ITEM)
    if reply.text is not None:
        name_error(value, call, index, reply.items, reply.at)
        return outcome_of(value, call, index, reply.items, reply.at)
    if type(value) is Outcomes and call.on_error is OnError.RETURN_EACH:
        value = merged(task, value)
    return True, value
