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
    """What a worker has answered, and the seconds it took it; the collector's."""

    since: float = field(default_factory=time.monotonic)
    until: float | None = None
    tasks: int = 0
    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0


@dataclass(eq=False, repr=False)
class WorkerHandle:
    """One worker process and the way to it.

    Used by the supervisor, the feeder and the collector. The feeder alone writes and reads an attribute that says nothing else.
    "The feeder" is the thread that works for it: see `mailbox`.
    """

    # Made by the launcher, and not changed.

    process: BaseProcess
    channel: Channel
    control: ControlPage
    receiver: Receiver
    #: Readable when the process has ended; -1 if there is none. And whether it is so at once, also when children live on.
    sentinel: int
    is_watched: bool = True
    #: How many tasks it runs in all; None for no limit.
    quota: int | None = None
    #: Whether it has said that it takes tasks. The feeder writes; other threads read for `stats` and while they wait for workers.
    #: Safe: it becomes True once.
    ready: bool = False
    #: Tasks sent so far, which is the number of the next one; and how many went in the last frame.
    sent: int = 0
    last_frame: int = 0
    #: Seconds that each task of that frame takes, as far as is known. The feeder writes, the collector reads: a guess, of which
    #: any value does.
    pace: float = 0.0
    #: Tasks sent and not answered, by number, in the order sent. The feeder adds a task before it is sent. The collector takes it
    #: out when it is answered or its worker is lost, the feeder when it is taken back. Safe, as `pop` is one operation of a dict:
    #: one of the two gets the task, and settles it. Other threads ask for its length, or copy it.
    outstanding: dict[int, Task] = field(default_factory=dict)
    #: Blobs that it has, and those of which it has to be told that no task will refer to them again.
    known_blobs: set[int] = field(default_factory=set)
    to_forget: list[int] = field(default_factory=list)
    #: When the feeder last saw this worker begin a task, and how many it had begun.
    progress: tuple[float, int] = (0.0, 0)
    #: Numbers taken back from the worker, not yet given to others.
    recalled: tuple[int, int] | None = None
    recalled_at: float = 0.0
    #: It is about to be killed, so is sent nothing; and the reason was a task's time. The supervisor writes; the feeder reads
    #: `doomed`, the collector `overdue`. Safe: `overdue` is set before the worker is killed, and so before the collector sees its
    #: end. A task that is sent in the moment before `doomed` is set is given to another worker.
    doomed: bool = False
    overdue: bool = False
    #: Whether it can read what the parent lends, which lies in other processes' memory. The collector writes, the feeder reads.
    #: Safe: a worker that cannot says so instead of running the task, which is then sent again with a copy.
    may_borrow: bool = False
    #: The collector writes; other threads read for `stats`.
    spent: Spent = field(default_factory=Spent)

    def close_in_child(self) -> None:
        """A forked child is not the worker's parent; `multiprocessing` would end the worker when that child exits."""
        process._children.discard(self.process)  # type: ignore[attr-defined]

    def interrupt(self, number: int) -> None:
        """Interrupt the task of this number, if it is still the one that runs."""
        self.control.interrupt(number)
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)

    def spare(self) -> int:
        """Bytes of its arena that it keeps warm, or that were released and it has not noticed."""
        return max(0, self.control.results.resident - self.receiver.leased())

    def __repr__(self) -> str:
        return f"<WorkerHandle pid={self.process.pid} outstanding={len(self.outstanding)} sent={self.sent}>"
