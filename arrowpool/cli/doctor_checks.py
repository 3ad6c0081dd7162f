"""What ``python -m arrowpool doctor`` looks at: one function for each thing, which tries it with what pools use.

Called by `doctor`. A check yields findings; it changes nothing and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import enum
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from arrowpool.context import get_context
from arrowpool.memory import arena, pages, platform
from arrowpool.memory.limits import is_tight, limits, memory
from arrowpool.stats import show_bytes
from arrowpool.tuning import INLINE_LIMIT, MIB

#: Descriptors of the parent for each worker, and for everything else in a program; the first was counted.
_FDS_PER_WORKER = 10
_FDS_OTHERWISE = 64
#: A budget below this keeps few chunks of common size in flight.
_LITTLE = 256 * MIB
_PATIENCE_SECONDS = 60.0
_ROWS = 50_000


class Grade(enum.Enum):
    """What a finding means; the value is what is printed."""

    OK = "ok"
    SLOW = "slow"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, what was found, and what to do about it unless it is fine."""

    grade: Grade
    subject: str
    found: str
    advice: str = ""


def start_method() -> Iterator[Finding]:
    """How workers start by default, and how many."""
    method = multiprocessing.get_context().get_start_method()
    note = "" if method == "fork" else "; scripts need `if __name__ == '__main__':`, as with multiprocessing"
    known = ", ".join(multiprocessing.get_all_start_methods())
    yield Finding(Grade.OK, "start method", f"{method} by default (there are: {known}){note}")
    cores, usable = os.cpu_count() or 1, _usable_cores()
    if usable < cores:
        advice = f"Pool() starts a worker for each core of the machine: make it Pool({usable})."
        yield Finding(Grade.SLOW, "cores", f"{usable} of the machine's {cores} are for this process", advice)
    else:
        yield Finding(Grade.OK, "cores", f"{cores}; Pool() starts as many workers")


def _usable_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, round(int(quota) / int(period))))  # ValueError: "max"
    return usable


def shared_memory() -> Iterator[Finding]:
    """Where an arena lies, how large it may be, and how it is protected."""
    wanted = limits(None, None, os.cpu_count() or 1).capacity
    try:
        fd = arena.create(wanted)
    except OSError as error:
        advice = "Without shared memory everything is pickled. " + _likely_cause()
        yield Finding(Grade.WRONG, "shared memory", f"cannot be had: {error}", advice)
        return
    try:
        yield _place(fd)
        yield _size(os.fstat(fd).st_size, wanted)
        yield _protection(fd)
    finally:
        os.close(fd)


def _likely_cause() -> str:
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY:
        return f"The limit on the size of files ({show_bytes(size)}) is for shared memory too: `ulimit -f unlimited`."
    return (
        "It needs memfd_create (refused by some seccomp filters, and by sysctl vm.memfd_noexec=2), or a writable "
        f"/dev/shm or {tempfile.gettempdir()} with free room."
    )


def _place(fd: int) -> Finding:
    if platform.is_memfd(fd):
        return Finding(Grade.OK, "shared memory", "memfd: nameless, whatever the size of /dev/shm")
    try:
        os.close(platform.create_memory("arrowpool-doctor", platform.PAGE))
        why = "memfd could not be had in that size"
    except OSError as error:
        why = f"no memfd here ({error.strerror})"
    if platform.is_on_disk(fd):
        advice = f"Its pages are written to the disk: allow memfd_create, or give /dev/shm room. {_likely_cause()}"
        found = f"{why}: unlinked files in {tempfile.gettempdir()}, which is a disk"
    else:
        advice = "It works; the room is that of the file system. Better allow memfd_create (seccomp, vm.memfd_noexec)."
        found = f"{why}: unlinked files in a file system in memory"
    return Finding(Grade.SLOW, "shared memory", found, advice)


def _size(capacity: int, wanted: int) -> Finding:
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = f"{show_bytes(capacity)} for each process that sends, as address space: memory is taken as it is used"
    if space != resource.RLIM_INFINITY:
        found += f"; address space is limited to {show_bytes(space)} (RLIMIT_AS)"
        if capacity < _LITTLE:
            return Finding(Grade.SLOW, "arena", found, "Raise it: `ulimit -v unlimited`. Larger objects are refused.")
    elif capacity < wanted:
        found += f"; {show_bytes(wanted)} were refused"
        return Finding(Grade.SLOW, "arena", found, f"Overcommit is strict, or there is no room. {_overcommit()}")
    return Finding(Grade.OK, "arena", found)


def _overcommit() -> str:
    with contextlib.suppress(OSError):
        mode = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
        if mode == "2":
            return "vm.overcommit_memory is 2: private maps count in full. `sysctl vm.overcommit_memory=0`, as root."
    return ""


def _protection(fd: int) -> Finding:
    """Workers get a descriptor of their own; whether the kernel keeps them from writing through it is tried."""
    theirs = platform.read_only(fd)
    try:
        platform.unmap(platform.map_shared(theirs, platform.PAGE), platform.PAGE)
    except OSError:
        return Finding(
            Grade.OK, "protection", "workers can read the pool's memory and map it privately, not write to it"
        )
    finally:
        os.close(theirs)
    advice = "Harmless by itself: workers map it privately all the same. Mount /proc to have the kernel see to it."
    return Finding(Grade.SLOW, "protection", "the kernel would let workers write to the pool's memory", advice)


def page_scan() -> Iterator[Finding]:
    """Whether the pages that a task has written can be told from those it has only read."""
    if _keeps_clean_pages():
        found = "PAGEMAP_SCAN: of a finished task's memory only the pages it wrote are dropped, the rest stays mapped"
        yield Finding(Grade.OK, "written pages", found)
    else:
        found = "no PAGEMAP_SCAN: all of a finished task's memory is mapped anew by the next one, page by page"
        advice = "Comes with Linux 6.7 and a readable /proc/self/pagemap. Nothing but a little time is lost."
        yield Finding(Grade.SLOW, "written pages", found, advice)


def _keeps_clean_pages() -> bool:
    """Drop a private map of which one page was written and one read, and see whether the latter is still mapped."""
    try:
        fd = platform.create_memory("arrowpool-doctor", 2 * platform.PAGE)
    except OSError:
        return False
    try:
        os.pwrite(fd, b"\1" * 2 * platform.PAGE, 0)
        address = platform.map_private(fd, 0, 2 * platform.PAGE)
        try:
            seen = platform.bytes_at(address, 2 * platform.PAGE)
            seen[0] = 2
            read = int(seen[platform.PAGE])
            pages.page_map().restore(address, 2 * platform.PAGE, fd, 0)
            kept = _is_mapped(address + platform.PAGE)
            assert int(seen[0]) == read == 1, "a page that was dropped still shows what was written to it"
            return kept
        finally:
            platform.unmap(address, 2 * platform.PAGE)
    finally:
        os.close(fd)


def _is_mapped(address: int) -> bool:
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(address // platform.PAGE * 8)
            return bool(int.from_bytes(pagemap.read(8), sys.byteorder) >> 63)
    except OSError:
        return False


def memory_now() -> Iterator[Finding]:
    """How much there is, who limits it, and what a pool makes of it."""
    total, available = memory()
    with contextlib.suppress(OSError, ValueError):
        machine = psutil.virtual_memory().total
        if total < machine:
            found = f"{show_bytes(total)} of the machine's {show_bytes(machine)}; pools keep to it"
            yield Finding(Grade.OK, "container limit", found)
    found = f"{show_bytes(available)} of {show_bytes(total)} are available"
    if is_tight():
        advice = (
            "Little: freed segments are given back at once instead of being kept warm. Let go of what is not needed."
        )
        yield Finding(Grade.SLOW, "memory", found, advice)
    else:
        yield Finding(Grade.OK, "memory", found)
    budget = limits().budget
    found = f"{show_bytes(budget)} in flight to the workers (max_bytes=), unless a pool is told otherwise"
    if budget < _LITTLE:
        yield Finding(
            Grade.SLOW, "budget", found, "Keep chunks well below that, or let them lie on a disk: spill_dir=."
        )
    else:
        yield Finding(Grade.OK, "budget", found)
    with contextlib.suppress(OSError):
        setting = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text()
        mode = setting.partition("[")[2].partition("]")[0]
        pages = "2 MB where possible" if mode in ("always", "within_size", "force") else f"{platform.PAGE // 1024} kB"
        yield Finding(Grade.OK, "huge pages", f"{mode} for shared memory: its pages are of {pages}")


def room_for_files() -> Iterator[Finding]:
    """Descriptors, the size of files, and /dev/shm."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = os.cpu_count() or 1
    wanted = _FDS_OTHERWISE + _FDS_PER_WORKER * workers
    found = f"{soft:,}; a pool of {workers} takes some {_FDS_PER_WORKER * workers}, whatever is in flight, beside the program's own"
    if soft != resource.RLIM_INFINITY and soft < wanted:
        yield Finding(
            Grade.WRONG, "open files", found, f"Pool() may fail here: `ulimit -n {max(wanted, min(hard, 4096))}`."
        )
    else:
        yield Finding(Grade.OK, "open files", found)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY:
        # Whether it is too small is seen by `shared_memory`, which has made a file of that size.
        yield Finding(Grade.OK, "size of files", f"limited to {show_bytes(size)} (RLIMIT_FSIZE), also in memory")
    try:
        free = f"{show_bytes(shutil.disk_usage('/dev/shm').free)} free"
    except OSError:
        free = "is not there"
    yield Finding(
        Grade.OK, "/dev/shm", f"{free}; pools do without where there is memfd, objects put with persist=True lie there"
    )


def _double(frame: pd.DataFrame) -> pd.DataFrame:
    frame["number"] *= 2  # in place: nobody but the task must see it
    return frame


def round_trip(method: str) -> Callable[[], Iterator[Finding]]:
    """The check of a real pool: a frame there and back, in shared memory, equal, and private to its task."""

    def trip() -> Iterator[Finding]:
        frame = pd.DataFrame({"number": range(_ROWS), "word": [f"word {i}" for i in range(_ROWS)]})
        began = time.perf_counter()
        with get_context(method).Pool(2) as pool:
            back = pool.map_async(_double, [frame, frame], 1).get(_PATIENCE_SECONDS)
            seconds = time.perf_counter() - began
            shared = pool.stats().shared_bytes
        pool.join()
        assert all(one.equals(frame.assign(number=frame["number"] * 2)) for one in back), "what came back is not equal"
        assert int(frame["number"].iloc[-1]) == _ROWS - 1, "the caller sees what a task wrote to its argument"
        found = f"two frames there and back with a new pool in {seconds:.2f} s, results equal"
        if shared < INLINE_LIMIT:
            yield Finding(Grade.WRONG, method, f"{found}, but everything was pickled", "See what is wrong above.")
        else:
            yield Finding(Grade.OK, method, f"{found}, {show_bytes(shared)} through shared memory")

    trip.__name__ = method
    return trip


CHECKS = (start_method, shared_memory, page_scan, memory_now, room_for_files)
