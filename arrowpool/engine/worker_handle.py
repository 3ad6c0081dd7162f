"""One worker process as the parent sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing import process
from multiprocessing.process import BaseProcess

from arrowpool.engine.calls import Task
from arrowpool.memory.control_page import ControlPage
from arrowpool.transport.channel import Channel
from arrowpool.transport.receiver import Receiver


@dataclass(slots=True, eq=False)
class Spent:
    """Number of a worker's answers, and the seconds that they took. The collector writes, other threads read for `stats`.

    `run` also has the seconds of the task with which the worker ended.
    """

    since: float = field(default_factory=time.monotonic)
    until: float | None = None
    tasks: int = 0
    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0


@dataclass(eq=False, repr=False)
class WorkerHandle:
    """One worker process, and the channel and memory that lead to it.

    Used by the supervisor, the feeder and the collector. The feeder alone writes and reads all attributes, except where a comment
    names other threads. "The feeder" stands for the acting thread: see `mailbox`.
    """

    # Set by the launcher, and not changed, except `sentinel`.

    process: BaseProcess
    channel: Channel
    control: ControlPage
    receiver: Receiver
    #: Descriptor that is readable when the process has ended; -1 if there is none. The supervisor writes -1 after the end.
    sentinel: int
    #: Whether `sentinel` is readable as soon as the process has ended, even if children of the process live on.
    is_watched: bool = True
    #: Number of tasks after which the worker ends; None for no limit.
    quota: int | None = None
    #: Whether the worker has said that it takes tasks. The feeder writes, the supervisor reads. Safe: it becomes True once. A
    #: worker that ends before the feeder has noted it counts as one that was never ready.
    ready: bool = False
    #: Number of tasks sent so far, which is the number of the next one; and number of tasks in the last frame.
    sent: int = 0
    last_frame: int = 0
    #: Estimated seconds of each task of that frame. The feeder writes, the collector reads: it is an estimate, so any value will
    #: do.
    pace: float = 0.0
    #: Tasks sent and not answered, by number, in the order in which they were sent. The feeder adds a task before it is sent. The
    #: collector removes it when it is answered or its worker is lost, the feeder when it is taken back. Safe: `pop` is one
    #: operation of a dict, so one of the two gets the task, and settles it. Other threads read its length, or a copy.
    outstanding: dict[int, Task] = field(default_factory=dict)
    #: Numbers of blobs that the worker has; and of blobs that it has to drop.
    known_blobs: set[int] = field(default_factory=set)
    to_forget: list[int] = field(default_factory=list)
    #: When the feeder last saw this worker begin a task, and how many it had begun.
    progress: tuple[float, int] = (0.0, 0)
    #: Numbers taken back from the worker, not yet given to others.
    recalled: tuple[int, int] | None = None
    recalled_at: float = 0.0
    #: Whether the worker is about to be killed, so it gets no task; and whether it is killed because of `task_timeout`. The
    #: supervisor writes; the feeder reads `doomed`, the collector reads `overdue`. Safe: `overdue` is set before the worker is
    #: killed, and so before the collector sees its end. A task that is sent just before `doomed` is set goes to another worker.
    doomed: bool = False
    overdue: bool = False
    #: Whether it can read other processes' memory, which the parent lends. The collector writes, the feeder reads. Safe: a worker
    #: that cannot read it says so instead of running the task; the task is sent again with a copy.
    may_borrow: bool = False
    #: The collector writes; other threads read for `stats`.
    spent: Spent = field(default_factory=Spent)

    def close_in_child(self) -> None:
        """A forked child is not the worker's parent; `multiprocessing` would end the worker when that child exits."""
        process._children.discard(self.process)  # type: ignore[attr-defined]

    def interrupt(self, number: int) -> None:
        """Interrupt the task of this number, if it is still the one that runs."""
        self.control.interrupt(number)
        # As `Process.terminate` does it. The number of a process that was joined may be another process's.
        popen = getattr(self.process, "_popen", None)
        if self.process.pid is not None and getattr(popen, "returncode", None) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(PermissionError):  # this process may have dropped its rights since
            self.process.kill()

    def disconnect(self) -> None:
        """Close the channel, and give up the memory of results that are not in use, after the process has ended. Can be called again."""
        self.channel.close()
        self.receiver.owner_lost()

    def running_for(self, now: float) -> float:
        """Seconds for which the task has run that the worker runs, or ran when it ended; 0.0 if there is none."""
        began = self.control.task_began
        return max(0.0, now - began) if began else 0.0

    def spare(self) -> int:
        """Bytes of its arena that it keeps warm, and bytes that were released and that it has not noticed."""
        return max(0, self.control.results.resident - self.receiver.leased())

    def __repr__(self) -> str:
        return f"<WorkerHandle pid={self.process.pid} outstanding={len(self.outstanding)} sent={self.sent}>"
