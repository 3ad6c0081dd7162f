"""What a pool has on a node, in the Dask worker process: the local pool, and the shared objects that are placed in it.

`run_batch` and `place` run as Dask tasks, in the threads of the Dask worker. `tell` and `interrupt` run in its event loop, and do not block.
The node never unpickles an object of the user's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from arrowpool.engine import judge
from arrowpool.engine.imap import IMapIterator
from arrowpool.engine.item_names import ItemNames
from arrowpool.integrations.dask.line import Line
from arrowpool.integrations.dask.sealed import Opening, Sealed
from arrowpool.integrations.dask.starting import NodeContext
from arrowpool.integrations.dask.steps import NodeTask, Steps
from arrowpool.integrations.dask.task import initialize, run
from arrowpool.pool import ArrowPool
from arrowpool.stats import Stats

#: The calls that were cancelled last: a batch of theirs may still arrive.
_CANCELLED_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """The checked arguments of a pool, for each of its nodes."""

    processes: int | None
    initializer: Sealed | None
    maxtasksperchild: int | None
    max_bytes: int | None
    spill_dir: str | None
    retries: int
    task_timeout: float | None


class Node:
    """The local pool of one node.

    Parameters
    ----------
    options : NodeOptions
        Of the pool.
    nthreads : int
        Number of the Dask worker's threads.
    """

    def __init__(self, options: NodeOptions, nthreads: int):
        self.processes = options.processes or nthreads
        judge.be_silent()  # a node waits for its client: that says nothing of the pool
        self._per_slot = -(-self.processes // max(nthreads, 1))
        initializer = options.initializer
        self._pool = ArrowPool(
            self.processes,
            None if initializer is None else initialize,
            () if initializer is None else (Opening(initializer),),
            options.maxtasksperchild,
            NodeContext(),
            max_bytes=options.max_bytes,
            spill_dir=options.spill_dir,
            retries=options.retries,
            task_timeout=options.task_timeout,
        )
        #: Held by every thread that reads or changes the attributes below.
        self._changing = threading.Lock()
        #: Over the same lock: notified when a batch has ended.
        self._idle = threading.Condition(self._changing)
        self._batches = 0
        #: Shared objects by number, and what ends their sharing.
        self._placed: dict[int, tuple[Opening, contextlib.ExitStack]] = {}
        #: Job numbers of the local pool's running calls, by call.
        self._running: dict[int, set[int]] = {}
        self._cancelled: dict[int, None] = {}

    def place(self, number: int, sealed: Sealed) -> None:
        """Place a shared object: tasks refer to it by its number."""
        opening, sharing = Opening(sealed), contextlib.ExitStack()
        sharing.enter_context(self._pool.share(opening))
        opening.sealed = None  # it lies in the arena now
        with self._changing:
            before = self._placed.pop(number, None)
            self._placed[number] = opening, sharing
        if before is not None:
            before[1].close()

    def forget(self, numbers: Sequence[int]) -> None:
        """End the sharing of objects."""
        with self._changing:
            ended = [self._placed.pop(number, None) for number in numbers]
        for entry in ended:
            if entry is not None:
                entry[1].close()

    def run_batch(
        self,
        line: Line,
        batch: int,
        call: int,
        pace: tuple[float | None, int],
        function: Sealed | int | None,
        function_shared: Sequence[int],
        tasks: Sequence[NodeTask],
    ) -> None:
        """Run tasks of one call, in `Steps`.

        Parameters
        ----------
        line : Line
            Permits tasks to begin, and takes their outcomes.
        batch, call : int
            Their numbers.
        pace : (float or None, int)
            The mean seconds of the call's tasks so far, if it is known, and the number of these tasks.
        function, function_shared
            The function, or its number where it is placed; None where the payloads have it. What it refers to.
        tasks : sequence of NodeTask
            The tasks.
        """
        with self._changing:
            self._batches += 1
            placed = {number: opening for number, (opening, _) in self._placed.items()}
        steps: Steps | None = None
        try:
            called = placed[function] if isinstance(function, int) else None if function is None else Opening(function)
            begin = partial(self._begin, line, call, called, function_shared, placed)
            steps = Steps(line, batch, tasks, pace, self._per_slot, begin, partial(self._over, call))
            steps.run()
        finally:
            if steps is None or steps.answered < len(tasks):
                line.put("ended", batch)
            with self._changing:
                self._batches -= 1
                self._idle.notify_all()

    def _begin(
        self,
        line: Line,
        call: int,
        called: Any,  # an `Opening` here, an `Opened` there
        function_shared: Sequence[int],
        placed: dict[int, Opening],
        tasks: Sequence[NodeTask],
    ) -> IMapIterator[Any]:
        """Begin tasks in the local pool."""
        items = []
        for payload, star, _ in tasks:
            shared = {number: placed[number] for number in (*function_shared, *payload.shared)}
            items.append((Opening(payload), star, shared))
        names = _Positions([task.positions for task in tasks])
        results = self._pool._imap(IMapIterator, partial(run, called), items, 1, names)
        with self._changing:
            self._running.setdefault(call, set()).add(results._job)
            cancelled = call in self._cancelled or line.is_broken
        if cancelled:
            self._interrupt({results._job})
        return results

    def _over(self, call: int, results: IMapIterator[Any]) -> None:
        with self._changing:
            self._running[call].discard(results._job)
            if not self._running[call]:
                del self._running[call]

    def tell(self, kind: str, content: Any) -> None:
        """Take a message of the client."""
        if kind == "cancel":
            self.cancel(content)
        elif kind == "forget":
            self.forget(content)

    def cancel(self, call: int) -> None:
        """Interrupt the running tasks of a call, and run none that arrive later."""
        with self._changing:
            self._cancelled[call] = None
            if len(self._cancelled) > _CANCELLED_KEPT:
                del self._cancelled[next(iter(self._cancelled))]
            jobs = set(self._running.get(call, ()))
        self._interrupt(jobs)

    def interrupt(self) -> None:
        """Interrupt all that runs: nobody can get its outcome."""
        with self._changing:
            jobs = {job for running in self._running.values() for job in running}
        self._interrupt(jobs)

    def wait_idle(self, seconds: float) -> None:
        """Return when no batch runs, or after so many seconds."""
        with self._changing:
            self._idle.wait_for(lambda: not self._batches, seconds)

    def _interrupt(self, jobs: set[int]) -> None:
        for job in jobs:
            self._pool._cancel(job)

    def stats(self) -> Stats:
        """The figures of the local pool."""
        return self._pool.stats()

    def end(self) -> None:
        """End the local pool."""
        self._pool.terminate()
        self._pool.join()


class _Positions:
    """How the local pool names the items of tasks: by their positions in the task. The client knows what they are."""

    def __init__(self, counts: Sequence[int]):
        self._counts = counts

    def numbers(self, task: int, count: int) -> range:
        """The positions in a task."""
        return range(self._counts[task])

    def text(self, numbers: range) -> str:
        """Positions in words."""
        return ItemNames().text(numbers)

    note = text
