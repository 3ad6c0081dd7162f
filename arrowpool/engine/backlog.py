"""The backlog: the tasks that are sent next, in their order.

First those that are encoded ahead, then the one that waits for memory, then the tasks that calls give in turn. Used by the acting thread (see `mailbox`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from arrowpool.engine.budget import Budget, Verdict
from arrowpool.engine.calls import Call, Task, Unplaced
from arrowpool.engine.encoder import Encoder
from arrowpool.engine.events import Failed
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.scheduling import draw_size
from arrowpool.engine.settlement import Settlement
from arrowpool.engine.throttle import Throttle
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError
from arrowpool.tuning import FRAME_BYTES, FRAME_PLACED_BYTES

#: Plain tasks that are encoded ahead before events are looked at again.
_AT_A_TIME = 16


class Backlog:
    """Encodes tasks in the order in which they are sent.

    Parameters
    ----------
    ahead : deque of Task
        Tasks that are encoded and not sent. Changed here only; the budget reads it.
    turns : Turns
        Says which call gives the next task.
    encoder : Encoder
        Takes tasks off their calls, and places them.
    budget : Budget
        Judges whether a task is placed or waits.
    reclaim : Reclaim
        Gets memory back when the system has none.
    settlement : Settlement
        Releases the memory of answered tasks, before the budget is asked.
    throttle : Throttle
        Says whether a call is held back.
    workers : list of WorkerHandle
        The workers that are ready. The feeder's list.
    limit : int
        Maximum number of bytes of the results of tasks that are drawn ahead.
    tell_collector : callable
        Gets a `Failed` for each task that cannot be encoded.
    """

    def __init__(
        self,
        *,
        ahead: deque[Task],
        turns: Turns,
        encoder: Encoder,
        budget: Budget,
        reclaim: Reclaim,
        settlement: Settlement,
        throttle: Throttle,
        workers: list[WorkerHandle],
        limit: int,
        tell_collector: Callable[[Any], None],
    ):
        self._ahead = ahead
        self._turns = turns
        self._encoder = encoder
        self._budget = budget
        self._reclaim = reclaim
        self._settlement = settlement
        self._throttle = throttle
        self._workers = workers
        self._limit = limit
        self._tell_collector = tell_collector
        #: Whether a burst goes on: see `encode_ahead`.
        self._fills = False
        #: The task that waits for memory. No other is taken before it.
        self._waiting: Unplaced | None = None

    def __repr__(self) -> str:
        return f"<Backlog ahead: {len(self._ahead)}{' | one waits for memory' if self._waiting is not None else ''}>"

    def __len__(self) -> int:
        """Number of tasks that are encoded, or wait for memory. For any thread."""
        return len(self._ahead) + (self._waiting is not None)

    def __bool__(self) -> bool:
        """Whether there is a task now, or one that waits for memory."""
        return bool(self._ahead) or self._waiting is not None or self._turns.next() is not None

    @property
    def waits(self) -> bool:
        """Whether a task waits for memory."""
        return self._waiting is not None

    def call(self) -> Call | None:
        """The call of the next task; None when there is no task."""
        return self._ahead[0].call if self._ahead else self._turns.next()

    def peek(self) -> Task | None:
        """The next task, encoded. None when there is none, or it waits for memory. `take` removes it."""
        if not self._ahead:
            self._ahead.extend(self._encode(1))
        return self._ahead[0] if self._ahead else None

    def take(self, most: int) -> list[Task]:
        """Take the next task, and with it up to `most` in all that go in one frame.

        They are of the same call and function, and their bytes fit into a frame: those in the pipe, and those in segments.
        """
        # The tasks stay in `ahead` until all are found: the budget counts them as in flight.
        ahead = self._ahead
        first = ahead[0]
        call, function = first.call, first.blobs[0]
        piped, placed, count = first.parcel.piped_bytes, first.parcel.nbytes, 1
        while count < most and (count < len(ahead) or self._encode_of(call, most - count)):
            task = ahead[count]
            piped += task.parcel.piped_bytes
            placed += task.parcel.nbytes
            if (
                task.call is not call
                or piped > FRAME_BYTES
                or placed > FRAME_PLACED_BYTES
                or task.blobs[0] is not function
            ):
                break
            count += 1
        return [ahead.popleft() for _ in range(count)]

    def encode_ahead(self, most: int, least: int) -> bool:
        """Encode one more task, or a few plain ones, if fewer than `most` are encoded; whether there was one.

        More than `least` only while the bytes in flight fit in the processor's caches. And in bursts, each of which begins when half
        of the tasks are used up: a thread that has slept runs several times as slowly at first.
        """
        count = len(self._ahead)
        if count >= least and not self._fills and self._has_enough(count, most // 2, least, least * FRAME_PLACED_BYTES):
            return False
        self._fills = not self._has_enough(count, most, least, least * 2 * FRAME_PLACED_BYTES)
        if not self._fills:
            return False
        tasks = self._encode(min(_AT_A_TIME, most - count))
        self._ahead.extend(tasks)
        return bool(tasks)

    def _has_enough(self, count: int, most: int, least: int, nbytes: int) -> bool:
        return count >= most or (count >= least and self._budget.exceeds(nbytes))

    def give_back(self, tasks: list[Task]) -> None:
        """Take tasks back that were sent and not begun: they come first, unless their call was cancelled."""
        for task in reversed(tasks):
            if task.call.cancelled:
                self._settlement.settle(task)
            else:
                self._ahead.appendleft(task)

    def drop(self, call: Call) -> None:
        """Drop the tasks of a cancelled call."""
        if self._waiting is not None and self._waiting.call is call:
            self._waiting = None
            call.pending -= 1
        dropped = [task for task in self._ahead if task.call is call]
        if dropped:
            kept = [task for task in self._ahead if task.call is not call]
            self._ahead.clear()
            self._ahead.extend(kept)
            for task in dropped:
                self._settlement.settle(task)

    def clear(self) -> None:
        """Forget all tasks, at the end of the feeder."""
        self._ahead.clear()
        self._waiting = None

    def draw_on(self, call: Call) -> None:
        """Let a user's iterator go on, if all its tasks so far are encoded and its call is not held back."""
        source = call.source
        if source is None or (self._waiting is not None and self._waiting.call is call):
            return
        if source.may_go_on() and not self._throttle.holds_back(call):
            source.ask(draw_size(call, len(self._workers), self._limit))

    def _encode(self, most: int) -> list[Task]:
        """Encode the next task, or up to `most` plain ones. Empty when there is none, or when one waits for memory."""
        while True:
            if self._waiting is not None:
                unplaced, self._waiting = self._waiting, None
                task = self._place(unplaced)
                tasks = [task] if task is not None else []
            else:
                call = self._turns.next()
                if call is None:
                    return []
                tasks = self._take(call, most)
            if tasks or self._waiting is not None:
                return tasks

    def _encode_of(self, call: Call, most: int) -> bool:
        """Encode up to `most` tasks of this call if that needs no wait. Return whether there was one."""
        while self._waiting is None and not call.exhausted and (call.source is None or call.source.has_some()):
            tasks = self._take(call, most)
            if tasks:
                self._ahead.extend(tasks)
                return True
        return False

    def _place(self, unplaced: Unplaced) -> Task | None:
        """Place a task. Return None when it has failed, or waits for memory."""
        self._settlement.settle_early()
        verdict = self._budget.judge(unplaced.nbytes, unplaced.borrows)
        if verdict is Verdict.WAIT:
            self._waiting = unplaced
            return None
        call = unplaced.call
        try:
            task = self._encoder.place(unplaced, self._reclaim.relieve if verdict is Verdict.PLACE else None)
        except Exception as error:
            if verdict is Verdict.PLACE_OR_WAIT and isinstance(error, ArenaFullError):
                self._waiting = unplaced
                return None
            self._tell_collector(Failed(call, unplaced.at, error, unplaced.items))
            call.pending -= 1
            self._settlement.finish(call)
            self.draw_on(call)
            return None
        self.draw_on(call)
        return task

    def _take(self, call: Call, most: int) -> list[Task]:
        """The next tasks of a call, up to `most`. Empty when the next one fails or waits for memory, or when there is none."""
        # Before the encoder places objects that this task shares with later ones: answered tasks free memory for them.
        self._settlement.settle_early()
        taken = self._encoder.take(call, most if call.source is None else min(most, call.source.count()))
        if not taken:
            if call.set_length is not None:
                call.set_length(call.last_index + 1)
            self._turns.exhausted(call)
            self._settlement.finish(call)
            return []
        last = taken[-1]
        task: Task | None
        if isinstance(last, Failed):
            taken.pop()
            call.pending += len(taken)
            self._tell_collector(last)
            self.draw_on(call)
        elif isinstance(last, Unplaced):
            taken.pop()
            call.pending += len(taken) + 1
            task = self._place(last)
            if task is not None:
                taken.append(task)
        else:
            call.pending += len(taken)
            self.draw_on(call)
        return taken  # type: ignore[return-value]  # all others are tasks
