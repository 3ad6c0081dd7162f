"""How much memory there is: of the machine, the container, this process, and a file system that is used instead of memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from arrowpool.memory import facilities, platform
from arrowpool.tuning import HEADROOM_STEP, MIB

#: Smallest capacity of an arena, and smallest budget.
_LEAST = 64 * MIB
#: One part in so many of all memory stays free; below one part in so many, memory is tight.
_RESERVE = 32
_TIGHT = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """How much shared memory one owner may use.

    Attributes
    ----------
    capacity : int
        Bytes of address space that an arena reserves; at most the memory of the machine or the container.
    budget : int
        Bytes of segments in flight at a time, from the parent to workers.
    """

    capacity: int
    budget: int


def limits(max_bytes: int | None = None, spill_dir: str | None = None, consumers: int = 1) -> Limits:
    """The limits for a new pool.

    Parameters
    ----------
    max_bytes : int, optional
        The budget. By default half of the available memory: the smaller of what the machine has and what the process's cgroup still
        allows; with a `spill_dir`, the free space there.
    spill_dir : str, optional
        Directory of the segments, if they lie on a disk.
    consumers : int
        Number of processes that have an arena which this process maps.
    """
    if spill_dir is None:
        total, available = memory()
    else:
        total = available = _free_in(os.statvfs(spill_dir))
    space = platform.address_space_limit()
    least = _LEAST
    if space != platform.UNLIMITED:
        # This process maps its own arena and one of each consumer, and the user's data needs address space as well.
        least = 16 * MIB
        total = min(total, (space - _address_space_in_use(space)) // (2 * (consumers + 1)))
    capacity = platform.page_ceil(max(total, least))
    return Limits(capacity, max(_LEAST, available // 2) if max_bytes is None else max_bytes)


def memory() -> tuple[int, int]:
    """Bytes of memory that this process may use in all, and bytes that are available now without swapping."""
    try:
        facilities.proc("meminfo")
        machine = psutil.virtual_memory()
        total, available = machine.total, machine.available
    except (OSError, ValueError):  # no /proc
        page = os.sysconf("SC_PAGESIZE")
        total, available = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    group = _cgroup_memory()
    if group is not None:
        limit, used = group
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def is_tight() -> bool:
    """Whether memory is too short to keep free pages warm."""
    total, available = memory()
    return available < total // _TIGHT


def headroom(fd: int) -> int:
    """Bytes by which the file of an arena may grow now. A reserve stays for the rest of the machine."""
    if platform.is_on_disk(fd):
        return _free_in(os.fstatvfs(fd))
    total, available = memory()
    available -= total // _RESERVE
    return available if platform.is_in_memory(fd) else min(available, _free_in(os.fstatvfs(fd)))


def unasked(available: int, owners: int) -> int:
    """Bytes that each of `owners` may allocate without another look at the available memory.

    All of them together take at most a part of the reserve, so these bytes are available when others have taken the rest.
    """
    return max(0, min(HEADROOM_STEP, available // (4 * _RESERVE * owners)))


def _address_space_in_use(limit: int) -> int:
    try:
        return int(Path(facilities.proc("self/statm")).read_text().split()[0]) * platform.PAGE
    except OSError:
        return limit // 2


def _free_in(file_system: os.statvfs_result) -> int:
    return file_system.f_bavail * file_system.f_frsize


def _cgroup_memory() -> tuple[int, int] | None:
    """(limit, use) in bytes of the tightest memory cgroup of this process; None without a limit.

    Use is memory that could not be reclaimed: the inactive page cache of files counts as free.
    """
    found: list[tuple[int, int]] = []
    try:
        lines = Path(facilities.proc("self/cgroup")).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit_name, use_name = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit_name, use_name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # The limits of all groups above apply too. In a container, the own group may be mounted as the root.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            group = root.joinpath(*parts[:depth])
            try:
                limit = (group / limit_name).read_text().strip()
                used = int((group / use_name).read_text())
            except (OSError, ValueError):
                continue
            if limit != "max" and int(limit) < 1 << 60:
                found.append((int(limit), max(0, used - _reclaimable(group))))
    return min(found, key=lambda pair: pair[0] - pair[1]) if found else None


def _reclaimable(group: Path) -> int:
    try:
        for line in (group / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
