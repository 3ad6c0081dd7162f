"""What a pool has on a node, in the Dask worker process: the local pool, and the shared objects that are placed in it.

`run_batch` and `place` run as Dask tasks, in the threads of the Dask worker. `tell` and `interrupt` run in its event loop, and do not block.
The node never unpickles an object of the user's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from arrowpool.engine import judge
from arrowpool.engine.imap import IMapIterator
from arrowpool.engine.item_names import ItemNames
from arrowpool.integrations.dask.batches import LONG_BATCH_SECONDS, may_overlap, step_size
from arrowpool.integrations.dask.line import Line
from arrowpool.integrations.dask.sealed import Opening, Sealed
from arrowpool.integrations.dask.starting import NodeContext
from arrowpool.integrations.dask.task import initialize, run
from arrowpool.pool import ArrowPool
from arrowpool.stats import Stats
from arrowpool.transport.protocol import SOME_ITEM

#: Outcomes are held back for the rest of their step, but no longer if none comes for so long.
_MOMENT_SECONDS = 0.02
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


class NodeTask(NamedTuple):
    """A task on its node: its payload, its `Star`, and how many positions it has: of items, or of groups."""

    payload: Sealed
    star: int
    positions: int


class Outcome(NamedTuple):
    """Of one task.

    Attributes
    ----------
    success : bool
        Whether it succeeded.
    value : Sealed or BaseException
        Its value or exception; not sealed if it is an error of the local pool. The `index` of such an error is a position.
    text : str
        The traceback of the exception.
    at : int
        The position for which the function raised: as in `TaskFailed`.
    """

    success: bool
    value: Sealed | BaseException
    text: str
    at: int = SOME_ITEM


class Done(NamedTuple):
    """The outcomes of tasks that are sent together, and the seconds that they took in their processes, all in all."""

    outcomes: list[Outcome]
    seconds: float


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
        """Run tasks of one call. They begin in steps, whose size depends on what a task takes: `pace`, the mean so far,
        if it is known, and the number of tasks of which it is the mean.

        When half of a short step is done, the next one begins behind it, so that no process waits for the client's permission or for
        this thread. Puts outcomes into the line at the end of each step, or when nothing else comes for a moment. Ends early when the
        line permits no more, or after a long time.
        """
        with self._changing:
            self._batches += 1
            placed = {number: opening for number, (opening, _) in self._placed.items()}
        since, begun, answered, goes_on = time.perf_counter(), 0, 0, True
        mean_seconds, measured = pace
        running: deque[tuple[int, IMapIterator[Any]]] = deque()
        failure: Exception | None = None

        def begin() -> bool:
            """Begin the next step. Return whether it has begun; if not, none begins any more."""
            nonlocal begun, failure
            these = tasks[begun : begun + step_size(mean_seconds, self._per_slot, measured + begun)]
            if not these or time.perf_counter() - since >= LONG_BATCH_SECONDS:
                return False
            if not line.may_begin(batch, begun, len(these)):
                return False
            try:
                running.append((len(these), self._begin(line, call, called, function_shared, these, placed)))
            except Exception as error:  # the local pool has ended: what has begun has its outcomes nevertheless
                failure = error
                return False
            begun += len(these)
            return True

        def collect() -> None:
            """Send the outcomes of the first step that runs. May begin the next one."""
            nonlocal answered, mean_seconds, goes_on
            count, results = running.popleft()
            waiting: list[Outcome] = []
            done, seconds, sent_seconds = 0, 0.0, 0.0
            for found in _outcomes(results, count):
                if found is not None:
                    outcome, of_task = found
                    waiting.append(outcome)
                    done, seconds = done + 1, seconds + of_task
                    mean_seconds = seconds / done
                if waiting and (found is None or done == count):
                    line.put("outcomes", batch, answered, Done(waiting, seconds - sent_seconds))
                    answered, sent_seconds, waiting = answered + len(waiting), seconds, []
                if goes_on and not running and 2 * done >= count and may_overlap(mean_seconds, count, self._per_slot):
                    goes_on = begin()
            self._over(call, results)

        try:
            called = placed[function] if isinstance(function, int) else None if function is None else Opening(function)
            while running or (goes_on and begin()):
                collect()
            if failure is not None:
                raise failure
        finally:
            if answered < len(tasks):
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
        tasks: Sequence[NodeTask],
        placed: dict[int, Opening],
    ) -> IMapIterator[Any]:
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


def _outcomes(results: IMapIterator[Any], count: int) -> Iterator[tuple[Outcome, float] | None]:
    """All outcomes, in order, each with the seconds that the task took. None whenever there is no other for a moment."""
    error: BaseException = CancelledError()
    while count:
        found: tuple[Outcome, float] | None
        try:
            success, value, text, at, seconds = results.next(_MOMENT_SECONDS)
            found = Outcome(success, value, text, at), seconds
        except multiprocessing.TimeoutError:
            yield None
            continue
        except StopIteration:  # the call was cancelled
            yield from [(Outcome(False, error, ""), 0.0)] * count
            return
        except BaseException as of_pool:  # the task process was lost, or has no memory
            error = of_pool
            found = Outcome(False, error, ""), 0.0
        count -= 1
        yield found
