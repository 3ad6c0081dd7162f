"""The supervisor: keeps as many workers running as the pool shall have, and learns how each one ended."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.pool import CLOSE, RUN, TERMINATE
from multiprocessing.process import BaseProcess
from typing import Any

from arrowpool.errors import WorkerInitError, describe_exit
from arrowpool.feeder import Feeder
from arrowpool.lane import Broken, Lane, LaneExited, LaneJoined, Stop
from arrowpool.launch import Launcher
from arrowpool.service import Service

_log = logging.getLogger(__name__)

#: After this long another attempt is made to start a worker in place of one that ended.
_TRY_AGAIN_MILLISECONDS = 500.0


class Notifier:
    """Wakes the supervisor; stands where the standard library's pool has its ``_change_notifier``."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def put(self, _: Any) -> None:
        """Wake it; from any thread, also from a finalizer."""
        try:
            os.write(self._writer, b"\0")
        except OSError:  # the pipe is full: it will wake; or closed: it has ended
            util.debug("supervisor not woken")

    def drain(self) -> None:
        os.read(self.reader, 1 << 16)

    def close(self) -> None:
        for fd in (self.reader, self._writer):
            if fd >= 0:
                os.close(fd)
        self.reader = self._writer = -1


class Supervisor(Service):
    """Runs until the pool is closed and its last call answered, or the pool is terminated.

    Parameters
    ----------
    launcher : Launcher
        Starts workers.
    workers : list of Process
        The pool's own list of its workers, kept up to date here.
    size : int
        How many there shall be.
    notifier : Notifier
        Wakes this thread when the pool's state has changed.
    cache : dict
        Running calls; empty when all are answered.
    feeder : Feeder
        Told when there will be no more work; wakes this thread through the notifier when it has ended.
    tell_collector : callable
        Passes events on to the collector.
    task_timeout : float or None
        Seconds after which a worker is killed that runs the same task still.
    """

    def __init__(
        self,
        launcher: Launcher,
        workers: list[BaseProcess],
        size: int,
        notifier: Notifier,
        cache: dict[int, Any],
        feeder: Feeder,
        tell_collector: Callable[[Any], None],
        task_timeout: float | None,
    ):
        super().__init__("arrowpool-supervisor")
        self._state = RUN
        self._launcher = launcher
        self._workers = workers
        self._size = size
        self._notifier = notifier
        self._cache = cache
        self._feeder = feeder
        self._tell_collector = tell_collector
        self._task_timeout = task_timeout
        self._lanes: list[Lane] = []
        self._changing = threading.Lock()
        self._stillborn = 0
        self._broken = False
        #: Whether the last attempt to start a worker failed.
        self._short_handed = False

    def repopulate(self) -> None:
        """Start workers until there are as many as there shall be; from any thread."""
        with self._changing:
            while len(self._workers) < self._size and not self._broken:
                lane = self._launcher.launch()
                self._lanes.append(lane)
                self._workers.append(lane.process)
                self._tell_collector(LaneJoined(lane))
                util.debug("added worker")
        self._notifier.put(None)

    def give_up(self) -> None:
        """Start no more workers."""
        self._broken = True

    def _has_calls(self) -> bool:
        """Whether there are calls to be answered, or may be."""
        return self._state == RUN or (self._state == CLOSE and bool(self._cache))

    def run(self) -> None:
        while self._state == RUN or (self._cache and self._state != TERMINATE):
            self._wait()
            self._bury()
            if self._has_calls():
                try:
                    self.repopulate_if_needed()
                except Exception as error:
                    if not self._lanes:
                        self._fail(WorkerInitError(f"no worker can be started: {error!r}"), error)
                    elif not self._short_handed:
                        _log.warning(
                            "no worker can be started in place of one that ended, %r; trying again", str(error)
                        )
                    self._short_handed = True
                else:
                    self._short_handed = False
        self._feeder.end()
        while not self._feeder.over and self._state != TERMINATE:
            self._wait()
        if self._state != TERMINATE:
            # Also those that were not ready yet, and so unknown to the feeder.
            for lane in self._lanes:
                lane.channel.finish()
            self._tell_collector(Stop(drain=True))
            while self._lanes and self._state != TERMINATE:
                self._wait()
                self._bury()
        util.debug("supervisor exiting")

    def repopulate_if_needed(self) -> None:
        if len(self._workers) < self._size and not self._broken:
            self.repopulate()

    def _wait(self) -> None:
        """Until a worker has ended or the pool's state has changed."""
        poll = select.poll()
        poll.register(self._notifier.reader, select.POLLIN)
        for lane in list(self._lanes):
            poll.register(lane.sentinel, select.POLLIN)
        if any(fd == self._notifier.reader for fd, _ in poll.poll(self._patience())):
            self._notifier.drain()

    def _patience(self) -> float | None:
        """Milliseconds to wait for something to happen; None for ever."""
        expires = self._expire()
        if not self._short_handed:
            return expires
        return _TRY_AGAIN_MILLISECONDS if expires is None else min(expires, _TRY_AGAIN_MILLISECONDS)

    def _expire(self) -> float | None:
        """Kill workers whose task has had its time; return the milliseconds until the next could be due, None for never."""
        granted = self._task_timeout
        if granted is None:
            return None
        now = time.monotonic()
        soonest = now + granted
        for lane in list(self._lanes):
            began = lane.control.began
            if not began:
                continue
            if began + granted > now:
                soonest = min(soonest, began + granted)
            elif not lane.overdue:
                # In this order: once doomed it gets no new task, so what still runs after that is the one that is due.
                lane.doomed = True
                if lane.control.began == began:
                    lane.overdue = True
                    lane.process.kill()
                else:
                    lane.doomed = False
                    self._feeder.wake()
        return (soonest - now) * 1000 + 1

    def _bury(self) -> None:
        """Take ended workers off the list and say how they ended."""
        poll = select.poll()
        for lane in list(self._lanes):
            poll.register(lane.sentinel, select.POLLIN)
        ended = {fd for fd, _ in poll.poll(0)}
        for lane in list(self._lanes):
            if lane.sentinel not in ended:
                continue
            lane.process.join()
            with self._changing:
                self._lanes.remove(lane)
                if lane.process in self._workers:
                    self._workers.remove(lane.process)
            os.close(lane.sentinel)
            exitcode = lane.process.exitcode
            self._tell_collector(LaneExited(lane, exitcode))
            self._count_stillborn(lane, exitcode)

    def _count_stillborn(self, lane: Lane, exitcode: int | None) -> None:
        """Workers that end one after another before they are ready will go on doing so."""
        if lane.ready:
            self._stillborn = 0
            return
        self._stillborn += 1
        if self._stillborn > max(3, self._size) and self._has_calls():
            self._fail(
                WorkerInitError(
                    f"{self._stillborn} workers in a row ended before they were ready; the last one "
                    f"{describe_exit(exitcode)}. The initializer, or the import of the main module, ends the process."
                ),
                None,
            )

    def _fail(self, error: WorkerInitError, cause: BaseException | None) -> None:
        error.__cause__ = cause
        self.give_up()
        # It has first been told of the workers that ended, one of which may have said more about the reason.
        self._tell_collector(Broken(error))

    def close(self) -> None:
        """Release the descriptors; after the thread and all workers have ended."""
        for lane in self._lanes:
            os.close(lane.sentinel)
            # The collector may never have heard of it.
            lane.channel.close()
            lane.receiver.close()
        self._lanes.clear()
