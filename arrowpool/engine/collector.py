"""The collector: reads workers' replies, rebuilds results and hands them to the calls' result objects.

Only this thread sets results, so no result is set by two threads at a time; users' callbacks run in it. It also gets notice
of each worker's end, and decides which tasks were lost with the worker and which go to another one.
"""

from __future__ import annotations

import contextlib
import queue
import select
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from multiprocessing import util
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

from arrowpool.codecs import settle
from arrowpool.engine.calls import Task, describe
from arrowpool.engine.events import (
    Broken,
    Cancelled,
    Dropped,
    Failed,
    LookAgain,
    Returned,
    Short,
    Stop,
    WorkerExited,
    WorkerJoined,
)
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.scheduling import gather_seconds
from arrowpool.engine.state import PoolState
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import (
    PoolTerminatedError,
    TaskTimeoutError,
    TransferError,
    WorkerInitError,
    WorkerLostError,
    again,
    said,
)
from arrowpool.memory.forks import settle_forks
from arrowpool.threads import Service
from arrowpool.transport import protocol
from arrowpool.transport.protocol import (
    EncodedBody,
    Grants,
    Hello,
    InitializerFailed,
    MemoryShort,
    TaskDone,
    TaskFailed,
    TaskSkipped,
    TaskUnreadable,
    is_plain_body,
)
from arrowpool.transport.reducer import loads
from arrowpool.waiting import SelfPipe, wait_readable


class Inbox:
    """The collector's events, and the descriptor that it waits for beside those of the workers."""

    def __init__(self) -> None:
        #: Any thread appends, the collector takes. Both are atomic, also in a finalizer.
        self._events: deque[Any] = deque()
        self._pipe = SelfPipe()

    @property
    def reader(self) -> int:
        """Readable when there may be an event."""
        return self._pipe.reader

    def put(self, event: Any) -> None:
        """Give the collector an event; from any thread, also in a finalizer."""
        self._events.append(event)
        self._pipe.wake()

    def __iter__(self) -> Iterator[Any]:
        """Take all events, also those that come meanwhile."""
        while self._events:
            yield self._events.popleft()

    def drain(self) -> None:
        """Forget what made `reader` readable; before the events are taken."""
        self._pipe.drain()

    def close(self) -> None:
        """Release the descriptors and the events."""
        self._events.clear()  # they refer to workers, and their memory
        self._pipe.close()


class Collector(Service):
    """Runs until it gets a `Stop`.

    Parameters
    ----------
    inbox : Inbox
        This thread's events.
    feeder_inbox : queue.SimpleQueue
        Where the feeder takes events.
    answered : callable
        Gives the feeder the tasks that have their results.
    worker_has : callable
        Gets what a spawned worker says is in its ``__main__``.
    cache : dict
        Result objects of running calls by job number.
    state : PoolState
        Noted there: why the pool is broken, and when this thread answers no more.
    retries : int
        How many times a task is run again after its worker was lost.
    task_timeout : float or None
        Seconds that the supervisor grants a task.
    metrics : Metrics
        What is counted and measured.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        feeder_inbox: queue.SimpleQueue[Any],
        answered: Callable[[list[Task]], None],
        worker_has: Callable[[dict[str, str | None]], None],
        cache: dict[int, Any],
        state: PoolState,
        retries: int,
        task_timeout: float | None,
        metrics: Metrics,
    ):
        super().__init__("arrowpool-collector")
        self._inbox = inbox
        self._feeder_inbox = feeder_inbox
        self._answered = answered
        self._worker_has = worker_has
        self._cache = cache
        self._state = state
        self._retries = retries
        self._task_timeout = task_timeout
        self._metrics = metrics
        #: Workers whose replies are read, by descriptor. This thread's, and after its end the one's that closes it.
        self._workers: dict[int, WorkerHandle] = {}
        #: The workers' descriptors and the inbox's; kept, since registering all of them for each wait would cost more.
        self._poll = select.poll()
        self._poll.register(inbox.reader, select.POLLIN)
        #: How to end. This thread's.
        self._stop: Stop | None = None
        #: Whether no more results are set. Set by any thread, once; read by this one.
        self._halted = False

    def tell(self, event: Any) -> None:
        """Give this thread an event; from any thread."""
        self._inbox.put(event)

    def halt(self) -> None:
        """Set no more results, and end. From any thread, also this one, also in a finalizer."""
        self._halted = True
        self._inbox.put(Stop(drain=False))

    def run(self) -> None:
        try:
            while self._stop is None or (self._stop.drain and self._workers):
                pause = gather_seconds(self._workers.values())
                if pause:
                    wait_readable([self._inbox.reader], pause)
                for fd, _ in self._poll.poll():
                    if fd == self._inbox.reader:
                        self._inbox.drain()
                    elif fd in self._workers:
                        self._read(self._workers[fd])
                for event in self._inbox:
                    self._handle(event)
                settle_forks()
                settle()
        except BaseException as error:
            self._break(PoolTerminatedError(f"the pool cannot go on: {said(error)}"))
            for worker in list(self._workers.values()):
                worker.process.kill()  # or it blocks while sending replies that are not read
            raise
        finally:
            self._state.answers_no_more = True
            self.end_calls()
            util.debug("collector exiting")

    def close(self) -> None:
        """Release the descriptors, after the thread has ended."""
        for worker in list(self._workers.values()):
            self._forget(worker)
        self._inbox.close()

    def _handle(self, event: Any) -> None:
        if isinstance(event, WorkerJoined):
            fd = event.worker.channel.fileno()
            self._workers[fd] = event.worker
            self._poll.register(fd, select.POLLIN)
        elif isinstance(event, WorkerExited):
            self._bury(event.worker, event.exitcode)
        elif isinstance(event, Failed):
            self._set(event.job, event.index, False, event.error)
        elif isinstance(event, Cancelled):
            # By way of this thread, which reads no reply between the two: no task's own interrupt is taken for the call's
            # result. In this order: the feeder ends when the last call of a closed pool has its result.
            self._feeder_inbox.put(event)
            result = self._cache.get(event.job)
            if result is not None:
                result.fail(event.error or CancelledError("the call was interrupted"))
        elif isinstance(event, Dropped):
            self._drop(event)
        elif isinstance(event, Broken):
            self._break(event.error)
        elif isinstance(event, Stop):
            # A pool may be closed and terminated at the same time: an order to end at once is not overruled.
            if self._stop is None or self._stop.drain:
                self._stop = event
        elif not isinstance(event, LookAgain):  # that only wakes this thread
            raise TypeError(f"the collector does not know {event!r}")

    def _drop(self, event: Dropped) -> None:
        """The results of this imap will not be read: end its call, or let it run for its side effects."""
        result = self._cache.get(event.job)
        if result is None:
            return
        if event.ends:
            self._handle(Cancelled(event.job))
        result.drop()

    # Replies

    def _read(self, worker: WorkerHandle) -> bool:
        """Read what a worker has sent; return False if it sends no more."""
        try:
            messages = worker.channel.receive()
        except (EOFError, OSError):
            # It is about to end. Its tasks are settled when its exit code is known.
            with contextlib.suppress(KeyError):
                self._poll.unregister(worker.channel.fileno())
            if worker.outstanding:
                worker.process.kill()
            return False
        answered: list[Task] = []
        returned: list[Task] = []
        for reply in protocol.read_replies(messages):
            if isinstance(reply, (TaskDone, TaskFailed)):
                task = worker.outstanding.pop(reply.number, None)
                if task is not None:
                    self._deliver(worker, task, reply)
                    answered.append(task)
            elif isinstance(reply, (TaskSkipped, TaskUnreadable)):
                if isinstance(reply, TaskUnreadable):
                    worker.may_borrow = False
                task = worker.outstanding.pop(reply.number, None)
                if task is not None:
                    returned.append(task)
            elif isinstance(reply, MemoryShort):
                self._feeder_inbox.put(Short(worker))
            elif isinstance(reply, Hello):
                self._worker_has(reply.names)
                worker.may_borrow = reply.may_borrow
                self._feeder_inbox.put(WorkerJoined(worker))
            elif isinstance(reply, InitializerFailed):
                self._initializer_failed(worker, reply)
            else:
                raise TypeError(f"the collector does not know {reply!r}")
        if returned:
            self._feeder_inbox.put(Returned(returned))
        if answered:
            self._answered(answered)
        return True

    def _deliver(self, worker: WorkerHandle, task: Task, reply: TaskDone | TaskFailed) -> None:
        decode, run, encode = reply.times
        body = reply.body
        self._metrics.answered(worker, task, decode, run, encode)
        self._metrics.piped_bytes += protocol.piped_bytes(body)
        if is_plain_body(body):
            (value,) = body
            task.call.took(decode + run, 0)
        else:
            task.call.took(decode + run, protocol.segment_bytes(body))
            try:
                value = self._rebuilt(worker, body, reply.grants)
            except BaseException as error:
                failure = TransferError(
                    f"the {'result' if type(reply) is TaskDone else 'exception'} of {describe(task)} could not be "
                    f"rebuilt here: {said(error)}"
                )
                failure.__cause__ = RemoteTraceback(reply.text) if isinstance(reply, TaskFailed) else error
                self._set(task.call.job, task.index, False, failure)
                return
        self._set(task.call.job, task.index, type(reply) is TaskDone, value)

    def _rebuilt(self, worker: WorkerHandle, body: EncodedBody, grants: Grants) -> Any:
        metrics, receiver = self._metrics, worker.receiver
        placements = protocol.placements_of(body)
        if placements:
            metrics.shared_bytes += protocol.segment_bytes(body)
            metrics.copies += len(placements)
        value = receiver.rebuild(body, receiver.accept(grants) if grants else [])
        not_shared = protocol.placed_stream_bytes(body)
        if not_shared:
            metrics.pickled(value, not_shared)
        return value

    def _set(self, job: int, index: int, success: bool, value: Any) -> None:
        result = self._cache.get(job)
        if result is not None and not self._halted:
            result._set(index, (success, value))

    # Deaths

    def _bury(self, worker: WorkerHandle, exitcode: int | None) -> None:
        """A worker has ended: read its last replies, fail the task that it had begun, give back those that it had not."""
        while worker.channel.readable() and self._read(worker):
            pass
        self._metrics.ended(worker)
        begun = worker.control.started
        lost: list[Task] = []
        returned: list[Task] = []
        for number in sorted(worker.outstanding):
            task = worker.outstanding.pop(number, None)
            if task is None:  # the feeder has just taken it back
                continue
            if number < begun:
                task.losses += 1
                (returned if task.losses <= self._retries and not worker.overdue else lost).append(task)
            else:
                returned.append(task)
        pid = worker.process.pid or 0
        for task in lost:
            error: WorkerLostError | TaskTimeoutError = WorkerLostError(pid, exitcode, describe(task))
            if worker.overdue and self._task_timeout is not None:
                error = TaskTimeoutError(pid, self._task_timeout, describe(task))
            self._set(task.call.job, task.index, False, error)
        self._forget(worker)
        self._feeder_inbox.put(WorkerExited(worker, exitcode))
        if returned:
            self._feeder_inbox.put(Returned(returned))
        if lost:
            self._answered(lost)

    def _forget(self, worker: WorkerHandle) -> None:
        fd = worker.channel.fileno()
        if self._workers.pop(fd, None) is not None:
            with contextlib.suppress(KeyError):  # its end was seen before
                self._poll.unregister(fd)
            worker.channel.close()
            worker.receiver.owner_lost()

    def _initializer_failed(self, worker: WorkerHandle, reply: InitializerFailed) -> None:
        error = WorkerInitError(
            f"the initializer failed in worker {worker.process.pid}, so this pool cannot run tasks:\n{reply.text}"
        )
        try:
            error.__cause__ = loads(reply.stream)
        except BaseException:  # rebuilding runs the user's code
            error.__cause__ = RemoteTraceback(reply.text)
        self._break(error)

    def _break(self, error: BaseException) -> None:
        """No worker can run a task: end every call, with the first such reason."""
        first = self._state.break_with(error)
        for job in list(self._cache):
            self._feeder_inbox.put(Cancelled(job))
        self._abandon(first)

    def end_calls(self) -> None:
        """End all calls without a result: in this thread at its end, and after that in the threads that make calls."""
        self._abandon(self._state.error or PoolTerminatedError("the pool was terminated before this result was there"))

    def _abandon(self, error: BaseException) -> None:
        """End every call without a result with `error`, so that no call waits indefinitely."""
        for result in list(self._cache.values()):
            with contextlib.suppress(KeyError):  # another thread has ended it
                result.fail(again(error))
