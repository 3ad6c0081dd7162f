"""The context manager that `ArrowPool.trace` returns, and what it has recorded after its block."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from arrowpool.arguments import checked_integer
from arrowpool.engine.recorder import Activity, Tape
from arrowpool.stats import aligned
from arrowpool.timeline import chrome, plot
from arrowpool.timeline.rows import Row, rows_of

if TYPE_CHECKING:  # it needs shared memory, which not every system has
    from arrowpool.engine.engine import Engine

_log = logging.getLogger(__name__)


class Trace(AbstractContextManager["Trace"]):
    """Records what a pool's threads and workers do, from the beginning of the ``with`` block to its end. Can be entered once.

    After the block, `plot` draws it, printing it gives a table, and in a notebook the value of a cell is the plot.

    Parameters
    ----------
    engine : Engine
        The pool's.
    path : path or None
        Where to write the file; None for no file.
    limit : int
        Maximum number of entries.
    check_running : callable
        Raises if the pool takes no calls.

    Attributes
    ----------
    path : str or None
        Absolute path of the file.
    rows : tuple of Row
        What was recorded, after the block: the threads of this process, then the workers.
    seconds : float
        Length of the trace.
    dropped : int
        Number of entries that found no room.
    """

    #: Whether the block has begun. Written by the thread that enters it, only to True; read by the finalizer.
    _entered = True

    def __init__(
        self, engine: Engine, path: str | os.PathLike[str] | None, limit: Any, check_running: Callable[[], Any]
    ):
        self.limit = checked_integer(limit, "max_events")
        if self.limit < 1:
            raise ValueError(f"max_events must be at least 1, not {self.limit}")
        self.path = None if path is None else os.path.realpath(os.fsdecode(path))
        self.rows: tuple[Row, ...] = ()
        self.seconds = 0.0
        self.dropped = 0
        self._engine: Engine | None = engine
        self._check_running = check_running
        self._tape: Tape | None = None
        self._pid = os.getpid()
        self._entered = False

    def __enter__(self) -> Trace:
        engine = self._engine
        if self._entered or engine is None:
            raise RuntimeError("a block of pool.trace() is entered once; call pool.trace() again")
        self._entered = True
        self._check_running()
        if self.path is not None:
            chrome.check_path(self.path)
        self._tape = engine.begin_trace(self.limit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine, tape = self._engine, self._tape
        self._engine = self._tape = None
        if engine is None or tape is None or self._pid != os.getpid():
            return  # a forked child has none of the threads
        engine.end_trace(tape)
        self.dropped = tape.dropped()
        self.rows = tuple(rows_of(tape, is_whole=not self.dropped))
        self.seconds = (tape.ended - tape.began) / 1e9
        if self.dropped:
            _log.warning("%s", self._said_dropped())
        if self.path is not None:
            chrome.write(self.path, self.rows, self._pid, self._about(tape))

    def _about(self, tape: Tape) -> dict[str, Any]:
        return {
            "made by": "arrowpool",
            "clock": "time.monotonic",
            "began": tape.began / 1e9,
            "seconds": self.seconds,
            "dropped": self.dropped,
        }

    def _said_dropped(self) -> str:
        return (
            f"the trace has the first {self.limit:,} events, and {self.dropped:,} later ones were dropped: trace a shorter time, or give "
            "pool.trace() a larger max_events"
        )

    def plot(self, axes: Any = None) -> Any:
        """Draw the trace: a row for each thread of this process, and one for each worker.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Where to draw. By default in a new figure of pyplot.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ModuleNotFoundError
            When matplotlib is not installed: ``pip install 'arrowpool[plot]'``.
        RuntimeError
            Before the end of the block.
        """
        self._check_ended()
        return plot.draw(self.rows, self._nanoseconds(), self._title(), axes)

    def _check_ended(self) -> None:
        if not self._has_ended():
            raise RuntimeError("a trace is complete at the end of its `with` block")

    def _has_ended(self) -> bool:
        return self._entered and self._engine is None

    def _nanoseconds(self) -> int:
        return max(1, round(self.seconds * 1e9))

    def _title(self) -> str:
        workers = sum(row.is_worker for row in self.rows)  # a lost one and the one in its place are two
        where = f", in {self.path}" if self.path is not None else ""
        dropped = f" (the first {self.limit:,} events; {self.dropped:,} dropped)" if self.dropped else ""
        return f"{self.seconds:.3g} s of a pool: {workers} worker processes{where}{dropped}"

    def __repr__(self) -> str:
        if not self._has_ended():
            return f"<Trace {'open' if self._entered else 'not begun'}>"
        activities = [one for one in Activity if any(one in row.seconds() for row in self.rows)]
        table = [("", *(one.value for one in activities))]
        for row in self.rows:
            seconds = row.seconds()
            table.append((row.name, *(f"{seconds.get(one, 0.0) / (self.seconds or 1):.1%}" for one in activities)))
        return "\n".join([self._title(), *(f"  {line}" for line in aligned(table, left=1))])

    def _repr_png_(self) -> bytes | None:
        if not self._has_ended() or not self.rows or importlib.util.find_spec("matplotlib") is None:
            return None
        return plot.png(self.rows, self._nanoseconds(), self._title())

    def __del__(self) -> None:
        if not self._entered:
            warnings.warn(
                "pool.trace() without a `with` block records nothing: write `with pool.trace(path): ...`",
                RuntimeWarning,
                stacklevel=2,
            )
