"""The engine of a pool: assembles its threads, memory and workers, starts and ends them.

`ArrowPool` makes it, and translates the standard library's methods to it:

    ArrowPool -- submit(call) --> feeder -> workers -> collector --> the call's result object
                                     supervisor: starts and replaces the workers

Guarantees: the engine does not refer to the pool, so a pool that the user drops is collected, and its finalizer ends the engine. If
assembling fails, no descriptor is left. If starting fails, the caller terminates the engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import pool as stdlib
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from arrowpool.engine.calls import Call, Share, Snapshot
from arrowpool.engine.collector import Collector
from arrowpool.engine.descriptors import make_room
from arrowpool.engine.ending import Ending
from arrowpool.engine.events import Broken, Cancelled, Dropped, Releases, Unshare
from arrowpool.engine.feeder import Feeder
from arrowpool.engine.figures import Figures
from arrowpool.engine.inbox import Inbox
from arrowpool.engine.judge import Judge
from arrowpool.engine.launcher import Initializer, Launcher
from arrowpool.engine.load import Load, shelf_bytes
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.open_calls import Notifier, OpenCalls
from arrowpool.engine.parts import assemble
from arrowpool.engine.recorder import Activity, Recorder, Tape, now
from arrowpool.engine.replies import Replies
from arrowpool.engine.state import Move, PoolState
from arrowpool.engine.supervisor import Supervisor
from arrowpool.engine.tracing import note_present
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.health import Health
from arrowpool.memory import arena
from arrowpool.memory.arena import Arena
from arrowpool.memory.limits import limits
from arrowpool.stats import Stats, show_bytes
from arrowpool.transport.resolution import Reach
from arrowpool.transport.sender import Sender
from arrowpool.waiting import SelfPipe

_log = logging.getLogger(__name__)

_said_fallback = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked arguments of a pool.

    Attributes
    ----------
    context : BaseContext
        Starts the workers.
    method : str
        The context's start method when the pool is made.
    process : callable
        Called with `context` and the arguments of a process; returns a process object. Not a bound method of the pool.
    processes, initializer, initargs, maxtasksperchild, max_bytes, retries, task_timeout
        As for `ArrowPool`.
    spill_dir : str or None
        An absolute path: workers are also started later, when the current directory may have changed.
    copy_threads : int
        Number of threads that copy large arguments, the feeder's included.
    may_have_children : bool
        Whether tasks may start processes with `multiprocessing`.
    """

    context: BaseContext
    method: str
    process: Callable[..., BaseProcess]
    processes: int
    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...]
    maxtasksperchild: int | None
    max_bytes: int | None
    spill_dir: str | None
    retries: int
    task_timeout: float | None
    copy_threads: int
    may_have_children: bool

    @property
    def forks(self) -> bool:
        """Whether workers are forked from this process."""
        return self.method == "fork"


class Engine:
    """All parts of one pool.

    Attributes
    ----------
    state : PoolState
        The phase of the pool's life, and the error that broke it.
    workers : list of Process
        The worker processes. The supervisor's list.
    cache : dict
        Result objects of open calls by job number. Each enters and removes itself.
    inbox : queue.SimpleQueue
        Calls and events for the feeder.
    notifier : object
        Wakes the supervisor by ``put``, as the standard library's pool does.
    supervisor, feeder, collector : Service
        The pool's threads.
    recorder : Recorder
        Has the tape of the trace that is open.
    """

    def __init__(self, options: Options):
        limit = limits(options.max_bytes, options.spill_dir, options.processes)
        workers: list[WorkerHandle] = []
        reach = Reach(forks=options.forks)
        self.state = PoolState()
        self.workers: list[BaseProcess] = []
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._metrics = metrics = Metrics()
        self.recorder = recorder = Recorder()
        self._releases = Releases(self.inbox)
        make_room(options.processes, options.method)
        with contextlib.ExitStack() as undo:
            wakes_supervisor = SelfPipe()
            undo.callback(wakes_supervisor.close)
            self.notifier = Notifier(wakes_supervisor.wake, self.state.is_taking_calls)
            self.cache: dict[int, Any] = stdlib._PoolCache(notifier=self.notifier)  # type: ignore[attr-defined]
            arguments = _make_arena(limit.capacity, options.spill_dir, options.processes + 1)
            self._sender = Sender(arguments, reach, copy_threads=options.copy_threads)
            undo.callback(self._sender.close)
            to_collector = Inbox()
            undo.callback(to_collector.close)
            self._figures = Figures(
                size=options.processes,
                metrics=metrics,
                sender=self._sender,
                workers=workers,
                released=self._releases,
            )
            parts = assemble(
                inbox=self.inbox,
                tell_collector=to_collector.put,
                cache=self.cache,
                sender=self._sender,
                budget=limit.budget,
                one_by_one=options.task_timeout is not None,
                workers=workers,
                metrics=metrics,
                rested=Judge(metrics.busy, metrics.held_back, self._figures.stats).rested,
                recorder=recorder,
            )
            self._snapshots = parts.snapshots
            self._load = Load(
                size=options.processes,
                state=self.state,
                cache=self.cache,
                processes=self.workers,
                workers=workers,
                turns=parts.turns,
                backlog=parts.backlog,
                sender=self._sender,
            )
            self.feeder = Feeder(
                parts=parts,
                tell_collector=to_collector.put,
                has_ended=wakes_supervisor.wake,
                state=self.state,
                metrics=metrics,
            )
            open_calls = OpenCalls(self.cache)
            self.collector = Collector(
                inbox=to_collector,
                feeder_inbox=self.inbox,
                answered=self.feeder.answered,
                replies=Replies(open_calls, reach.worker_has, metrics, recorder),
                open_calls=open_calls,
                state=self.state,
                retries=options.retries,
                task_timeout=options.task_timeout,
                metrics=metrics,
                recorder=recorder,
            )
            launcher = _make_launcher(options, reach, limit.capacity, arguments, self._releases)
            undo.callback(launcher.close)
            self.supervisor = Supervisor(
                launcher=launcher,
                processes=self.workers,
                size=options.processes,
                pipe=wakes_supervisor,
                cache=self.cache,
                feeder=self.feeder,
                tell_collector=to_collector.put,
                state=self.state,
                task_timeout=options.task_timeout,
                recorder=recorder,
                metrics=metrics,
            )
            undo.pop_all()
        self._ending = Ending(
            state=self.state,
            supervisor=self.supervisor,
            feeder=self.feeder,
            collector=self.collector,
            sender=self._sender,
        )

    def start(self) -> None:
        """Start the threads, after the workers.

        Raises
        ------
        RuntimeError
            When Python cannot start a thread. `terminate` ends those that were started.
        """
        for thread in (self.supervisor, self.feeder, self.collector):
            thread.start()
        self.state.move(Move.START)

    def repopulate(self) -> None:
        """Start workers until there are as many as `Options.processes`."""
        self.supervisor.repopulate()

    @property
    def error(self) -> BaseException | None:
        """The error for all calls when no worker of this pool can run a task; None otherwise."""
        return self.state.error

    # Calls. From any thread.

    def submit(self, call: Call) -> None:
        """Run a call whose result object is in the cache.

        Race: the pool breaks or ends at the same time.

        1. The caller finds the pool whole, and enters the result object in the cache.
        2. The collector ends all calls that it finds in the cache, and for the last time after `answers_no_more` is set.
        3. The caller looks at the state again, here.

        If 1 comes before 2, the collector ends the call. If 2 comes before 1, the caller finds the error or the flag at 3, and
        has the call ended. Verdict: no call waits indefinitely.
        """
        self.inbox.put(call)
        error = self.state.error
        if error is not None:
            self.collector.tell(Broken(error))
        if self.state.answers_no_more:
            self.collector.end_calls()

    def cancel(self, job: int, error: BaseException | None) -> None:
        """End a call: interrupt its running tasks, drop its waiting ones. Its result is `error`, or `CancelledError`."""
        self.collector.tell(Cancelled(job, error))

    def give_up(self, error: Exception) -> None:
        """Replace no worker: the user is about to end them. Calls that they leave behind end with `error`."""
        self.state.given_up = error

    def drop(self, job: int, ends: bool) -> None:
        """Drop the results of an imap; with `ends`, end its call. Takes no lock."""
        self.collector.tell(Dropped(job, ends))

    def snapshot(
        self, function: Callable[..., Any], args: Any, kwds: Mapping[str, Any], shares: Sequence[Share]
    ) -> Snapshot | None:
        """A snapshot of a single call; see `Snapshots.take`."""
        return self._snapshots.take(function, args, kwds, shares)

    def share(self, share: Share) -> None:
        """Place an object. `share.placed` is set after that, to None or to an exception."""
        self.inbox.put(share)
        if self.state.sends_no_more:  # as in `submit`: the feeder may have ended before it could find the share
            self.feeder.refuse()

    def unshare(self, share: Share) -> None:
        """Release an object: later calls do not refer to it."""
        self.inbox.put(Unshare(share))

    def framed(self, activity: Activity, began: int) -> None:
        """Note that the current thread has cut a frame, or joined results, since `began` by the recorder's clock."""
        self._metrics.framed((now() - began) / 1e9)
        self.recorder.note(activity, began)

    # The end

    def close(self) -> None:
        """Take no more calls, and end when all are answered."""
        self.state.move(Move.CLOSE)
        self.supervisor.wake()
        self.feeder.hurry()

    def terminate(self) -> None:
        """End all parts now: see `Ending`. Any thread may call this, also in a finalizer."""
        self._ending()

    def wait(self) -> None:
        """Return when all parts have ended."""
        self.state.wait()

    def is_own_thread(self) -> bool:
        """Whether the current thread is one of the pool's, or works for one of them."""
        return self._ending.own_service() is not None

    # Figures

    def usage(self) -> str:
        """The use of the arguments' arena, in words."""
        lifecycle = self._sender.lifecycle
        return f"segments: {len(lifecycle.live)} ({show_bytes(lifecycle.bytes_live)}) | leases: {lifecycle.grants()}"

    def begin_trace(self, limit: int) -> Tape:
        """Begin a trace of at most `limit` entries.

        Raises
        ------
        RuntimeError
            When a trace of this pool is open.
        """
        tape = self.recorder.open(limit)
        for worker in self.feeder.workers:
            if not worker.outstanding:
                tape.idle.add(worker.process.pid or 0)
        return tape

    def end_trace(self, tape: Tape) -> None:
        """End a trace, and note on its tape what workers do at this moment."""
        self.recorder.close(tape)
        for worker in self.feeder.workers:
            note_present(tape, worker)

    def stats(self) -> Stats:
        """The figures of the pool so far."""
        stats, load = self._figures.stats(), self._load
        return dataclasses.replace(
            stats,
            sending=stats.sending + self.collector.cpu_seconds(),
            open_calls=load.calls(),
            waiting_tasks=load.waiting(),
            warm_bytes=load.warm_bytes(),
            shelf_bytes=shelf_bytes(),
        )

    def health(self) -> Health:
        """The state of the pool at this moment."""
        return self._load.health()


def _make_launcher(
    options: Options, reach: Reach, capacity: int, arguments: Arena | None, released: Callable[[int], None]
) -> Launcher:
    return Launcher(
        context=options.context,
        process=options.process,
        initializer=Initializer(
            function=options.initializer,
            args=options.initargs,
            reach=reach,
            capacity=capacity,
            spill_dir=options.spill_dir,
        ),
        maxtasks=options.maxtasksperchild,
        arguments=arguments.fd if arguments is not None else -1,
        capacity=arguments.capacity if arguments is not None else 0,
        spill_dir=options.spill_dir,
        released=released,
        forks=options.forks,
        owners=options.processes + 1,
        may_have_children=options.may_have_children,
    )


def _make_arena(capacity: int, spill_dir: str | None, owners: int) -> Arena | None:
    global _said_fallback
    try:
        return arena.make(capacity, spill_dir, owners)
    except OSError as error:
        if spill_dir is not None:
            raise
        if not _said_fallback:
            _said_fallback = True
            _log.warning("this system has no shared memory (%s): everything is pickled instead", str(error))
        return None
