"""From the tape of a trace to its rows: one for each thread of the parent, one for each worker. No clock, no process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import pairwise

from arrowpool.engine.recorder import Activity, Cut, Link, Mark, Ran, Slice, Tape

#: The pool's own threads by the names that the system shows, in the order of the rows, and what they are called here.
_THREADS = {
    "arrowpool-source": "your iterator",
    "arrowpool-feeder": "feeder",
    "arrowpool-collector": "collector",
    "arrowpool-supervisor": "supervisor",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that a thread or worker did.

    Attributes
    ----------
    activity : Activity
        What kind of work.
    began, ended : int
        Nanoseconds since the trace began.
    what, item : str
        The function or the reason, and the items. May be empty.
    nbytes : int
        Bytes moved.
    note : str
        Anything unusual, in words.
    link : Link or None
        The tasks of a worker that this has to do with.
    """

    activity: Activity
    began: int
    ended: int
    what: str = ""
    item: str = ""
    nbytes: int = 0
    note: str = ""
    link: Link | None = None


@dataclass(slots=True)
class Row:
    """A thread of the parent or a worker, with its bars in the order of time.

    Attributes
    ----------
    name : str
        ``feeder``, ``worker 4711`` ...
    number : int
        The thread's or process's number in the system.
    is_worker : bool
        Whether it is a worker.
    bars : list of Bar
        Bars may lie within other bars, and do not overlap otherwise.
    marks : list of (int, str)
        Starts and ends of the worker: nanoseconds since the trace began, and words.
    """

    name: str
    number: int
    is_worker: bool
    bars: list[Bar] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)

    def seconds(self) -> dict[Activity, float]:
        """Seconds spent on each activity, without those of bars within a bar."""
        spent = dict.fromkeys(Activity, 0)
        outer: list[Bar] = []
        for bar in self.bars:
            while outer and outer[-1].ended <= bar.began:
                outer.pop()
            spent[bar.activity] += bar.ended - bar.began
            if outer:
                spent[outer[-1].activity] -= bar.ended - bar.began
            outer.append(bar)
        return {activity: nanoseconds / 1e9 for activity, nanoseconds in spent.items() if nanoseconds > 0}


def rows_of(tape: Tape, *, is_whole: bool = True) -> list[Row]:
    """The rows: the threads that make calls, the pool's own threads, the workers.

    If the tape `is_whole`, a worker that is idle at the end has waited since its last task. If not, that is not known.
    """
    waiting = tape.idle_at_end if is_whole else frozenset()
    rows = [*_thread_rows(tape.slices, tape.began, tape.ended), *_worker_rows(tape, waiting)]
    for row in rows:
        row.bars.sort(key=lambda bar: (bar.began, -bar.ended))
    return rows


def _thread_rows(slices: Iterable[Slice], zero: int, end: int) -> list[Row]:
    rows: dict[tuple[int, str], Row] = {}
    for one in list(slices):
        row = rows.get(one.thread)
        if row is None:
            name = _THREADS.get(one.thread.name, one.thread.name)
            row = rows[one.thread] = Row(name, one.thread.number, is_worker=False)
        began, ended = one.began - zero, min(one.ended, end) - zero
        if ended > began:  # an entry may come while the trace ends
            row.bars.append(Bar(one.activity, began, ended, one.what, one.item, one.nbytes, link=one.link))
    order = list(_THREADS.values())
    return sorted(rows.values(), key=lambda row: order.index(row.name) + 1 if row.name in order else 0)


def _worker_rows(tape: Tape, waiting: Set[int]) -> Iterator[Row]:
    ran: dict[int, list[Ran]] = {}
    for task in list(tape.ran):
        ran.setdefault(task.pid, []).append(task)
    cuts: dict[int, list[Cut]] = {}
    for cut in list(tape.cuts):
        cuts.setdefault(cut.pid, []).append(cut)
    marks: dict[int, list[Mark]] = {}
    for mark in list(tape.marks):
        marks.setdefault(mark.pid, []).append(mark)
    for pid in sorted({*tape.idle, *ran, *cuts, *marks, *tape.idle_at_end}):
        yield _worker_row(tape, pid, ran.get(pid, []), cuts.get(pid, []), marks.get(pid, []), waiting)


def _worker_row(
    tape: Tape, pid: int, ran: Sequence[Ran], cuts: Sequence[Cut], marks: Sequence[Mark], waiting: Set[int]
) -> Row:
    zero = tape.began
    row = Row(f"worker {pid}", pid, is_worker=True)
    free = next((mark.moment for mark in marks if mark.joined), zero if pid in tape.idle else None)
    tasks = sorted(ran, key=lambda task: task.number)
    for task, following in pairwise([*tasks, None]):
        assert task is not None
        since = task.sent_before or free
        if since is not None:
            _add(row, Activity.WAIT, max(since, zero) - zero, task.began - zero, "for a task")
        sent = following.sent_before if following is not None else 0
        next_began = following.began if following is not None else cuts[0].began if cuts else tape.ended
        free = _add_task(row, task, min(sent or task.read, next_began), zero)
    for cut in cuts:
        if free is not None:
            _add(row, Activity.WAIT, free - zero, cut.began - zero, "for a task")
        _add(row, Activity.RUN, cut.began - zero, min(cut.ended, tape.ended) - zero, cut.what, cut.item, note=cut.why)
        free = None
    if free is not None and pid in waiting:
        _add(row, Activity.WAIT, free - zero, tape.ended - zero, "for a task")
    row.marks += [(mark.moment - zero, mark.words) for mark in marks]
    # A reply may come while the trace ends.
    whole = tape.ended - zero
    row.bars[:] = [bar if bar.ended <= whole else replace(bar, ended=whole) for bar in row.bars if bar.began < whole]
    return row


def _add_task(row: Row, task: Ran, sent: int, zero: int) -> int:
    """Add the bars of a task that has run, and whose reply was sent at this moment at the latest. Return when it was sent.

    The worker says with its next reply when this one was sent. Of the last one it is known when it was read.
    """
    times, link = task.times, Link(task.pid, task.number)
    at = task.began - zero
    parts = (
        (Activity.REBUILD, times.decode),
        (Activity.RUN, times.run),
        (Activity.ENCODE, task.apart),
        (Activity.COPY, times.encode - task.apart),
    )
    for activity, seconds in parts:
        until = at + round(seconds * 1e9)
        note = "raised an exception" if task.failed and activity is Activity.RUN else ""
        _add(row, activity, at, until, task.what, task.item, note=note, link=link)
        at = max(at, until)
    ended = max(at, sent - zero)
    _add(row, Activity.SEND, at, ended, task.what, task.item, link=link)
    return ended + zero


def _add(
    row: Row,
    activity: Activity,
    began: int,
    ended: int,
    what: str,
    item: str = "",
    note: str = "",
    link: Link | None = None,
) -> None:
    began = max(began, 0)  # the task may have begun in an earlier trace
    if ended > began:
        row.bars.append(Bar(activity, began, ended, what, item, note=note, link=link))
