"""The rows of a trace as a file in the Trace Event Format, which https://ui.perfetto.dev and chrome://tracing open.

The format: an object whose ``traceEvents`` are slices (``X``), instants (``i``), arrows from slice to slice (``s`` to ``f``) and names
of rows (``M``). Moments and durations are microseconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from arrowpool.engine.recorder import Activity, Link
from arrowpool.timeline.rows import Bar, Row

#: Arrows are drawn for this many tasks: with more of them, they hide the rest.
_ARROWS = 20_000


def check_path(path: str) -> None:
    """Check that a file can be written, before there is anything to write.

    Raises
    ------
    OSError
        When the directory does not exist or cannot be written to, or when the path is something else than a file.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".arrowpool-trace-"):
            pass
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
    except OSError as error:
        raise type(error)(error.errno, f"a trace cannot be written to {path}: {error.strerror}") from error


def write(path: str, rows: Iterable[Row], pid: int, about: Mapping[str, Any]) -> None:
    """Write the file in one step: readers see the old file or the new one, whole.

    Parameters
    ----------
    path : str
        Where to.
    rows : iterable of Row
        The rows, in the order in which they are shown.
    pid : int
        The process of the pool.
    about : mapping
        Facts about the trace, for the file's ``otherData``.

    Raises
    ------
    OSError
        When it cannot be written. No part of it is left then.
    """
    unfinished = f"{path}.{os.getpid()}.part"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "otherData": ')
            file.write(json.dumps(about))
            file.write(',\n"traceEvents": [')
            separator = "\n"
            for event in events(rows, pid):
                file.write(separator + json.dumps(event))
                separator = ",\n"
            file.write("\n]}\n")
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


def events(rows: Iterable[Row], pid: int) -> Iterator[dict[str, Any]]:
    """The events of the file. All rows are threads of one process, so that they lie next to each other."""
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"arrowpool in process {pid}"}}
    arrows = _Arrows()
    for order, row in enumerate(rows):
        of_row = {"pid": pid, "tid": row.number}
        yield {"ph": "M", "name": "thread_name", **of_row, "args": {"name": row.name}}
        yield {"ph": "M", "name": "thread_sort_index", **of_row, "args": {"sort_index": order}}
        for bar in row.bars:
            yield {**_slice(bar), **of_row}
            for arrow in arrows.of(bar, row.is_worker):
                yield {**arrow, **of_row}
        for moment, words in row.marks:
            yield {"ph": "i", "s": "t", "name": words, "cat": "worker", "ts": moment / 1e3, **of_row}


def _slice(bar: Bar) -> dict[str, Any]:
    named = f": {bar.what}" if bar.what and bar.activity is not Activity.WAIT else f" {bar.what}" if bar.what else ""
    about = {"function": bar.what, "items": bar.item, "bytes": bar.nbytes, "note": bar.note}
    if bar.activity is Activity.WAIT:
        about = {}
    return {
        "ph": "X",
        "name": f"{bar.activity.value}{named}",
        "cat": bar.activity.name.lower(),
        "ts": bar.began / 1e3,
        "dur": (bar.ended - bar.began) / 1e3,
        "args": {name: value for name, value in about.items() if value},
    }


class _Arrows:
    """Arrows from the slice that sends a task to the worker's first slice of it, and from its last one to the rebuilt result."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int, str], int] = {}
        self._arrived: set[int] = set()

    def of(self, bar: Bar, is_worker: bool) -> Iterator[dict[str, Any]]:
        """The ends of arrows that lie in this bar."""
        link = bar.link
        if link is None:
            return
        if not is_worker:
            way, phase = ("there", "s") if bar.activity is Activity.SEND else ("back", "f")
        elif bar.activity is Activity.SEND:
            way, phase = "back", "s"
        else:
            way, phase = "there", "f"
        for number in range(link.first, link.first + link.tasks):
            arrow = self._id(Link(link.pid, number), way)
            if arrow is None or (phase == "f" and arrow in self._arrived):
                continue
            if phase == "f":
                self._arrived.add(arrow)
            end = {"bp": "e"} if phase == "f" else {}
            yield {"ph": phase, "id": arrow, "name": "task", "cat": "task", "ts": bar.began / 1e3, **end}

    def _id(self, link: Link, way: str) -> int | None:
        key = (link.pid, link.first, way)
        if key not in self._ids and len(self._ids) >= 2 * _ARROWS:
            return None
        return self._ids.setdefault(key, len(self._ids) + 1)
