"""``python -m arrowpool top``: tasks and memory of this user's pools at this moment.

Reads the control pages of all workers through ``/proc``, where their processes have them open. The processes do nothing for
that, so a pool that is stopped or hangs is shown as well.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from arrowpool.memory.control_page import SIZE, ControlPage, Use
from arrowpool.stats import aligned, show_bytes

_NAME = "arrowpool-control"


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """One worker at this moment.

    Attributes
    ----------
    parent, worker : int
        Process ids of the pool's process and of the worker.
    begun : int
        Number of tasks begun so far.
    running : float or None
        Seconds since its task began; None without a task.
    arguments : Use
        The pool's segments with arguments: their number, their bytes, and the leases that the worker holds.
    results : Use
        The worker's segments with results: their number, their bytes, and the leases that the pool's process holds.
    """

    parent: int
    worker: int
    begun: int
    running: float | None
    arguments: Use
    results: Use


def workers() -> list[WorkerUse]:
    """All workers whose control pages this user may read, sorted by pool."""
    seen: dict[int, WorkerUse] = {}
    for process in psutil.process_iter():
        for inode, path in _pages(process.pid):
            if inode not in seen:
                # OverflowError: what is a process id in this version was something else in the one that wrote the page.
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    use = _read(path)
                    if psutil.pid_exists(use.worker) and psutil.pid_exists(use.parent):
                        seen[inode] = use
    return sorted(seen.values(), key=lambda use: (use.parent, use.worker))


def _pages(pid: int) -> Iterator[tuple[int, str]]:
    """Inode and path of the control pages that a process holds open."""
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            with contextlib.suppress(OSError):
                if _NAME in os.readlink(path):
                    yield os.stat(path).st_ino, path


def _read(path: str) -> WorkerUse:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size != SIZE:
            raise ValueError(f"{path} is not a control page of this version")
        page = ControlPage(fd, for_reading=True)
    finally:
        os.close(fd)
    parent, worker = page.pids
    began = page.began
    return WorkerUse(
        parent=parent,
        worker=worker,
        begun=page.started,
        running=time.monotonic() - began if began else None,
        arguments=page.arguments,
        results=page.results,
    )


def table() -> str:
    """All pools as text: one line for each pool, and one for each of its workers."""
    found = workers()
    if not found:
        return "no pools of this user are open"
    lines = []
    for parent in dict.fromkeys(use.parent for use in found):
        of_pool = [use for use in found if use.parent == parent]
        lines.append(f"pools of process {parent} ({_command(parent)})")
        rows: list[tuple[str, ...]] = [
            ("worker", "tasks", "running", "memory", "arguments", "leases", "results", "leases")
        ]
        rows += [_row(use) for use in of_pool]
        lines += ["  " + line for line in aligned(rows, left=0)]
    return "\n".join(lines)


def _row(use: WorkerUse) -> tuple[str, ...]:
    running = "-" if use.running is None else f"{use.running:.1f} s"
    return (
        str(use.worker),
        f"{use.begun:,}",
        running,
        show_bytes(_memory(use.worker)),
        f"{use.arguments.segments:,} ({show_bytes(use.arguments.nbytes)})",
        f"{use.arguments.leases:,}",
        f"{use.results.segments:,} ({show_bytes(use.results.nbytes)})",
        f"{use.results.leases:,}",
    )


def _memory(pid: int) -> int:
    try:
        rss: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return rss


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:80]
    except psutil.Error:
        return "?"


def run(interval: float | None) -> int:
    """Print the table once, or every `interval` seconds until Ctrl-C. Return the exit code."""
    try:
        os.listdir("/proc/self/fd")
    except OSError as error:
        print(f"top needs /proc: {error}")
        return 1
    try:
        print(table(), flush=True)
        while interval is not None:
            time.sleep(interval)
            print(f"\n{time.strftime('%H:%M:%S')}\n{table()}", flush=True)
    except KeyboardInterrupt:
        return 130
    return 0
