"""Draws the tasks of calls, and seals them: from the user's iterables, and from what lost nodes have returned.

In the feeder's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.pool import _helper_reraises_exception  # type: ignore[attr-defined]

from arrowpool.engine.calls import Call
from arrowpool.engine.events import Failed
from arrowpool.engine.item_names import ItemNames
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.unread import Imap
from arrowpool.errors import contained
from arrowpool.integrations.dask.deliveries import Deliveries
from arrowpool.integrations.dask.events import Item
from arrowpool.integrations.dask.sealer import SealedCall, Sealer
from arrowpool.integrations.dask.window import WINDOW_BYTES
from arrowpool.transport.protocol import NO_ITEM

#: Tasks of an imap whose results were not read: on their way to a node, running, on their way back, being rebuilt, or waiting to be
#: read.
_UNREAD = 10_000


@dataclass(slots=True, eq=False)
class OpenCall:
    """An open call. For the feeder only.

    Attributes
    ----------
    failure : BaseException or None
        The error of the user's iterator that ends the call.
    """

    call: Call
    sealed: SealedCall
    #: Tasks that a lost node had not begun, or that are run again.
    returned: deque[Item] = field(default_factory=deque)
    exhausted: bool = False
    failure: BaseException | None = None
    drawn: int = 0
    last_index: int = -1
    pending: int = 0
    mean_seconds: float | None = None
    result_bytes: int = 0
    answered: int = 0

    @property
    def left(self) -> int:
        """Number of tasks that wait here, as far as it is known."""
        length, names = self.call.length, self.call.names
        if length is None and isinstance(names, ItemNames) and names.count is not None:
            length = -(-names.count // names.size)  # of an imap
        return len(self.returned) + (0 if length is None or self.exhausted else max(0, length - self.drawn))

    def close(self) -> None:
        """Draw no more."""
        if self.call.source is not None:
            self.call.source.close()


class Drawing:
    """Draws tasks.

    Parameters
    ----------
    sealer, deliveries, open_calls
        Collaborators.
    look : callable
        Has the feeder look again. Called by the thread that reads a result.
    """

    def __init__(self, *, sealer: Sealer, deliveries: Deliveries, open_calls: OpenCalls, look: Callable[[], None]):
        self._sealer = sealer
        self._deliveries = deliveries
        self._open_calls = open_calls
        self._look = look
        #: Whether the pool is closed, so no call is held back any more.
        self._open = False

    def open(self) -> None:
        """Hold no call back from now on: the pool is closed, and its user may read results only after its end."""
        self._open = True

    def next(self, state: OpenCall, count: int) -> Item | None:
        """The next task of a call; None when it has none now."""
        while True:
            if state.returned:
                return state.returned.popleft()
            if state.exhausted or self._is_throttled(state):
                return None
            source = state.call.source
            if source is not None:
                if not source.has_some():
                    if source.may_go_on():
                        source.ask(max(count, 1))
                    if not source.has_some():
                        return None
                elif source.may_go_on():
                    source.ask(max(count, 1))
            try:
                task = next(state.call.tasks)
            except StopIteration:
                self._exhaust(state)
                return None
            except BaseException as error:
                state.failure = contained(error, "the iterator")
                state.exhausted = True
                return None
            state.drawn += 1
            index = state.last_index = task[1]
            if task[2] is _helper_reraises_exception:
                found: Item | Failed = Failed(state.call, index, task[3][0], at=NO_ITEM)
            else:
                found = self._sealer.seal(state.sealed, task)
            del task
            if isinstance(found, Item):
                return found
            self._deliveries.refuse(found)

    def _exhaust(self, state: OpenCall) -> None:
        state.exhausted = True
        state.call.items = None
        state.call.shared.clear()
        set_length, length = state.call.set_length, state.last_index + 1
        if set_length is not None:
            self._deliveries.do(lambda: set_length(length))

    def waits_for_nodes(self, state: OpenCall) -> bool:
        """Whether the tasks of a call wait for nodes, not for results to be read."""
        result = self._open_calls.find(state.call.job)
        return not isinstance(result, Imap) or not self._is_full(state, result)

    def _is_throttled(self, state: OpenCall) -> bool:
        """Whether enough results of an imap are unread, or on their way to that."""
        result = self._open_calls.find(state.call.job)
        if not isinstance(result, Imap):
            return False
        if not self._is_full(state, result):
            return False
        result.when_read(self._look)
        return self._is_full(state, result)

    def _is_full(self, state: OpenCall, result: Imap) -> bool:
        if self._open:
            return False
        count = state.drawn - result.taken()
        mean = state.result_bytes / state.answered if state.answered else 0.0
        return bool(count > 1 and (count >= _UNREAD or count * mean >= WINDOW_BYTES))
