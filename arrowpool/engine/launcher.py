"""The launcher: starts one worker process with its descriptors and its initializer, under any start method."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import reduction
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from arrowpool.codecs import load
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import WorkerInitError
from arrowpool.forking import Handover, keep_from_children, no_forks, worker_fork
from arrowpool.guard import ADVICE, has_server_left
from arrowpool.memory import arena, control_page, platform
from arrowpool.memory.arena import Arena
from arrowpool.memory.control_page import ControlPage
from arrowpool.memory.forks import watch_forks
from arrowpool.transport import protocol
from arrowpool.transport.channel import Channel
from arrowpool.transport.culprits import explained, in_initializer
from arrowpool.transport.parcel import Parcel, Reduced
from arrowpool.transport.protocol import Body, Grants
from arrowpool.transport.receiver import Receiver
from arrowpool.transport.reducer import Reducer
from arrowpool.transport.resolution import Reach
from arrowpool.transport.sender import Sender
from arrowpool.transport.unit import Unit
from arrowpool.tuning import INLINE_LIMIT
from arrowpool.worker.lifeline import Lifeline
from arrowpool.worker.loop import Endpoints, main
from arrowpool.worker.signals import signals_held_back


class Initializer:
    """The user's initializer and its arguments, as they go to every worker.

    A forked worker inherits them. For other workers they are pickled while the process starts: at no other time can locks and
    queues be pickled. Their large memory is placed once, when the first worker starts, for all workers.

    Parameters
    ----------
    function, args
        The initializer and its arguments. No function for None.
    reach : Reach
        Says what the workers resolve by name.
    capacity : int
        Bytes that the arena for the arguments reserves.
    spill_dir : str or None
        Directory of that arena, if it is on a disk.
    """

    def __init__(
        self,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        reach: Reach,
        capacity: int,
        spill_dir: str | None,
    ):
        self._function = function
        self._args = args
        self._reach = reach
        self._capacity = capacity
        self._spill_dir = spill_dir
        #: The large memory of the arguments: sizes, parcel and arena. Written and read by the thread that starts a worker, with the
        #: supervisor's lock held; written by `close` after the last worker has started.
        self._placed: tuple[list[int], Parcel, Arena] | None = None

    def __call__(self) -> None:
        if self._function is not None:
            self._function(*self._args)

    def __reduce__(self) -> tuple[Any, ...]:
        stream, units = self._reduce(INLINE_LIMIT)
        sizes = [unit.nbytes for unit in units]
        if units and (self._placed is None or self._placed[0] != sizes):
            try:
                own = arena.make(self._capacity, self._spill_dir)
            except OSError:
                stream, units = self._reduce(sys.maxsize)
            else:
                self._placed = (sizes, Sender(own).place(Reduced(b"", units)), own)
        if not units:
            return _rebuild_initializer, (protocol.encoded(stream), (), None)
        assert self._placed is not None
        _, parcel, placed = self._placed
        grants = tuple(
            protocol.grant(slot, segment.offset, segment.size) for slot, segment in enumerate(parcel.segments)
        )
        body = protocol.encoded(stream, protocol.placements_of(parcel.body))
        return _rebuild_initializer, (body, grants, reduction.DupFd(placed.fd))

    def _reduce(self, inline_limit: int) -> tuple[bytes, list[Unit]]:
        reducer = Reducer(inline_limit=inline_limit, reach=self._reach, for_initializer=True)
        with explained(in_initializer(self._function, self._args)):
            return reducer.reduce((self._function, self._args))

    def close(self) -> None:
        """Release the arguments' memory, when no more workers are started."""
        self._placed = None


def _rebuild_initializer(body: Body, grants: Grants, arena_fd: Any) -> Callable[[], None]:
    # Rebuilt by the call, after the worker is set up: so an error counts as the initializer's.
    def start() -> None:
        # These segments stay as long as the pool, so no process reads the flags.
        receiver = Receiver(
            arena_fd.detach() if arena_fd is not None else -1, np.zeros(len(grants) + 1, dtype=np.uint8)
        )
        function, args = receiver.rebuild(body, receiver.accept(grants))
        receiver.close()
        if function is not None:
            function(*args)

    return start


class _Travelling(Endpoints):
    """Endpoints as an argument of a process: a forked child has the same numbers; any other child gets duplicates."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, tuple(fd if fd < 0 else reduction.DupFd(fd) for fd in self.all())


def _arrive(*travelled: Any) -> Endpoints:
    fds = [one if isinstance(one, int) else one.detach() for one in travelled]
    for fd in fds:
        if fd >= 0:
            os.set_inheritable(fd, False)
    return Endpoints(*fds)


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts the workers of a pool.

    Attributes
    ----------
    arguments : int
        Descriptor of the parent's arena, -1 for none.
    capacity : int
        Bytes that a worker's own arena reserves; 0 for none.
    spill_dir : str or None
        Directory of that arena, if it is on a disk.
    released : callable
        Called with the size of each result that the user releases.
    owners : int
        Number of processes with an arena: the workers and the parent.
    may_have_children : bool
        Whether tasks may start processes with `multiprocessing`.
    """

    context: BaseContext
    process: Callable[..., BaseProcess]
    initializer: Initializer
    maxtasks: int | None
    arguments: int
    capacity: int
    spill_dir: str | None
    released: Callable[[int], None]
    forks: bool
    owners: int
    may_have_children: bool
    lifeline: Lifeline = field(default_factory=Lifeline)

    def launch(self, keep: Callable[[WorkerHandle], None]) -> None:
        """Start a worker and pass its handle to `keep`. No interrupt comes between the two.

        Raises
        ------
        WorkerInitError
            When the fork server cannot import the main module, because it makes a pool.
        Exception
            The error of starting a process. No process and no descriptor is left then.
        """
        watch_forks()
        load()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as always:
            handover = Handover()
            always.callback(handover.close)
            with no_forks():
                keep_from_children(handover)
                channel, there = Channel.pair()
                ours.callback(channel.close)
                keep_from_children(channel)
                reader, writer = [handover.add(fd) for fd in there]
                lifeline, its_own = self.lifeline.end_for_worker()
                handover.add(lifeline)
                results = handover.add(arena.create(self.capacity, self.spill_dir)) if self.capacity else -1
                page = control_page.create()
                if page >= 0:
                    handover.add(page)
                shared = ControlPage(page)
                arguments = handover.add(platform.read_only(self.arguments)) if self.arguments >= 0 else -1
            endpoints = _Travelling(
                reader=reader, writer=writer, control=page, lifeline=lifeline, arguments=arguments, results=results
            )
            shared.owners = self.owners
            receiver = Receiver(os.dup(results) if results >= 0 else -1, shared.released_by_parent, self.released)
            ours.callback(receiver.close)
            process = self.process(
                self.context,
                target=main,
                args=(endpoints, self.initializer, self.maxtasks, not self.forks, self.may_have_children),
            )
            process.name = process.name.replace("Process", "PoolWorker")
            process.daemon = True  # here, so that it ends with this process
            with signals_held_back(self.forks):
                ours.callback(_end, process)
                with worker_fork(handover, stays=self.forks):
                    _start(process)
                pid = getattr(process, "pid", None) or 0  # a class of the caller's may start no process
                if pid and its_own:
                    with contextlib.suppress(OSError):  # the worker has ended; or it waits for the lifeline itself
                        platform.tie(pid, lifeline)
                shared.pids = (os.getpid(), pid)
                worker = WorkerHandle(process, channel, shared, receiver, *_watch(process), quota=self.maxtasks)
                ours.pop_all()
                keep_from_children(worker)
                keep(worker)

    def close(self) -> None:
        """Release the initializer's memory and the lifeline, after the last worker has ended."""
        self.initializer.close()
        self.lifeline.close()


def _start(process: BaseProcess) -> None:
    try:
        process.start()
    except (ConnectionError, EOFError):
        if has_server_left():
            raise WorkerInitError(ADVICE) from None
        raise


def _end(process: BaseProcess) -> None:
    """End a process that the pool does not get, if it was started."""
    if getattr(process, "pid", None):
        process.kill()
        process.join()
        close = getattr(_popen(process), "close", None)
        if close is not None:
            close()


def _watch(process: BaseProcess) -> tuple[int, bool]:
    """Return a descriptor that is readable when the process has ended, or -1; and whether it is so while children of it live on."""
    pid, sentinel = getattr(process, "pid", None), getattr(process, "sentinel", -1)
    if pid is None or sentinel < 0:
        return -1, False
    keeps = getattr(_popen(process), "method", None) in ("fork", "spawn")  # the sentinel, until it is closed
    try:
        watched = platform.watch_end(pid)
    except OSError:
        return (sentinel if keeps else os.dup(sentinel)), False
    if keeps:
        # In place of the pipe, which children of the worker keep open: so `join` does not wait for them either.
        os.dup2(watched, sentinel, inheritable=False)
        os.close(watched)
        return sentinel, True
    return watched, True  # the fork server writes the exit code to its sentinel


def let_go(worker: WorkerHandle) -> None:
    """Close the descriptors of a worker that has ended and was joined."""
    sentinel, worker.sentinel = worker.sentinel, -1
    if sentinel >= 0 and sentinel != getattr(worker.process, "sentinel", -1):
        os.close(sentinel)
    # Not `process.close`: other code asks for the exit code. A process of loky closes its descriptors by itself.
    close = getattr(_popen(worker.process), "close", None)
    if close is not None:
        close()


def _popen(process: BaseProcess) -> Any:
    return getattr(process, "_popen", None)
