"""The recorder: notes what the threads and workers of one pool do, while a trace of the pool is open.

    feeder, collector, supervisor, sources, callers -- note --> Tape --> `arrowpool.timeline`, at the end of the trace
    replies of traced tasks ---------------------- ran --> Tape

Every part that does something worth a slice has the pool's `Recorder`, and looks at its `tape`, which is None while no trace is open:
that look is all that a trace costs then. Workers are asked for their moments in the frames that they get anyway, and give them in
their replies, so a killed worker loses no more than the task that it ran.

All moments are nanoseconds or seconds of `time.perf_counter`, which reads CLOCK_MONOTONIC on Linux: one clock for all processes of the
machine, and the one of `time.monotonic`.
"""

from __future__ import annotations

import enum
import itertools
import threading
from time import perf_counter_ns
from typing import NamedTuple

from arrowpool.transport.protocol import Times

#: The clock of a trace.
now = perf_counter_ns


class Activity(enum.Enum):
    """What a thread or worker does, in words."""

    ENCODE = "taking apart"
    COPY = "copying"
    SEND = "sending"
    RUN = "running"
    REBUILD = "rebuilding"
    DELIVER = "setting results"
    CUT = "cutting a frame"
    JOIN = "joining results"
    DRAW = "reading your iterator"
    START = "starting a worker"
    WAIT = "waiting"


class Thread(NamedTuple):
    """A thread of the parent: its number in the system, and its name."""

    number: int
    name: str


class Wait(NamedTuple):
    """A wait that goes on: when it began, in nanoseconds, the `ident` of the thread that waits, and what it waits for."""

    began: int
    thread: int
    what: str


class Link(NamedTuple):
    """Tasks of a worker, by their numbers: what a slice of the parent has to do with it."""

    pid: int
    first: int
    tasks: int = 1


class Slice(NamedTuple):
    """What one thread of the parent did, between two moments in nanoseconds.

    Attributes
    ----------
    what : str
        The function or the reason; may be empty.
    item : str
        The items of the task, in words; may be empty.
    nbytes : int
        Bytes that were moved.
    link : Link or None
        The tasks that were sent, or whose result was rebuilt.
    """

    thread: Thread
    activity: Activity
    began: int
    ended: int
    what: str
    item: str
    nbytes: int
    link: Link | None


class Ran(NamedTuple):
    """A task that a worker has run.

    Attributes
    ----------
    pid, number : int
        The worker, and the task's number there.
    what, item : str
        Function and items.
    times : Times
        As the worker measured them.
    began, read : int
        When the worker began the task, and when the collector read the reply; nanoseconds.
    apart : float
        Seconds of encoding the result in which it was taken apart.
    sent_before : int
        When the worker had sent its reply before this one, in nanoseconds; 0 when that is not known.
    failed : bool
        Whether it raised an exception.
    """

    pid: int
    number: int
    what: str
    item: str
    times: Times
    began: int
    apart: float
    sent_before: int
    read: int
    failed: bool


class Cut(NamedTuple):
    """A task that was not answered: its worker ended, or it still ran at the end of the trace.

    Attributes
    ----------
    began, ended : int
        When the worker began it, and when its end was noticed; nanoseconds.
    why : str
        In words.
    """

    pid: int
    what: str
    item: str
    began: int
    ended: int
    why: str


class Mark(NamedTuple):
    """The start or end of a worker: the moment in nanoseconds, and words."""

    pid: int
    moment: int
    joined: bool
    words: str


class Tape:
    """What is recorded during one trace: at most `limit` entries, the first ones.

    The lists are appended to by all threads of the pool and by callers' threads; `append` is one atomic operation. They are read when
    the trace has ended: an entry that a thread adds after that is lost.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.began = self.ended = now()
        self.slices: list[Slice] = []
        self.ran: list[Ran] = []
        self.cuts: list[Cut] = []
        self.marks: list[Mark] = []
        #: Workers that had no task when the trace began, and when it ended. Written by the threads that begin and end it.
        self.idle: set[int] = set()
        self.idle_at_end: set[int] = set()
        #: Numbers the entries. `next` is one atomic operation, so none is counted twice.
        self._numbers = itertools.count()

    def _has_room(self) -> bool:
        return next(self._numbers) < self.limit

    def note(
        self,
        activity: Activity,
        began: int,
        what: str = "",
        item: str = "",
        nbytes: int = 0,
        link: Link | None = None,
        *,
        ended: int = 0,
        thread: threading.Thread | None = None,
    ) -> None:
        """Add what a thread has done, by default the current one, from `began` until `ended`, by default until now."""
        if self._has_room():
            thread = thread or threading.current_thread()
            who = Thread(thread.native_id or 0, thread.name)
            self.slices.append(Slice(who, activity, max(began, self.began), ended or now(), what, item, nbytes, link))

    def note_ran(self, ran: Ran) -> None:
        """Add a task that was answered."""
        if self._has_room():
            self.ran.append(ran)

    def note_cut(self, cut: Cut) -> None:
        """Add a task that was not answered. Also when the tape is full, as for `joined` and `left`: these are few and tell most."""
        if len(self.cuts) < self.limit:
            self.cuts.append(cut)

    def joined(self, pid: int) -> None:
        """Note that a worker is ready."""
        self._mark(Mark(pid, now(), joined=True, words="started"))

    def left(self, pid: int, words: str) -> None:
        """Note how a worker has ended."""
        self._mark(Mark(pid, now(), joined=False, words=words))

    def _mark(self, mark: Mark) -> None:
        if len(self.marks) < self.limit:
            self.marks.append(mark)

    def dropped(self) -> int:
        """Number of entries that found no room. Called once, at the end."""
        return max(0, next(self._numbers) - self.limit)


class Recorder:
    """Holds the tape of the trace that is open, if one is."""

    def __init__(self) -> None:
        #: Written by the threads that open and close a trace, with `_changing` held; read by all threads without it. A thread that
        #: reads the old value notes one thing too few, or on a tape that is not read any more.
        self.tape: Tape | None = None
        self._changing = threading.Lock()
        #: Waits that go on, also while no trace is open: a trace shows those that began before it, and those that end after it. Each
        #: thread adds and removes its own; the thread that closes a trace reads a copy. These are single operations on a dict.
        self._waits: dict[Wait, None] = {}

    def __repr__(self) -> str:
        return f"<Recorder {'on' if self.tape is not None else 'off'}>"

    def begin(self) -> int:
        """The moment at which something begins, for `Tape.note`; 0 while no trace is open."""
        return now() if self.tape is not None else 0

    def note(
        self,
        activity: Activity,
        began: int,
        what: str = "",
        item: str = "",
        nbytes: int = 0,
        link: Link | None = None,
    ) -> None:
        """Note what the current thread has done from `began` until now, if a trace is open."""
        tape = self.tape
        if tape is not None:
            tape.note(activity, began, what, item, nbytes, link)

    def wait_begins(self, what: str) -> Wait:
        """Note that the current thread begins to wait. It calls `wait_ends` after that."""
        wait = Wait(now(), threading.get_ident(), what)
        self._waits[wait] = None
        return wait

    def wait_ends(self, wait: Wait) -> None:
        """Note that a wait of the current thread is over.

        Race: a trace is closed at the same time.

        1. This thread reads `tape`, notes the wait if there is one, and removes it.
        2. The other thread notes all waits that it finds, and takes the tape away.

        If this thread finds no tape, 2 has come to its end, and the wait was there. Verdict: no wait is lost. One may be noted twice:
        that is one bar within another one, which counts once.
        """
        tape = self.tape
        if tape is not None:
            tape.note(Activity.WAIT, wait.began, wait.what)
        self._waits.pop(wait, None)

    def open(self, limit: int) -> Tape:
        """Begin a trace.

        Raises
        ------
        RuntimeError
            When one is open.
        """
        with self._changing:
            if self.tape is not None:
                raise RuntimeError(
                    "a trace of this pool is open; a pool has one trace at a time: end the first block before"
                )
            self.tape = tape = Tape(limit)
            return tape

    def close(self, tape: Tape) -> None:
        """End the trace that has this tape."""
        with self._changing:
            if self.tape is not tape:
                return
            tape.ended = now()
            threads = {thread.ident: thread for thread in threading.enumerate()}
            for wait in list(self._waits):
                thread = threads.get(wait.thread)
                if thread is not None:
                    tape.note(Activity.WAIT, wait.began, wait.what, ended=tape.ended, thread=thread)
            self.tape = None
