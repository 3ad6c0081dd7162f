"""The supervisor: replaces workers that end, kills workers whose task takes too long, and reports the exit code of each.

Runs in a thread of its own; `repopulate` also in the thread that makes the pool.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import Any

from arrowpool.engine.events import Broken, Stop, WorkerExited, WorkerJoined
from arrowpool.engine.feeder import Feeder
from arrowpool.engine.launcher import Launcher, let_go
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.obituary import Reason, reason_of, replaced
from arrowpool.engine.recorder import Activity, Recorder
from arrowpool.engine.state import PoolState
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import PoolTerminatedError, WorkerInitError, describe_exit, said
from arrowpool.guard import ADVICE, UNGUARDED
from arrowpool.threads import Service, tell
from arrowpool.waiting import SelfPipe, wait_readable

_log = logging.getLogger(__name__)

#: Time between attempts to start a worker in place of one that ended.
_TRY_AGAIN_SECONDS = 0.5
#: A pool without workers breaks when the system refuses processes, descriptors or memory for this long.
_PATIENCE_SECONDS = 5.0
#: Interval for looking at processes whose end no descriptor reports.
_LOOK_SECONDS = 0.1
#: Longest wait. The kernel takes at most 2**31 milliseconds.
_LONGEST_SECONDS = 3600.0


class Supervisor(Service):
    """Runs until the pool is closed and its last call is answered, or until the pool is terminated.

    Parameters
    ----------
    launcher : Launcher
        Starts workers.
    processes : list of Process
        The pool's list of its processes. Written by the threads that start workers and by this thread, under a lock; read by any
        thread.
    size : int
        Number of workers to keep.
    pipe : SelfPipe
        Ends this thread's waits. `close` closes it.
    cache : dict
        Running calls; empty when all are answered.
    feeder : Feeder
        Gets `end` after the last call. Wakes this thread when it has ended.
    tell_collector : callable
        Passes events on to the collector.
    state : PoolState
        Says when the pool is closed and terminated.
    task_timeout : float or None
        Seconds after which a worker that still runs the same task is killed.
    recorder : Recorder
        Notes the starts of workers.
    metrics : Metrics
        Counts workers that replace others.
    """

    def __init__(
        self,
        *,
        launcher: Launcher,
        processes: list[BaseProcess],
        size: int,
        pipe: SelfPipe,
        cache: dict[int, Any],
        feeder: Feeder,
        tell_collector: Callable[[Any], None],
        state: PoolState,
        task_timeout: float | None,
        recorder: Recorder,
        metrics: Metrics,
    ):
        super().__init__("arrowpool-supervisor")
        self._recorder = recorder
        self._state = state
        self._launcher = launcher
        self._processes = processes
        self._size = size
        self._pipe = pipe
        self._cache = cache
        self._feeder = feeder
        self._tell_collector = tell_collector
        self._task_timeout = task_timeout
        self._metrics = metrics
        #: Workers that were started and not buried. Written by the threads that start workers and by this thread, with
        #: `_changing` held; after the end of this thread, by the thread that ends the pool. Other readers take a copy.
        self._workers: list[WorkerHandle] = []
        #: Of each worker that was not replaced yet: why it ended, its process id and its exit code. As `_workers`.
        self._vacant: deque[tuple[Reason, int, int | None]] = deque()
        #: The same of each that was, with the new worker's process id, until it is logged. As `_workers`.
        self._replaced: deque[tuple[Reason, int, int | None, int]] = deque()
        #: Held while workers are started, and while one is removed from the lists.
        self._changing = threading.Lock()
        #: Number of workers in a row that ended before they were ready. For this thread only.
        self._stillborn = 0
        #: Whether this thread has broken the pool, so no worker is started any more. Written by this thread; read also by the
        #: thread that makes the pool, in `repopulate`.
        self._gave_up = False
        #: Whether the last attempt to start a worker failed. For this thread only.
        self._short_handed = False
        #: When an attempt failed for the first time while the pool had no worker; None while it has some. For this thread only.
        self._deserted_at: float | None = None

    def __repr__(self) -> str:
        stillborn = f" | ended before they were ready: {self._stillborn}" if self._stillborn else ""
        gave_up = " | gave up" if self._gave_up else ""
        return f"<Supervisor workers: {len(self._workers)} of {self._size}{stillborn}{gave_up}>"

    def wake(self) -> None:
        """Look at the pool's state again: it has changed. Any thread may call this, also in a finalizer."""
        self._pipe.wake()

    def repopulate(self) -> None:
        """Start workers until the pool has its number. Any thread may call this."""
        with self._changing:
            while len(self._processes) < self._size and self._may_start():
                began = self._recorder.begin()
                self._launcher.launch(self._keep)
                if began:
                    self._recorder.note(Activity.START, began)
                util.debug("added worker")
        self._note_replaced()
        self.wake()

    def _note_replaced(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                end = self._replaced.popleft()
                self._metrics.replaced += 1
                replaced(*end)

    def _keep(self, worker: WorkerHandle) -> None:
        self._workers.append(worker)
        self._processes.append(worker.process)
        if self._vacant:
            self._replaced.append((*self._vacant.popleft(), worker.process.pid or 0))
        self._tell_collector(WorkerJoined(worker))

    def _is_broken(self) -> bool:
        return self._gave_up or self._state.error is not None

    def _may_start(self) -> bool:
        return not self._is_broken() and self._state.given_up is None

    def _has_calls(self) -> bool:
        """Whether calls wait for their results, or more may come."""
        return self._state.is_taking_calls() or (bool(self._cache) and not self._state.is_terminated())

    def run(self) -> None:
        try:
            self._keep_up()
        except BaseException as error:
            # This thread no longer notices the ends of workers, so calls could wait indefinitely: fail them. Then wait for the end
            # of the pool.
            self._fail(PoolTerminatedError(f"the pool cannot go on: {said(error)}"), error)
            while self._state.is_taking_calls():
                self._await_word()
            self._feeder.end()
            self._tell_collector(Stop(drain=False))
            for worker in self._workers:
                worker.kill()
            raise
        finally:
            util.debug("supervisor exiting")

    def _await_word(self) -> None:
        if wait_readable([self._pipe.reader], None):
            self._pipe.drain()

    def _keep_up(self) -> None:
        while self._has_calls():
            self._wait()
            self._bury()
            if self._state.given_up is not None and not self._workers:
                self._fail(self._state.given_up, None)
            elif self._has_calls():
                try:
                    self.repopulate_if_needed()
                except Exception as error:
                    self._cannot_start(error)
                else:
                    self._short_handed = False
                    self._deserted_at = None
        self._feeder.end()
        while not self._state.sends_no_more and not self._state.is_terminated():
            self._wait()
        if not self._state.is_terminated():
            # Including the workers that are not ready: the feeder does not know them.
            for worker in self._workers:
                worker.channel.finish()
                if self._is_broken():
                    worker.kill()  # no call waits for it
            self._tell_collector(Stop(drain=True))
            while self._watched() and not self._state.is_terminated():
                self._wait()
                self._bury()

    def _cannot_start(self, error: Exception) -> None:
        """Handle a failed start: try again later, or break the pool if it has no worker and cannot get one."""
        now = time.monotonic()
        if self._workers:
            self._deserted_at = None
        elif self._deserted_at is None:
            self._deserted_at = now
        # Descriptors, processes and memory may be available again in a moment. Other errors repeat.
        patience = _PATIENCE_SECONDS if isinstance(error, (OSError, MemoryError)) else 0
        if self._deserted_at is not None and now >= self._deserted_at + patience:
            self._fail(WorkerInitError(f"no worker can be started: {said(error)}"), error)
        elif not self._short_handed:
            tell(
                _log.warning,
                "a worker that ended cannot be replaced now (%s); trying again",
                said(error, str),
            )
        self._short_handed = True

    def repopulate_if_needed(self) -> None:
        if len(self._processes) < self._size and self._may_start():
            self.repopulate()

    def _wait(self) -> None:
        """Wait until a worker has ended or the pool's state has changed."""
        reader = self._pipe.reader
        if reader in wait_readable([reader, *(worker.sentinel for worker in self._watched())], self._patience()):
            self._pipe.drain()

    def _patience(self) -> float | None:
        """Maximum number of seconds to wait; None for no limit."""
        limits = [self._expire()]
        if self._short_handed:
            limits.append(_TRY_AGAIN_SECONDS)
        if not all(worker.is_watched for worker in self._watched()):
            limits.append(_LOOK_SECONDS)
        return min((limit for limit in limits if limit is not None), default=None)

    def _expire(self) -> float | None:
        """Kill workers whose task has exceeded `task_timeout`. Return the seconds until the next task can; None without a limit."""
        granted = self._task_timeout
        if granted is None:
            return None
        now = time.monotonic()
        soonest = now + granted
        for worker in list(self._workers):
            began = worker.control.began
            if not began:
                continue
            if began + granted > now:
                soonest = min(soonest, began + granted)
            elif not worker.overdue:
                # In this order: a doomed worker gets no new task. So if a task runs after that, it is the one that is overdue.
                worker.doomed = True
                if worker.control.began == began:
                    worker.overdue = True
                    worker.kill()
                else:
                    worker.doomed = False
                    self._feeder.wake()
        return min(soonest - now + 0.001, _LONGEST_SECONDS)

    def _bury(self) -> None:
        """Remove workers that have ended from the lists, and report their exit codes."""
        for worker in _ended(self._watched(), 0):
            worker.process.join()
            with self._changing:
                self._workers.remove(worker)
                if worker.process in self._processes:
                    self._processes.remove(worker.process)
                exitcode = worker.process.exitcode
                reason = reason_of(exitcode, overdue=worker.overdue, ready=worker.ready, lost=False)
                self._vacant.append((reason, worker.process.pid or 0, exitcode))
            let_go(worker)
            self._tell_collector(WorkerExited(worker, exitcode))
            self._count_stillborn(worker, exitcode)

    def _count_stillborn(self, worker: WorkerHandle, exitcode: int | None) -> None:
        """Break the pool when one worker after another ends before it is ready."""
        is_killed = exitcode == -signal.SIGKILL
        if worker.ready:
            self._stillborn = 0
            return
        if is_killed and any(other.ready for other in self._workers):
            return  # from outside; the pool goes on with those that it has
        self._stillborn += 1
        if exitcode == UNGUARDED and self._has_calls():
            self._fail(WorkerInitError(ADVICE), None)
        elif self._stillborn > max(3, self._size) and self._has_calls():
            if is_killed:
                why = "Something outside kills them, as the system does when memory is short."
            else:
                why = "The initializer, or the import of the main module, ends the process."
            ended = f"{self._stillborn} workers in a row ended before they were ready"
            self._fail(WorkerInitError(f"{ended}; the last one {describe_exit(exitcode)}. {why}"), None)

    def _fail(self, error: Exception, cause: BaseException | None) -> None:
        error.__cause__ = cause
        self._gave_up = True
        # After the events of workers that ended: the last message of one may contain the reason, and the first error stays.
        self._tell_collector(Broken(error))

    def _watched(self) -> list[WorkerHandle]:
        return [worker for worker in list(self._workers) if worker.sentinel >= 0]

    def end_workers(self, patience: float) -> None:
        """End all workers. For the thread that ends the pool, after the supervisor's thread has ended.

        An idle worker ends when its channel closes, even if it ignores signals. A busy worker gets SIGTERM. Workers that still run
        after `patience` seconds get SIGKILL; the time counts for all workers together.
        """
        for worker in self._workers:
            worker.control.ending = True
            worker.channel.finish()
        for worker in self._workers:
            if worker.process.exitcode is None:
                worker.process.terminate()
        left = self._watched()
        until = time.monotonic() + patience
        while left and time.monotonic() < until:
            ended = _ended(left, until - time.monotonic())
            left = [worker for worker in left if worker not in ended]
        for worker in left:
            worker.kill()
        for worker in self._workers:
            worker.process.join()

    def close(self) -> None:
        """Release the descriptors, after the thread and all workers have ended."""
        for worker in self._workers:
            let_go(worker)
            worker.disconnect()  # the collector has done it, unless it ended before it got the worker
        self._workers.clear()
        self._launcher.close()
        self._pipe.close()


def _ended(workers: list[WorkerHandle], seconds: float) -> list[WorkerHandle]:
    """The workers whose process has ended. Waits up to `seconds` for the first one."""
    if not all(worker.is_watched for worker in workers):
        seconds = min(seconds, _LOOK_SECONDS)
    ended = set(wait_readable((worker.sentinel for worker in workers), max(0.0, seconds)))
    return [
        worker
        for worker in workers
        if worker.sentinel in ended or (not worker.is_watched and worker.process.exitcode is not None)
    ]
