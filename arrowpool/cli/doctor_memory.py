"""The checks of ``python -m arrowpool doctor`` on shared memory: where it lies, its size, its protection, its written pages.

Called by `doctor` through `doctor_checks.CHECKS`. A check yields findings. It uses the same functions as pools do, changes nothing,
and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from arrowpool.cli.findings import LITTLE, Finding, Grade
from arrowpool.memory import arena, pages, platform
from arrowpool.memory.limits import limits
from arrowpool.stats import show_bytes


def shared_memory() -> Iterator[Finding]:
    """Where an arena lies, its maximum size, and its protection."""
    wanted = limits(None, None, os.cpu_count() or 1).capacity
    try:
        fd = arena.create(wanted)
    except OSError as error:
        advice = "Without shared memory everything is pickled. " + _likely_cause()
        yield Finding(Grade.WRONG, "shared memory", f"not available: {error}", advice)
        return
    try:
        yield _place(fd)
        yield _size(os.fstat(fd).st_size, wanted)
        yield _protection(fd)
    finally:
        os.close(fd)


def _likely_cause() -> str:
    size = platform.file_size_limit()
    if size != platform.UNLIMITED:
        return f"The limit on file sizes ({show_bytes(size)}) applies to shared memory too. Run `ulimit -f unlimited` first."
    return (
        "It needs memfd_create (refused by some seccomp filters, and by sysctl vm.memfd_noexec=2), or a writable "
        f"/dev/shm or {tempfile.gettempdir()} with free space."
    )


def _place(fd: int) -> Finding:
    if platform.is_memfd(fd):
        return Finding(Grade.OK, "shared memory", "memfd: files in memory without a name, not limited by /dev/shm")
    try:
        os.close(platform.create_memory("arrowpool-doctor", platform.PAGE))
        why = "memfd is not available in that size"
    except OSError as error:
        why = f"no memfd here ({error.strerror})"
    if platform.is_on_disk(fd):
        advice = f"Pages are written to the disk. Allow memfd_create, or enlarge /dev/shm. {_likely_cause()}"
        found = f"{why}: arrowpool uses unlinked files in {tempfile.gettempdir()}, which is on a disk"
    else:
        advice = "The size of that file system is the limit. Allow memfd_create (seccomp, vm.memfd_noexec) to lift it."
        found = f"{why}: arrowpool uses unlinked files in a file system in memory"
    return Finding(Grade.SLOW, "shared memory", found, advice)


def _size(capacity: int, wanted: int) -> Finding:
    space = platform.address_space_limit()
    found = f"{show_bytes(capacity)} of address space for each sending process; memory is allocated when it is used"
    if space != platform.UNLIMITED:
        found += f"; address space is limited to {show_bytes(space)} (RLIMIT_AS)"
        if capacity < LITTLE:
            advice = "Larger objects raise ArenaFullError. Raise the limit: `ulimit -v unlimited`."
            return Finding(Grade.SLOW, "arena", found, advice)
    elif capacity < wanted:
        found += f"; {show_bytes(wanted)} were refused"
        advice = f"Overcommit is strict, or there is no free space. {_overcommit()}".rstrip()
        return Finding(Grade.SLOW, "arena", found, advice)
    return Finding(Grade.OK, "arena", found)


def _overcommit() -> str:
    with contextlib.suppress(OSError):
        mode = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
        if mode == "2":
            return "vm.overcommit_memory is 2: private maps count in full. Run `sysctl vm.overcommit_memory=0` as root."
    return ""


def _protection(fd: int) -> Finding:
    """Whether the kernel keeps workers from writing through the descriptor that they get: tried with a shared writable map."""
    theirs = platform.read_only(fd)
    try:
        platform.unmap(platform.map_shared(theirs, platform.PAGE), platform.PAGE)
    except OSError:
        return Finding(Grade.OK, "protection", "workers can read the pool's memory, and cannot write to it")
    finally:
        os.close(theirs)
    advice = "Harmless by itself, since workers map the memory privately. With /proc mounted, the kernel enforces that."
    return Finding(Grade.SLOW, "protection", "the kernel would let workers write to the pool's memory", advice)


def page_scan() -> Iterator[Finding]:
    """Whether the kernel tells pages that a task has written from pages that it has only read."""
    if _keeps_clean_pages():
        found = "PAGEMAP_SCAN: after a task, only the pages that it wrote are dropped; the others stay mapped"
        yield Finding(Grade.OK, "written pages", found)
    else:
        found = "no PAGEMAP_SCAN: after a task, all its pages are dropped, and the next task faults them in again"
        advice = "It needs Linux 6.7 and a readable /proc/self/pagemap. Without it, each task takes a little longer."
        yield Finding(Grade.SLOW, "written pages", found, advice)


def _keeps_clean_pages() -> bool:
    """Restore a private map in which one page was written and one was read. Return whether the second is still mapped."""
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
            assert int(seen[0]) == read == 1, "a page that was dropped still has its old content"
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
