"""Figures of a pool: what `Pool.stats()` returns, as values, text and tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Where one worker's time went.

    Attributes
    ----------
    pid : int
        Process id of the worker.
    tasks : int
        Tasks that the worker answered.
    seconds : float
        Seconds since the worker started.
    decode, run, encode : float
        Seconds spent on rebuilding arguments, on running tasks, and on placing results. The worker waited for the rest.
    alive : bool
        Whether the worker was running when the figures were taken.
    """

    pid: int
    tasks: int
    seconds: float
    decode: float
    run: float
    encode: float
    alive: bool

    @property
    def wait(self) -> float:
        """Seconds that the worker waited."""
        return max(0.0, self.seconds - self.decode - self.run - self.encode)


@dataclass(frozen=True, slots=True)
class SlowTask:
    """One of the slowest tasks: the name of its function, its index in the call, the seconds it ran."""

    function: str
    index: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Pickled:
    """Objects of 32 kB or more that were pickled, not shared, for one reason.

    Attributes
    ----------
    why : str
        The reason, such as ``column 'x': object dtype with int, str``.
    count, nbytes : int
        Number of objects, and bytes of their pickles.
    """

    why: str
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """What a pool has done so far. Figures count arguments and results together, unless they say otherwise.

    Attributes
    ----------
    tasks : int
        Tasks answered; a chunk of `map` is one task.
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
    workers: tuple[WorkerStats, ...] = ()
    slowest: tuple[SlowTask, ...] = ()
    pickled: tuple[Pickled, ...] = ()

    def __repr__(self) -> str:
        parts = []
        for title, header, rows in self._tables():
            lines = [header, *rows] if header else rows
            parts.append("\n".join([title, *(f"  {line}" for line in aligned(lines))]))
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return "".join(
            f"<p><b>{html.escape(title)}</b></p>{_table(header, rows)}" for title, header, rows in self._tables()
        )

    def _tables(self) -> list[tuple[str, Sequence[str], list[Sequence[str]]]]:
        """Title, header (empty for none) and rows of each table."""
        saved = f"{self.copies_saved:,} ({show_bytes(self.saved_bytes)})"
        now = f"{self.live_segments:,} segments ({show_bytes(self.live_bytes)})"
        peak = f"{self.peak_segments:,} ({show_bytes(self.peak_bytes)})"
        tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = [
            (
                f"{self.tasks:,} tasks",
                (),
                [
                    ("copied once into shared memory", f"{show_bytes(self.shared_bytes)} in {self.copies:,} buffers"),
                    ("copies saved, already in shared memory", saved),
                    ("through the pipes", show_bytes(self.piped_bytes)),
                    ("in use for arguments", f"{now}, at most {peak}"),
                    ("in use for results", f"{self.live_results:,} segments ({show_bytes(self.live_result_bytes)})"),
                ],
            )
        ]
        if self.workers:
            tables.append(("where the workers' time went", _WORKER_HEADER, [_worker_row(one) for one in self.workers]))
        if self.slowest:
            rows = [(one.function, f"{one.index:,}", _show_seconds(one.seconds)) for one in self.slowest]
            tables.append(("slowest tasks", ("function", "task", "ran"), list(rows)))
        if self.pickled:
            rows_of_pickled = [(one.why, f"{one.count:,}", show_bytes(one.nbytes)) for one in self.pickled]
            tables.append(("pickled, not shared", ("because of", "objects", "bytes"), list(rows_of_pickled)))
        return tables


_WORKER_HEADER = ("worker", "tasks", "run", "decode", "encode", "wait", "seconds")


def _worker_row(worker: WorkerStats) -> tuple[str, ...]:
    whole = worker.seconds or 1.0
    shares = [f"{part / whole:.1%}" for part in (worker.run, worker.decode, worker.encode, worker.wait)]
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


def _show_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
