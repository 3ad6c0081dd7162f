"""Figures of a pool: what `Pool.stats()` returns, as values, text and tables."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from arrowpool.stats_rows import Pickled, SlowTask, WorkerStats, ran_since
from arrowpool.verdict import Costs, Spent, show_seconds, verdict

#: The figures of `Stats` that grow with each call. The others say what is the case now.
_GROWING = (
    *("tasks", "piped_bytes", "shared_bytes", "copies", "copies_saved", "saved_bytes"),
    *(
        "lost_tasks",
        "lost_run",
        "seconds",
        "decode",
        "encode",
        "cpu",
        "delayed",
        "sending",
        "framing",
        "user",
        "starting",
    ),
    *("lost", "replaced", "timeouts", "cancelled", "refused"),
)


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """What a pool has done so far. Figures count arguments and results together, unless they say otherwise.

    Attributes
    ----------
    tasks : int
        Tasks answered; a chunk of `map` is one task.
    lost_tasks : int
        Tasks that ended with their worker, since that was killed for time or was lost, or since the pool was terminated.
    lost_run : float
        Seconds for which these ran; `run` contains them.
    running : float
        Seconds for which tasks have run that run now.
    piped_bytes : int
        Bytes that went through pickle streams and pipes.
    shared_bytes : int
        Bytes that were copied into shared memory.
    copies : int
        Buffers that were copied into shared memory.
    copies_saved, saved_bytes : int
        Times that a task used memory which was already shared for another task or call, and the bytes of it.
    live_segments, live_bytes : int
        Segments of arguments in use, and their bytes.
    peak_segments, peak_bytes : int
        Largest values of these two so far.
    live_results, live_result_bytes : int
        Segments of results that this process still refers to, and their bytes.
    size : int
        Number of workers that the pool keeps.
    seconds : float
        Seconds in which the pool had calls.
    run, decode, encode, cpu : float
        Sums of all workers, also of those that have ended: see `WorkerStats`.
    delayed : float
        Seconds for which workers could run and had no processor; 0.0 where the system does not say.
    sending : float
        Seconds for which the pool's threads in this process were at work: they take arguments apart, send them, and rebuild
        results.
    framing : float
        Seconds for which `map_groups`, `imap_groups` and `map_frame` cut frames and joined results, in the threads that called them.
        `seconds` does not contain them.
    user : float
        Seconds in which the pool waited for your code: for iterables to make items, or for results of an imap to be read.
    starting : float
        Seconds for which calls waited until the first worker had started.
    lost, replaced, timeouts : int
        Workers that crashed, were killed by others, or exited; workers that were started in place of others; and workers that
        were killed since their task exceeded `task_timeout`.
    cancelled : int
        Calls that were cancelled or interrupted, and iterators that were closed before their last task.
    refused : int
        Tasks and shared objects for which there was no memory: `ArenaFullError`.
    open_calls, waiting_tasks : int
        Calls whose results are not complete now; tasks that are known and have not begun.
    warm_bytes : int
        Bytes of memory without content that the processes of the pool keep for the next tasks.
    shelf_bytes : int
        Bytes that this process, with or without a pool, has put on the shelf and that end with it.
    workers : tuple of WorkerStats
        One for each worker: running workers first, then up to 100 that have ended.
    slowest : tuple of SlowTask
        The slowest tasks, slowest first.
    pickled : tuple of Pickled
        What was pickled instead of shared, and why; most bytes first.
    """

    tasks: int = 0
    piped_bytes: int = 0
    shared_bytes: int = 0
    copies: int = 0
    copies_saved: int = 0
    saved_bytes: int = 0
    live_segments: int = 0
    live_bytes: int = 0
    peak_segments: int = 0
    peak_bytes: int = 0
    live_results: int = 0
    live_result_bytes: int = 0
    size: int = 0
    seconds: float = 0.0
    run: float = 0.0
    decode: float = 0.0
    encode: float = 0.0
    running: float = 0.0
    lost_tasks: int = 0
    lost_run: float = 0.0
    cpu: float = 0.0
    delayed: float = 0.0
    sending: float = 0.0
    framing: float = 0.0
    user: float = 0.0
    starting: float = 0.0
    lost: int = 0
    replaced: int = 0
    timeouts: int = 0
    cancelled: int = 0
    refused: int = 0
    open_calls: int = 0
    waiting_tasks: int = 0
    warm_bytes: int = 0
    shelf_bytes: int = 0
    workers: tuple[WorkerStats, ...] = ()
    slowest: tuple[SlowTask, ...] = ()
    pickled: tuple[Pickled, ...] = ()

    def __repr__(self) -> str:
        parts = []
        for title, header, rows in self._tables():
            lines = [header, *rows] if header else rows
            parts.append("\n".join([title, *(f"  {line}" for line in aligned(lines))]))
        return "\n".join((*parts, *filter(None, (self.verdict,))))

    def _repr_html_(self) -> str:
        tables = "".join(
            f"<p><b>{html.escape(title)}</b></p>{_table(header, rows)}" for title, header, rows in self._tables()
        )
        return tables + (f"<p>{html.escape(self.verdict)}</p>" if self.verdict else "")

    @property
    def verdict(self) -> str:
        """Where the time of the calls went, whether the pool paid, and what would be faster, in words. Empty without a task.

        The time of a plain loop is an estimate: that of all tasks together, of your code that the pool waited for, and of cutting and
        joining frames.
        """
        spent = self.spent
        return "" if spent is None else verdict(spent)

    @property
    def spent(self) -> Spent | None:
        """The figures behind `verdict`; None without a task."""
        # The figures may be of moments a little apart, so a difference of two may be negative.
        lost, lost_run = max(0, self.lost_tasks), max(0.0, self.lost_run)
        tasks = max(0, self.tasks) + lost
        if tasks <= 0 or self.seconds <= 0 or self.size <= 0:
            return None
        framing = max(0.0, self.framing)
        seconds = self.seconds + framing
        whole = self.size * seconds
        run = max(0.0, self.run + self.running)
        waited = max(0.0, whole - run - self.decode - self.encode)
        busy = run + self.decode + self.encode
        delayed = run * min(1.0, max(0.0, self.delayed) / busy) if busy > 0 else 0.0
        # What a lost task computed is not known, nor that of one that runs now.
        computed = max(0.0, self.run) - lost_run - delayed
        # This process keeps workers waiting while it takes arguments apart, sends them, and rebuilds results.
        kept_waiting = waited * min(1.0, self.sending / seconds)
        return Spent(
            costs=Costs(
                # A loop does not wait for processors that other workers have. On a machine that others keep busy, it waits, too.
                # It makes items, cuts the frame and joins the results, too.
                serial=max(run - delayed, run / self.size) + self.user + framing,
                pool=seconds,
                user=self.user + framing,
                starting=self.starting,
                tasks=tasks,
                workers=self.size,
                nbytes=self.piped_bytes + self.shared_bytes,
                computing=self.cpu / computed if computed > 0 else None,
            ),
            run=run,
            moved=self.decode + self.encode + kept_waiting,
            waited=waited - kept_waiting,
            sending=self.sending,
            delayed=delayed,
            longest=max((one.seconds for one in self.slowest), default=0.0),
            lost=lost,
            lost_run=lost_run,
            framing=framing,
        )

    def since(self, before: Stats) -> Stats:
        """What the pool has done since `before`, earlier figures of the same pool.

        Figures of what is in use now stay, and so do the largest values. Workers that had ended before are left out.

        Examples
        --------
        >>> from arrowpool import Pool
        >>> with Pool(2) as pool:
        ...     values = pool.map(abs, [-1, -2, -3], chunksize=1)
        ...     before = pool.stats()
        ...     value = pool.apply(abs, (-4,))
        ...     pool.stats().since(before).tasks
        1
        """
        counted = {one.why: one for one in before.pickled}
        pickled = (one.since(counted.get(one.why)) for one in self.pickled)
        earlier = {one.pid: one for one in before.workers if one.alive}
        ended = {one.pid for one in before.workers if not one.alive}
        run, running = ran_since(self, before)
        return dataclasses.replace(
            self,
            workers=tuple(one.since(earlier.get(one.pid)) for one in self.workers if one.alive or one.pid not in ended),
            slowest=tuple(one for one in self.slowest if one not in before.slowest),
            pickled=tuple(one for one in pickled if one.count),
            run=run,
            running=running,
            **{name: getattr(self, name) - getattr(before, name) for name in _GROWING},
        )

    def _tables(self) -> list[tuple[str, Sequence[str], list[Sequence[str]]]]:
        """Title, header (empty for none) and rows of each table."""
        saved = f"{self.copies_saved:,} ({show_bytes(self.saved_bytes)})"
        now = f"{self.live_segments:,} segments ({show_bytes(self.live_bytes)})"
        peak = f"{self.peak_segments:,} ({show_bytes(self.peak_bytes)})"
        tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = [
            (
                f"{self.tasks:,} task{'' if self.tasks == 1 else 's'}{f', and {self.lost_tasks:,} that ended with their worker' if self.lost_tasks else ''}",
                (),
                [
                    ("copied once into shared memory", self._copied()),
                    ("copies saved, already in shared memory", saved),
                    ("through the pipes", self._piped()),
                    ("in use for arguments", f"{now}, at most {peak}"),
                    ("in use for results", f"{self.live_results:,} segments ({show_bytes(self.live_result_bytes)})"),
                    *self._at_times(),
                ],
            )
        ]
        if self.workers:
            tables.append(("where the workers' time went", _WORKER_HEADER, [_worker_row(one) for one in self.workers]))
        if self.slowest:
            rows = [(one.function, one.items or "one call", _ran(one)) for one in self.slowest]
            tables.append(("slowest tasks", ("function", "on", "ran"), list(rows)))
        if self.pickled:
            rows_of_pickled = [
                (one.why, f"{one.count:,}", show_bytes(one.nbytes / one.count), show_bytes(one.nbytes))
                for one in self.pickled
            ]
            tables.append(("pickled, not shared", ("because of", "objects", "each", "bytes"), list(rows_of_pickled)))
        return tables

    def _at_times(self) -> list[Sequence[str]]:
        """What is only shown if it is there."""
        rows: list[Sequence[str]] = []
        if self.warm_bytes:
            rows.append(("free and kept warm", show_bytes(self.warm_bytes)))
        if self.shelf_bytes:
            rows.append(("on the shelf, by this process", show_bytes(self.shelf_bytes)))
        if self.open_calls:
            rows.append(("open calls", f"{self.open_calls:,}, {self.waiting_tasks:,} tasks wait"))
        if self.lost or self.timeouts or self.replaced:
            ended = f"{self.lost:,} lost, {self.timeouts:,} killed for time, {self.replaced:,} replaced"
            rows.append(("workers that ended", ended))
        if self.cancelled:
            rows.append(("cancelled calls", f"{self.cancelled:,}"))
        if self.refused:
            rows.append(("no memory for", f"{self.refused:,} tasks or shared objects"))
        return rows

    def _copied(self) -> str:
        streams = sum(one.nbytes for one in self.pickled)
        of_it = f", {show_bytes(streams)} of it pickle streams" if streams else ""
        return f"{show_bytes(self.shared_bytes)} in {self.copies:,} buffers{of_it}"

    def _piped(self) -> str:
        return f"{show_bytes(self.piped_bytes)}{' (messages below 32 kB each)' if self.piped_bytes else ''}"


def _ran(task: SlowTask) -> str:
    """How long a task ran, and how it ended if that is not usual."""
    return show_seconds(task.seconds) + (f", until its worker {task.ended}" if task.ended else "")


_WORKER_HEADER = ("worker", "tasks", "run", "decode", "encode", "wait", "seconds")


def _worker_row(worker: WorkerStats) -> tuple[str, ...]:
    whole = worker.seconds or 1.0
    shares = [
        f"{part / whole:.1%}" for part in (worker.run + worker.running, worker.decode, worker.encode, worker.wait)
    ]
    return (f"{worker.pid}{'' if worker.alive else ' (ended)'}", f"{worker.tasks:,}", *shares, f"{worker.seconds:.1f}")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = f"<thead>{line('th', header)}</thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(line('td', row) for row in rows)}</tbody></table>"


def aligned(rows: Sequence[Sequence[str]], left: int | None = None) -> list[str]:
    """Rows as lines of text in columns. The first `left` columns, by default all, are aligned left, the others right."""
    columns = range(len(rows[0])) if rows else range(0)
    widths = [max(len(row[column]) for row in rows) for column in columns]
    justified = [str.ljust if left is None or column < left else str.rjust for column in columns]
    return [
        "  ".join(to(cell, width) for to, cell, width in zip(justified, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def show_bytes(nbytes: float) -> str:
    """Bytes with a unit: ``1.2 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:,.0f} {unit}" if unit == "bytes" or nbytes >= 100 else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} GB"
