"""``python -m arrowpool top``: tasks and memory of this user's pools at this moment.

Reads the control pages of all workers through ``/proc``, where their processes have them open. The processes do nothing for
that, so a pool that is stopped or hangs is shown as well. On a terminal, `top_screen` draws them in place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from arrowpool.cli.output import printable
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
    function : str
        The function of that task; empty when it is not known.
    items : range
        The items of its call that run now; empty when they are not known.
    key : str
        The key of the group that runs now; empty for other items, and when it is not known.
    arguments : Use
        The pool's segments with arguments: their number, their bytes, and the leases that the worker holds.
    results : Use
        The worker's segments with results: their number, their bytes, and the leases that the pool's process holds.
    """

    parent: int
    worker: int
    begun: int
    running: float | None
    function: str
    items: range
    key: str
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
    began, begun = page.began, page.started
    function, items, key = _running(page, begun - 1) if began else ("", range(0), "")
    return WorkerUse(
        parent=parent,
        worker=worker,
        begun=begun,
        running=max(0.0, time.monotonic() - began) if began else None,
        function=function,
        items=items,
        key=key,
        arguments=page.arguments,
        results=page.results,
    )


def _running(page: ControlPage, number: int) -> tuple[str, range, str]:
    """The function, the items and the group of a task."""
    part = page.running  # of the chunk; the whole task when it is not known
    key = printable(page.running_key.read(number, part.start)) if part else ""
    announced = page.announcements.read(number)
    if announced is None:
        return "", range(0), key
    items = announced.items_of(number)
    return printable(announced.name.decode(errors="ignore")), items[part.start : part.stop] or items, key


#: The columns of a pool's table, and what they mean. The first ones are words, the others numbers.
COLUMNS = {
    "worker": "process id",
    "runs": "the function of the task that the worker runs now; ? in programs with another version of arrowpool",
    "item": "index of its item in the call, counted from 0, or the key of its group; short items are shown together",
    "for": "how long the task has run",
    "tasks": "begun so far; a chunk of items is one task",
    "memory": "of the process, with the shared memory that it looks at",
    "holds": "shared memory with arguments that the worker still uses: number of segments",
    "results": "shared memory with this worker's results that your program still uses",
}
WORDS = 3


@dataclass(frozen=True, slots=True)
class PoolUse:
    """The pools of one process, in words.

    Attributes
    ----------
    title : str
        The process.
    arguments : str
        Shared memory with arguments.
    rows : list of tuple of str
        One for each worker, in the order of `COLUMNS`.
    """

    title: str
    arguments: str
    rows: list[tuple[str, ...]]


def pools() -> list[PoolUse]:
    """The pools of this user, sorted by process."""
    found = workers()
    return [
        _pool_use(parent, [use for use in found if use.parent == parent])
        for parent in dict.fromkeys(use.parent for use in found)
    ]


def _pool_use(parent: int, uses: list[WorkerUse]) -> PoolUse:
    running = sum(use.running is not None for use in uses)
    # Each worker's page says what its pool has; a process may have several pools.
    arguments = max((use.arguments for use in uses), key=lambda use: use.nbytes)
    return PoolUse(
        f"pools of process {parent} ({_command(parent)}): {running} of {len(uses)} workers run a task",
        f"shared memory with arguments: {arguments.segments:,} segments ({show_bytes(arguments.nbytes)})",
        [_row(use) for use in uses],
    )


def table() -> str:
    """All pools as text: two lines for each process with pools, and one for each of its workers."""
    found = pools()
    if not found:
        return NO_POOLS
    lines = []
    for pool in found:
        lines += [pool.title, f"  {pool.arguments}"]
        lines += ["  " + line for line in aligned([tuple(COLUMNS), *pool.rows], left=WORDS)]
    return "\n".join(lines)


NO_POOLS = "no pools of this user are open"


def _row(use: WorkerUse) -> tuple[str, ...]:
    idle = use.running is None
    return (
        str(use.worker),
        "-" if idle else use.function or "?",
        use.key or _items(use.items),
        "-" if use.running is None else f"{use.running:.1f} s",
        f"{use.begun:,}",
        show_bytes(_memory(use.worker)),
        f"{use.arguments.leases:,}",
        f"{use.results.leases:,} ({show_bytes(use.results.nbytes)})",
    )


def _items(items: range) -> str:
    if not items:
        return "-"
    return f"{items[0]:,}" if len(items) == 1 else f"{items[0]:,} to {items[-1]:,}"


def _memory(pid: int) -> int:
    try:
        rss: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return rss


def _command(pid: int) -> str:
    try:
        return printable(" ".join(psutil.Process(pid).cmdline())[:80])
    except psutil.Error:
        return "?"


def explanation() -> str:
    """What the columns mean, as text."""
    return "\n".join(f"  {name:9}{words}" for name, words in COLUMNS.items())


def run(interval: float | None, once: bool = False) -> int:
    """Show the pools; return the exit code.

    On a terminal they are drawn in place until ``q`` or Ctrl-C. Elsewhere, and where rich is not installed, they are printed once, or
    every `interval` seconds until Ctrl-C.

    Parameters
    ----------
    interval : float or None
        Seconds between two looks. None for a second on a terminal.
    once : bool
        Whether to print them once, also on a terminal.
    """
    try:
        os.listdir("/proc/self/fd")
    except OSError as error:
        print(f"top needs /proc: {error}")
        return 1
    if not once and sys.stdout.isatty():
        if importlib.util.find_spec("rich") is not None:
            from arrowpool.cli import top_screen

            return top_screen.show(1.0 if interval is None else interval)
        print("to see this drawn in place: pip install 'arrowpool[top]'", file=sys.stderr)
    try:
        print(table(), flush=True)
        while interval is not None:
            time.sleep(interval)
            print(f"\n{time.strftime('%H:%M:%S')}\n{table()}", flush=True)
    except KeyboardInterrupt:
        return 130
    return 0
