"""The collector: the thread that reads workers' replies, and in which results are set.

    workers --> Collector --> Replies: tasks settled, results rebuilt --> OpenCalls: results set
    inbox   -->

Only this thread sets results, so no two threads set one result at the same time. Callbacks of the user run in it. It also gets each
worker's end, and decides which tasks were lost with the worker and which go to another one.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing import util
from typing import Any, ClassVar

from arrowpool.codecs import settle
from arrowpool.engine.calls import Task
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
from arrowpool.engine.naming import describe, name_error, numbers_of
from arrowpool.engine.obituary import Reason, ended, reason_of
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.outcomes import outcome_of
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.replies import Replies
from arrowpool.engine.scheduling import gather_seconds
from arrowpool.engine.state import PoolState
from arrowpool.engine.tracing import note_end
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError, PoolTerminatedError, TaskTimeoutError, WorkerLostError, describe_exit, said
from arrowpool.guard import UNGUARDED
from arrowpool.memory.descendants import Descendants
from arrowpool.memory.forks import settle_forks
from arrowpool.threads import Service
from arrowpool.transport.protocol import SOME_ITEM
from arrowpool.waiting import POLLIN, poll, wait_readable


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
    recorder : Recorder
        Notes the waits of this thread, and the ends of workers.
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
        recorder: Recorder,
    ):
        super().__init__("arrowpool-collector")
        self._recorder = recorder
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
        self._poll = poll()
        self._poll.register(inbox.reader, POLLIN)
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
                for fd in self._wait():
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
                worker.kill()  # otherwise it blocks while it sends replies that no thread reads
            raise
        finally:
            self._state.answers_no_more = True
            self.end_calls()
            util.debug("collector exiting")

    def close(self) -> None:
        """Release the descriptors, after this thread has ended."""
        for worker in list(self._workers.values()):
            self._metrics.ended(worker)
            self._forget(worker)
        self._inbox.close()

    def _wait(self) -> list[int]:
        """Wait for replies and events; return the descriptors that have some."""
        wait = self._recorder.wait_begins("for results")
        pause = gather_seconds(self._workers.values())
        if pause:
            wait_readable([self._inbox.reader], pause)
        ready = [fd for fd, _ in self._poll.poll()]
        self._recorder.wait_ends(wait)
        return ready

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
        self._poll.register(fd, POLLIN)

    def _worker_exited(self, event: WorkerExited) -> None:
        self._bury(event.worker, event.exitcode)

    def _failed(self, event: Failed) -> None:
        self._metrics.refused += isinstance(event.error, ArenaFullError)
        given = event.call, event.index, event.count, event.at
        name_error(event.error, *given)
        self._open_calls.set(event.call.job, event.index, *outcome_of(event.error, *given))

    def _cancel(self, event: Cancelled) -> None:
        """End a call.

        This thread does it, and reads no reply in between: the exception with which an interrupted task ends is not taken for the
        result of the call. The feeder gets the event first: it ends when the last call of a closed pool has its result.
        """
        self._feeder_inbox.put(event)
        self._metrics.cancelled += self._open_calls.find(event.job) is not None
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
                worker.kill()
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
        is_over = False
        while not is_over and worker.channel.readable():
            is_over = not self._read(worker)
        self._metrics.ended(worker)
        begun = worker.control.started
        self._note_cut_short(worker, exitcode)
        lost: list[Task] = []
        retried: list[Task] = []
        returned: list[Task] = []
        for number in sorted(worker.outstanding):
            task = worker.outstanding.pop(number, None)
            if task is None:  # the feeder has taken it back in the meantime
                continue
            if number < begun:
                task.losses += 1
                (retried if task.losses <= self._retries and not worker.overdue else lost).append(task)
            else:
                returned.append(task)
        pid = worker.process.pid or 0
        tape = self._recorder.tape
        if tape is not None:
            note_end(tape, worker, exitcode, lost + retried)
        wanted = next((task for task in (*lost, *retried) if self._open_calls.find(task.call.job) is not None), None)
        self._note_end(worker, exitcode, wanted)
        for task in lost:
            numbers = numbers_of(task.call, task.index, task.count, worker.control.running)
            index = numbers[0] if numbers is not None and len(numbers) == 1 else None
            text = describe(task, numbers)
            error: WorkerLostError | TaskTimeoutError = WorkerLostError(pid, exitcode, text, index, task.losses)
            if worker.overdue and self._task_timeout is not None:
                error = TaskTimeoutError(pid, self._task_timeout, text, index)
            outcome = outcome_of(error, task.call, task.index, task.count, SOME_ITEM)
            self._open_calls.set(task.call.job, task.index, *outcome)
        descendants = self._forget(worker, is_over)
        self._feeder_inbox.put(WorkerExited(worker, exitcode, descendants))
        if retried or returned:
            self._feeder_inbox.put(Returned(retried + returned))
        if lost:
            self._answered(lost, True)

    def _note_cut_short(self, worker: WorkerHandle, exitcode: int | None) -> None:
        """Note the task that a worker ran when it ended."""
        control = worker.control
        task, began = worker.outstanding.get(control.started - 1), control.began
        if task is not None and began:
            how = "was killed for time" if worker.overdue else describe_exit(exitcode)
            self._metrics.cut_short(task, max(0.0, time.monotonic() - began), how, control.running)

    def _note_end(self, worker: WorkerHandle, exitcode: int | None, task: Task | None) -> None:
        """Count and log the end of a worker, with the task that was lost, if its call waits for it."""
        reason = reason_of(exitcode, overdue=worker.overdue, ready=worker.ready, lost=task is not None)
        state = self._state
        if state.given_up is not None or state.error is not None or exitcode == UNGUARDED:
            return  # the user has ended the workers, or calls raise an error that says why
        if state.is_taking_calls() or task is not None:
            self._metrics.timeouts += reason is Reason.TIMEOUT
            self._metrics.lost_workers += reason in (Reason.LOST, Reason.UNREADY)
            ended(reason, worker.process.pid or 0, exitcode, self._describe(worker, task), self._task_timeout)

    def _describe(self, worker: WorkerHandle, task: Task | None) -> str | None:
        if task is None:
            return None
        return describe(task, numbers_of(task.call, task.index, task.count, worker.control.running))

    def _forget(self, worker: WorkerHandle, is_over: bool = True) -> Descendants | None:
        """Forget a worker that has ended. Unless its channel `is_over`, processes that it has forked have it: return these."""
        fd = worker.channel.fileno()
        if self._workers.pop(fd, None) is None:
            return None
        with contextlib.suppress(KeyError):  # `_read` has seen its end
            self._poll.unregister(fd)
        descendants = None if is_over else Descendants(worker.channel.give_reader_away())
        worker.disconnect()
        return descendants

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
