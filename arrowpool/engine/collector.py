"""The collector: the thread that reads workers' replies, and in which results are set.

    workers --> Collector --> Replies: tasks settled, results rebuilt --> OpenCalls: results set
    inbox   -->

Only this thread sets results, so no two threads set one result at the same time. Callbacks of the user run in it. It also gets each
worker's end, and decides which tasks were lost with the worker and which go to another one.
"""

from __future__ import annotations

import contextlib
import queue
import select
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing import util
from typing import Any, ClassVar

from arrowpool.codecs import settle
from arrowpool.engine.calls import Task, describe
from arrowpool.engine.events import (
    Broken,
    Cancelled,
    Dropped,
    Failed,
    Handlers,
    LookAgain,
    Returned,
    Stop,
    WorkerExited,
    WorkerJoined,
)
from arrowpool.engine.inbox import Inbox
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.replies import Replies
from arrowpool.engine.scheduling import gather_seconds
from arrowpool.engine.state import PoolState
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import PoolTerminatedError, TaskTimeoutError, WorkerLostError, said
from arrowpool.memory.forks import settle_forks
from arrowpool.threads import Service
from arrowpool.waiting import wait_readable


class Collector(Service):
    """Runs until it gets a `Stop`.

    Parameters
    ----------
    inbox : Inbox
        Events for this thread. `close` closes it.
    feeder_inbox : queue.SimpleQueue
        Events for the feeder.
    answered : callable
        Gives the feeder the tasks of a worker that have their results, and whether that worker may get more.
    replies : Replies
        Settles tasks by the replies of workers.
    open_calls : OpenCalls
        The calls that wait for results.
    state : PoolState
        Gets the error that breaks the pool, and the end of this thread.
    retries : int
        How many times a task is run again after its worker was lost.
    task_timeout : float or None
        Maximum number of seconds that a task may run, for messages. The supervisor kills its worker after that.
    metrics : Metrics
        Gets the ends of workers.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        feeder_inbox: queue.SimpleQueue[Any],
        answered: Callable[[list[Task], bool], None],
        replies: Replies,
        open_calls: OpenCalls,
        state: PoolState,
        retries: int,
        task_timeout: float | None,
        metrics: Metrics,
    ):
        super().__init__("arrowpool-collector")
        self._inbox = inbox
        self._feeder_inbox = feeder_inbox
        self._answered = answered
        self._replies = replies
        self._open_calls = open_calls
        self._state = state
        self._retries = retries
        self._task_timeout = task_timeout
        self._metrics = metrics
        #: Workers whose replies are read, by descriptor. Written and read by this thread; after its end, by the thread that ends
        #: the pool.
        self._workers: dict[int, WorkerHandle] = {}
        #: The descriptors of the workers and of the inbox: the same threads use it. Kept, since registering all descriptors for
        #: each wait costs more.
        self._poll = select.poll()
        self._poll.register(inbox.reader, select.POLLIN)
        #: How to end; None to go on. For this thread only.
        self._stop: Stop | None = None

    def __repr__(self) -> str:
        stop = "" if self._stop is None else f" | {self._stop!r}"
        return f"<Collector workers: {len(self._workers)} | {self._open_calls!r}{stop}>"

    def tell(self, event: Any) -> None:
        """Give this thread an event. Any thread may call this, also in a finalizer."""
        self._inbox.put(event)

    def halt(self) -> None:
        """Set no more results, and end. Any thread may call this, also this one, also in a finalizer."""
        self._open_calls.halt()
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
                self._handle_all()
                settle_forks()
                settle()
        except BaseException as error:
            self._break(PoolTerminatedError(f"the pool cannot go on: {said(error)}"))
            for worker in list(self._workers.values()):
                worker.process.kill()  # otherwise it blocks while it sends replies that no thread reads
            raise
        finally:
            self._state.answers_no_more = True
            self.end_calls()
            util.debug("collector exiting")

    def close(self) -> None:
        """Release the descriptors, after this thread has ended."""
        for worker in list(self._workers.values()):
            self._forget(worker)
        self._inbox.close()

    # Events

    def _handle_all(self) -> None:
        # A method, so that the last event, and the user's objects in its traceback, do not stay in a variable during the next wait.
        for event in self._inbox:
            self._handle(event)

    def _handle(self, event: Any) -> None:
        """Do what an event asks for.

        Raises
        ------
        TypeError
            For anything but an event for the collector.
        """
        self._handlers[type(event)](self, event)

    def _worker_joined(self, event: WorkerJoined) -> None:
        fd = event.worker.channel.fileno()
        self._workers[fd] = event.worker
        self._poll.register(fd, select.POLLIN)

    def _worker_exited(self, event: WorkerExited) -> None:
        self._bury(event.worker, event.exitcode)

    def _failed(self, event: Failed) -> None:
        self._open_calls.set(event.job, event.index, False, event.error)

    def _cancel(self, event: Cancelled) -> None:
        """End a call.

        This thread does it, and reads no reply in between: the exception with which an interrupted task ends is not taken for the
        result of the call. The feeder gets the event first: it ends when the last call of a closed pool has its result.
        """
        self._feeder_inbox.put(event)
        self._open_calls.end(event.job, event.error or CancelledError("the call was interrupted"))

    def _drop(self, event: Dropped) -> None:
        """The results of this imap will not be read: end its call, or let it run for its side effects."""
        result = self._open_calls.find(event.job)
        if result is None:
            return
        if event.ends:
            self._cancel(Cancelled(event.job))
        result.drop()

    def _broken(self, event: Broken) -> None:
        self._break(event.error)

    def _stopped(self, event: Stop) -> None:
        # A pool may be closed and terminated at the same time: then it ends at once.
        if self._stop is None or self._stop.drain:
            self._stop = event

    def _look_again(self, _: LookAgain) -> None:
        """The event has woken this thread."""

    # Replies

    def _read(self, worker: WorkerHandle) -> bool:
        """Read what a worker has sent; return False if it sends no more."""
        try:
            messages = worker.channel.receive()
        except (EOFError, OSError):
            # The worker is about to end. Its tasks are settled when its exit code is known.
            with contextlib.suppress(KeyError):
                self._poll.unregister(worker.channel.fileno())
            if worker.outstanding:
                worker.process.kill()
            return False
        settled = self._replies.settle(worker, messages)
        for event in settled.for_feeder:
            self._feeder_inbox.put(event)
        if settled.broken is not None:
            self._break(settled.broken)
        if settled.returned:
            self._feeder_inbox.put(Returned(settled.returned))
        if settled.answered:
            # Otherwise the worker has a whole frame of tasks behind the one that runs, and would get no more.
            self._answered(settled.answered, len(worker.outstanding) <= worker.last_frame)
        return True

    # Deaths

    def _bury(self, worker: WorkerHandle, exitcode: int | None) -> None:
        """Bury a worker that has ended: read its last replies, fail the task that it had begun, give its other tasks back."""
        while worker.channel.readable() and self._read(worker):
            pass
        self._metrics.ended(worker)
        begun = worker.control.started
        lost: list[Task] = []
        returned: list[Task] = []
        for number in sorted(worker.outstanding):
            task = worker.outstanding.pop(number, None)
            if task is None:  # the feeder has taken it back in the meantime
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
            self._open_calls.set(task.call.job, task.index, False, error)
        self._forget(worker)
        self._feeder_inbox.put(WorkerExited(worker, exitcode))
        if returned:
            self._feeder_inbox.put(Returned(returned))
        if lost:
            self._answered(lost, True)

    def _forget(self, worker: WorkerHandle) -> None:
        fd = worker.channel.fileno()
        if self._workers.pop(fd, None) is not None:
            with contextlib.suppress(KeyError):  # `_read` has seen its end
                self._poll.unregister(fd)
            worker.disconnect()

    def _break(self, error: BaseException) -> None:
        """Note that no worker can run a task, and end all calls. The first error stays."""
        first = self._state.break_with(error)
        for job in self._open_calls.jobs():
            self._feeder_inbox.put(Cancelled(job))
        self._open_calls.end_all(first)

    def end_calls(self) -> None:
        """End all open calls: in this thread at its end, and after that in the threads that make calls."""
        self._open_calls.end_all(
            self._state.error or PoolTerminatedError("the pool was terminated before the call was answered")
        )

    _handlers: ClassVar[Handlers] = Handlers(
        "collector",
        {
            WorkerJoined: _worker_joined,
            WorkerExited: _worker_exited,
            Failed: _failed,
            Cancelled: _cancel,
            Dropped: _drop,
            Broken: _broken,
            Stop: _stopped,
            LookAgain: _look_again,
        },
    )
