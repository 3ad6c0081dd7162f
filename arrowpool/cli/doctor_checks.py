"""The checks of ``python -m arrowpool doctor``: one function for each thing that pools need.

Called by `doctor`. A check yields findings. It uses the same functions as pools do, changes nothing, and leaves nothing behind.
The checks of shared memory are in `doctor_memory`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from arrowpool.arguments import default_size
from arrowpool.cli.doctor_memory import page_scan, shared_memory
from arrowpool.cli.findings import LITTLE, Finding, Grade
from arrowpool.context import get_context
from arrowpool.memory import facilities, platform
from arrowpool.memory.limits import is_tight, limits, memory
from arrowpool.stats import show_bytes
from arrowpool.tuning import HEAP_KEPT, INLINE_LIMIT, MIB

#: Descriptors of the parent: for each worker and for a pool (both counted), and an allowance for the rest of a program.
_FDS_PER_WORKER = 6
_FDS_OF_POOL = 10
_FDS_OTHERWISE = 64
_PATIENCE_SECONDS = 60.0
_ROWS = 50_000
_TEMPORARIES = 20
_SHMEM_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def start_method() -> Iterator[Finding]:
    """The default start method, and the default number of workers."""
    method = multiprocessing.get_context().get_start_method()
    note = "" if method == "fork" else "; scripts need `if __name__ == '__main__':`, as with multiprocessing"
    known = ", ".join(multiprocessing.get_all_start_methods())
    yield Finding(Grade.OK, "start method", f"{method} by default (available: {known}){note}")
    usable, workers = _usable_cores(), default_size()
    found = f"{usable} of the machine's {os.cpu_count() or 1} are for this process; Pool() starts {workers} workers"
    if usable < workers:
        yield Finding(Grade.SLOW, "cores", found, f"Use Pool({usable}).")
    else:
        yield Finding(Grade.OK, "cores", found)


def _usable_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, round(int(quota) / int(period))))  # ValueError: "max"
    return usable


def memory_now() -> Iterator[Finding]:
    """The memory, its limits, and the budget of a pool."""
    total, available = memory()
    with contextlib.suppress(OSError, ValueError):
        machine = psutil.virtual_memory().total
        if total < machine:
            found = f"{show_bytes(total)} of the machine's {show_bytes(machine)}; pools stay within it"
            yield Finding(Grade.OK, "container limit", found)
    found = f"{show_bytes(available)} of {show_bytes(total)} are available"
    if is_tight():
        advice = "Freed segments are given back at once, not kept warm, so copies are slower. Free memory that you do not need."
        yield Finding(Grade.SLOW, "memory", found, advice)
    else:
        yield Finding(Grade.OK, "memory", found)
    budget = limits().budget
    found = f"{show_bytes(budget)} in flight to the workers by default (max_bytes=)"
    if budget < LITTLE:
        advice = "Use chunks that are much smaller, or put segments on a disk: spill_dir=."
        yield Finding(Grade.SLOW, "budget", found, advice)
    else:
        yield Finding(Grade.OK, "budget", found)
    yield from _huge_pages()


def _huge_pages() -> Iterator[Finding]:
    with contextlib.suppress(OSError):
        setting = _SHMEM_HUGE_PAGES.read_text()
        mode = setting.partition("[")[2].partition("]")[0]
        if mode not in ("never", "deny"):
            yield Finding(Grade.OK, "huge pages", f"{mode} for shared memory; pages of 2 MB where possible")
            return
        found = f"{mode} for shared memory; page size {platform.PAGE // 1024} kB. This is the default of Linux"
        advice = (
            "Fresh shared memory, as in the first call of a pool, would cost a fraction with pages of 2 MB. As root: "
            f"`echo advise > {_SHMEM_HUGE_PAGES}`; only memory that asks for such pages is affected."
        )
        yield Finding(Grade.OK, "huge pages", found, advice)


def heap() -> Iterator[Finding]:
    """Whether temporaries of tasks find warm memory: by the page faults of a second task in a new worker."""
    with get_context().Pool(1) as pool:
        pool.apply(_faults)
        faults = pool.apply(_faults)
    pool.join()
    if faults < _TEMPORARIES * MIB // platform.PAGE // 2:
        found = f"workers keep up to {show_bytes(HEAP_KEPT)} of freed memory warm for the next task"
        yield Finding(Grade.OK, "heap of workers", found)
        return
    if not facilities.has("mallopt"):
        advice = "ARROWPOOL_WITHOUT names mallopt."
    elif is_tight():
        advice = "Memory is short: see above."
    else:
        advice = "glibc keeps it; with another C library, preload an allocator that does (jemalloc, mimalloc)."
    yield Finding(
        Grade.SLOW, "heap of workers", "memory for temporaries is new in each task, and faulted in by page", advice
    )


def _faults() -> int:
    """Page faults of a task that makes temporaries of 1 MB."""
    before = platform.page_faults()
    for _ in range(_TEMPORARIES):
        np.ones(MIB, dtype=np.uint8)
    return platform.page_faults() - before


def room_for_files() -> Iterator[Finding]:
    """Descriptors, the limit on file sizes, and /dev/shm."""
    soft, hard = platform.descriptors_limit()
    workers = os.cpu_count() or 1
    of_pool = _FDS_OF_POOL + _FDS_PER_WORKER * workers
    wanted = _FDS_OTHERWISE + of_pool
    found = f"{soft:,}; a pool of {workers} needs about {of_pool}, however much data is in flight"
    if soft != platform.UNLIMITED and soft < wanted:
        advice = f"Pool() may fail. Run `ulimit -n {max(wanted, min(hard, 4096))}` first."
        yield Finding(Grade.WRONG, "open files", found, advice)
    else:
        yield Finding(Grade.OK, "open files", found)
    size = platform.file_size_limit()
    if size != platform.UNLIMITED:
        # `shared_memory` finds out whether it is too small: it makes a file of the size that a pool needs.
        yield Finding(Grade.OK, "size of files", f"limited to {show_bytes(size)} (RLIMIT_FSIZE), in memory as well")
    try:
        free = f"{show_bytes(shutil.disk_usage('/dev/shm').free)} free"
    except OSError:
        free = "missing"
    found = f"{free}; used for objects put with persist=True, and for pools only where memfd is not available"
    yield Finding(Grade.OK, "/dev/shm", found)


def _double(frame: pd.DataFrame) -> pd.DataFrame:
    frame["number"] *= 2  # in place: only the task may see it
    return frame


def round_trip(method: str) -> Callable[[], Iterator[Finding]]:
    """The check of a real pool: a frame goes there and back through shared memory, arrives equal, and is private to its task."""

    def trip() -> Iterator[Finding]:
        frame = pd.DataFrame({"number": range(_ROWS), "word": [f"word {i}" for i in range(_ROWS)]})
        began = time.perf_counter()
        with get_context(method).Pool(2) as pool:
            back = pool.map_async(_double, [frame, frame], 1).get(_PATIENCE_SECONDS)
            seconds = time.perf_counter() - began
            shared = pool.stats().shared_bytes
        pool.join()
        assert all(one.equals(frame.assign(number=frame["number"] * 2)) for one in back), "a result is wrong"
        assert int(frame["number"].iloc[-1]) == _ROWS - 1, "the caller sees what a task wrote to its argument"
        found = f"two frames there and back with a new pool in {seconds:.2f} s, results equal"
        if shared < INLINE_LIMIT:
            yield Finding(Grade.WRONG, method, f"{found}, but everything was pickled", "See the findings above.")
        else:
            yield Finding(Grade.OK, method, f"{found}, {show_bytes(shared)} through shared memory")

    trip.__name__ = method
    return trip


CHECKS = (start_method, shared_memory, page_scan, memory_now, heap, room_for_files)
