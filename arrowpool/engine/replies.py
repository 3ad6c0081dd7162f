"""Workers' replies: each settles a task; results are rebuilt.

Used in the collector's thread. Sets results itself. Returns what else follows from the replies, and the collector acts on it.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any, ClassVar

from arrowpool.engine.calls import OnError, Task
from arrowpool.engine.events import Handlers, Short, WorkerJoined
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.naming import name_error
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.outcomes import merged, not_rebuilt, outcome_of
from arrowpool.engine.recorder import Recorder, now
from arrowpool.engine.tracing import note_ran, note_received
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError, WorkerInitError
from arrowpool.transport import protocol
from arrowpool.transport.protocol import (
    SOME_ITEM,
    EncodedBody,
    Grants,
    Hello,
    InitializerFailed,
    MemoryShort,
    Message,
    TaskDone,
    TaskFailed,
    TaskSkipped,
    TaskUnreadable,
    Traced,
    is_plain_body,
)
from arrowpool.transport.reducer import loads
from arrowpool.transport.sent_errors import Outcomes


class Settled:
    """The consequences of replies of one worker that were read together."""

    __slots__ = ("answered", "broken", "for_feeder", "returned")

    def __init__(self) -> None:
        #: Tasks that have their results.
        self.answered: list[Task] = []
        #: Tasks that the worker has not run.
        self.returned: list[Task] = []
        #: Events for the feeder.
        self.for_feeder: list[Any] = []
        #: Why the pool cannot run tasks, if a reply says so.
        self.broken: BaseException | None = None


class Replies:
    """Settles tasks by the replies of workers.

    Parameters
    ----------
    open_calls : OpenCalls
        Gets the results.
    worker_has : callable
        Gets the names that a spawned worker has in its ``__main__``.
    metrics : Metrics
        Counts tasks, bytes and seconds.
    recorder : Recorder
        Has the tape of a trace.
    """

    def __init__(
        self,
        open_calls: OpenCalls,
        worker_has: Callable[[dict[str, str | None]], None],
        metrics: Metrics,
        recorder: Recorder,
    ):
        self._open_calls = open_calls
        self._worker_has = worker_has
        self._metrics = metrics
        self._recorder = recorder
        #: When the last result was rebuilt, for a trace. For the collector's thread only.
        self._rebuilt_at = 0

    def settle(self, worker: WorkerHandle, messages: list[Message]) -> Settled:
        """Settle the tasks that a worker's messages answer.

        Raises
        ------
        TypeError
            For anything but a reply of a worker.
        """
        settled, handlers = Settled(), self._handlers
        for reply in protocol.read_replies(messages):
            handlers[type(reply)](self, worker, reply, settled)
        return settled

    def _answered(self, worker: WorkerHandle, reply: TaskDone | TaskFailed, settled: Settled) -> None:
        task = worker.outstanding.pop(reply.number, None)
        if task is None:
            return
        settled.answered.append(task)
        metrics, body = self._metrics, reply.body
        decode, run, encode = reply.times
        metrics.answered(worker, task, decode, run, encode)
        metrics.piped_bytes += protocol.piped_bytes(body)
        if is_plain_body(body):
            (value,) = body
            task.call.took(decode + run, 0)
        else:
            task.call.took(decode + run, protocol.segment_bytes(body))
            try:
                value = self._rebuilt(worker, body, reply.grants)
            except BaseException as error:
                at, text = (reply.at, reply.text) if isinstance(reply, TaskFailed) else (SOME_ITEM, None)
                self._set_error(task, not_rebuilt(error, task, at, text), SOME_ITEM)
                return
        if isinstance(reply, TaskFailed):
            name_error(value, task.call, task.index, task.count, reply.at, task.losses + 1)
            self._set_error(task, value, reply.at)
            return
        if type(value) is Outcomes and task.call.on_error is OnError.RETURN_EACH:
            value = merged(task, value)
        self._open_calls.set(task.call.job, task.index, True, value)

    def _set_error(self, task: Task, error: BaseException, at: int) -> None:
        self._metrics.refused += isinstance(error, ArenaFullError)
        self._open_calls.set(task.call.job, task.index, *outcome_of(error, task.call, task.index, task.count, at))

    def _rebuilt(self, worker: WorkerHandle, body: EncodedBody, grants: Grants) -> Any:
        metrics, receiver = self._metrics, worker.receiver
        placements = protocol.placements_of(body)
        if placements:
            metrics.shared_bytes += protocol.segment_bytes(body)
            metrics.copies += len(placements)
        value = receiver.rebuild(body, receiver.accept(grants) if grants else [])
        self._rebuilt_at = self._recorder.begin()
        not_shared = protocol.placed_stream_bytes(body)
        if not_shared:
            metrics.pickled(value, not_shared)
        return value

    def _traced(self, worker: WorkerHandle, traced: Traced, settled: Settled) -> None:
        (reply,) = protocol.read_replies([traced.reply])
        tape, began = self._recorder.tape, now()
        task = worker.outstanding.get(reply.number) if isinstance(reply, (TaskDone, TaskFailed)) else None
        if tape is None or task is None or not isinstance(reply, (TaskDone, TaskFailed)):
            self._handlers[type(reply)](self, worker, reply, settled)
            return
        note_ran(tape, worker, task, traced, reply, began)
        self._rebuilt_at = 0
        self._answered(worker, reply, settled)
        note_received(tape, worker, task, reply, began, self._rebuilt_at)

    def _skipped(self, worker: WorkerHandle, reply: TaskSkipped | TaskUnreadable, settled: Settled) -> None:
        task = worker.outstanding.pop(reply.number, None)
        if task is not None:
            settled.returned.append(task)

    def _unreadable(self, worker: WorkerHandle, reply: TaskUnreadable, settled: Settled) -> None:
        worker.may_borrow = False
        self._skipped(worker, reply, settled)

    def _memory_short(self, worker: WorkerHandle, _: MemoryShort, settled: Settled) -> None:
        settled.for_feeder.append(Short(worker))

    def _greeted(self, worker: WorkerHandle, reply: Hello, settled: Settled) -> None:
        self._worker_has(reply.names)
        tape = self._recorder.tape
        if tape is not None:
            tape.joined(worker.process.pid or 0)
        worker.may_borrow = reply.may_borrow
        settled.for_feeder.append(WorkerJoined(worker))

    def _initializer_failed(self, worker: WorkerHandle, reply: InitializerFailed, settled: Settled) -> None:
        error = WorkerInitError(
            f"the initializer failed in worker {worker.process.pid}, so this pool cannot run tasks:\n{reply.text}"
        )
        try:
            error.__cause__ = loads(reply.stream)
        except BaseException:  # rebuilding runs the user's code
            error.__cause__ = RemoteTraceback(reply.text)
        settled.broken = error

    _handlers: ClassVar[Handlers] = Handlers(
        "collector",
        {
            TaskDone: _answered,
            TaskFailed: _answered,
            TaskSkipped: _skipped,
            TaskUnreadable: _unreadable,
            MemoryShort: _memory_short,
            Traced: _traced,
            Hello: _greeted,
            InitializerFailed: _initializer_failed,
        },
    )
