"""The engine of a pool: assembles its threads, memory and workers, starts and ends them.

`ArrowPool` makes it, and translates the standard library's methods to it:

    ArrowPool -- submit(call) --> feeder -> workers -> collector --> the call's result object
                                     supervisor: starts and replaces the workers

Guarantees: the engine does not refer to the pool, so a pool that the user drops is collected, and its finalizer ends the engine. If
assembling fails, no descriptor is left. If starting fails, the caller terminates the engine.
"""

from __future__ import annotations

import contextlib
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
from arrowpool.engine.inbox import Inbox
from arrowpool.engine.launcher import Initializer, Launcher
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.parts import assemble
from arrowpool.engine.replies import Replies
from arrowpool.engine.state import Move, PoolState
from arrowpool.engine.supervisor import Supervisor
from arrowpool.memory import arena
from arrowpool.memory.arena import Arena
from arrowpool.memory.lease import live_leases_of
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

    @property
    def forks(self) -> bool:
        """Whether workers are forked from this process."""
        return self.method == "fork"


class _Notifier:
    """The pool's ``_change_notifier``: the cache of calls notifies the supervisor when it becomes empty."""

    def __init__(self, pipe: SelfPipe):
        self._pipe = pipe

    def put(self, _: object) -> None:
        """Wake the supervisor. Any thread may call this, also in a finalizer."""
        self._pipe.wake()


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
    """

    def __init__(self, options: Options):
        limit = limits(options.max_bytes, options.spill_dir, options.processes)
        reach = Reach(forks=options.forks)
        self.state = PoolState()
        self.workers: list[BaseProcess] = []
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._metrics = Metrics()
        self._releases = Releases(self.inbox)
        make_room(options.processes, options.method)
        with contextlib.ExitStack() as undo:
            wakes_supervisor = SelfPipe()
            undo.callback(wakes_supervisor.close)
            self.notifier = _Notifier(wakes_supervisor)
            self.cache: dict[int, Any] = stdlib._PoolCache(notifier=self.notifier)  # type: ignore[attr-defined]
            arguments = _make_arena(limit.capacity, options.spill_dir, options.processes + 1)
            self._sender = Sender(arguments, reach, copy_threads=options.copy_threads)
            undo.callback(self._sender.close)
            to_collector = Inbox()
            undo.callback(to_collector.close)
            parts = assemble(
                inbox=self.inbox,
                tell_collector=to_collector.put,
                cache=self.cache,
                sender=self._sender,
                budget=limit.budget,
                one_by_one=options.task_timeout is not None,
                metrics=self._metrics,
            )
            self._snapshots, self._delivery = parts.snapshots, parts.delivery
            self.feeder = Feeder(
                parts=parts, tell_collector=to_collector.put, has_ended=wakes_supervisor.wake, state=self.state
            )
            open_calls = OpenCalls(self.cache)
            self.collector = Collector(
                inbox=to_collector,
                feeder_inbox=self.inbox,
                answered=self.feeder.answered,
                replies=Replies(open_calls, reach.worker_has, self._metrics),
                open_calls=open_calls,
                state=self.state,
                retries=options.retries,
                task_timeout=options.task_timeout,
                metrics=self._metrics,
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

    def stats(self) -> Stats:
        """The figures of the pool so far."""
        feeder, metrics, sender = self.feeder, self._metrics, self._sender
        lifecycle = sender.lifecycle
        live_results, live_result_bytes = live_leases_of(self._releases)
        return Stats(
            tasks=metrics.tasks,
            piped_bytes=self._delivery.piped_bytes + metrics.piped_bytes,
            shared_bytes=sender.shared_bytes + metrics.shared_bytes,
            copies=sender.copies + metrics.copies,
            copies_saved=metrics.copies_saved + sender.lent,
            saved_bytes=metrics.saved_bytes + sender.lent_bytes,
            live_segments=len(lifecycle.live),
            live_bytes=lifecycle.bytes_live,
            peak_segments=lifecycle.peak_segments,
            peak_bytes=lifecycle.peak_bytes,
            live_results=live_results,
            live_result_bytes=live_result_bytes,
            workers=metrics.workers(feeder.workers),
            slowest=metrics.slowest(),
            pickled=metrics.reasons(),
        )


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
