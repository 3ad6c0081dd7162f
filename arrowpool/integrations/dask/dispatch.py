"""Which call's tasks go to which node next: makes batches.

In the feeder's thread. Decides only: the feeder sends what `batches` yields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from arrowpool.engine.calls import name_of_function
from arrowpool.integrations.dask.batches import BATCH_BYTES, batch_size
from arrowpool.integrations.dask.demand import SHORTEST_SECONDS, Waiting
from arrowpool.integrations.dask.drawing import Drawing, OpenCall
from arrowpool.integrations.dask.events import Batch, Item, NodeJoined
from arrowpool.integrations.dask.sealer import Sealer
from arrowpool.integrations.dask.window import Load, least_loaded


class Dispatch:
    """Nodes and the turns of calls.

    Parameters
    ----------
    drawing, sealer
        Collaborators.
    """

    def __init__(self, drawing: Drawing, sealer: Sealer):
        self._drawing = drawing
        self._sealer = sealer
        #: The feeder writes; other threads read a copy.
        self._nodes: dict[str, Load] = {}
        self._turns: deque[OpenCall] = deque()
        self._number = 0

    @property
    def processes(self) -> int:
        """Task processes of all nodes. From any thread."""
        return sum(node.processes for node in list(self._nodes.values()))

    @property
    def has_nodes(self) -> bool:
        """Whether there are nodes, also those that are paused."""
        return bool(self._nodes)

    def join(self, event: NodeJoined) -> None:
        """A node can be given batches."""
        self._nodes[event.address] = Load(event.address, event.nthreads, event.processes, is_running=event.running)

    def set_running(self, address: str, running: bool) -> None:
        """Whether a node is given batches."""
        node = self._nodes.get(address)
        if node is not None:
            node.is_running = running

    def leave(self, address: str) -> None:
        """A node is there no more. All its batches are over."""
        self._nodes.pop(address, None)

    def add(self, state: OpenCall) -> None:
        """A call takes turns."""
        self._turns.append(state)

    def remove(self, state: OpenCall) -> None:
        """A call has ended."""
        if state in self._turns:
            self._turns.remove(state)

    def clear(self) -> None:
        """All calls have ended."""
        self._turns.clear()

    def over(self, batch: Batch) -> None:
        """A batch is over."""
        node = self._nodes.get(batch.node)
        if node is not None:
            node.batches -= 1
            node.nbytes -= batch.nbytes

    def waiting(self) -> Waiting:
        """What waits here for nodes, of calls whose length is known."""
        per_slot = max((node.processes_per_slot for node in self._nodes.values()), default=1)
        tasks, seconds = 0, 0.0
        for state in self._turns:
            left = state.left
            if not left or not self._drawing.waits_for_nodes(state):
                continue
            tasks += left
            seconds += left * (SHORTEST_SECONDS if state.mean_seconds is None else state.mean_seconds)
        return Waiting(-(-tasks // per_slot), seconds / per_slot)

    def hurry(self) -> None:
        """Hold no call back from now on: the pool is closed."""
        self._drawing.open()

    def batches(self) -> Iterator[tuple[OpenCall, Batch | None]]:
        """Batches, of the calls in turn, until no node has room or no call has a task.

        A call without a task now is yielded without a batch: it may have ended.
        """
        without = 0
        while self._turns and without < len(self._turns):
            node = least_loaded(self._nodes.values())
            if node is None:
                return
            state = self._turns[0]
            self._turns.rotate(-1)
            batch = self._batch(state, node)
            without = 0 if batch is not None else without + 1
            calls = len(self._turns)
            yield state, batch
            if len(self._turns) < calls:  # it has ended: the others are looked at again
                without = 0

    def _batch(self, state: OpenCall, node: Load) -> Batch | None:
        slots = sum(other.nthreads for other in self._nodes.values())
        left = None if state.call.length is None else state.call.length - state.drawn + len(state.returned)
        size = batch_size(state.mean_seconds, node.processes_per_slot, left, slots)
        items: list[Item] = []
        nbytes = 0
        while len(items) < size and nbytes < BATCH_BYTES:
            item = self._drawing.next(state, size)
            if item is None:
                break
            if items and item.function is not items[0].function:
                state.returned.appendleft(item)  # the function was changed before: it goes first the next time
                break
            items.append(item)
            nbytes += item.payload.nbytes
        if not items or state.failure is not None:
            return None
        function = items[0].function
        self._number += 1
        batch = Batch(
            number=self._number,
            call=state.call.job,
            label=name_of_function(state.call.function),
            node=node.address,
            mean_seconds=state.mean_seconds,
            measured=state.answered,
            function=None if function is None else function.place,
            function_shared=[] if function is None else function.shared,
            items=items,
            nbytes=nbytes,
            shared=self._sealer.needed(state.sealed, items),
        )
        node.batches += 1
        node.nbytes += nbytes
        state.pending += len(items)
        return batch
