"""The figures that steer arrowpool, each with its reason. Words only: nothing here acts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

KIB = 1 << 10
MIB = 1 << 20

#: Alignment of every buffer inside a segment; Arrow recommends it, and SIMD kernels like it.
ALIGNMENT = 64

#: Payloads below this stay in the pickle stream. Measured: from here on a segment is cheaper than copying the bytes
#: through pickle, the socket and back.
INLINE_LIMIT = 32 * KIB

#: A unit of at least this size gets a segment of its own, so that keeping it pins nothing else.
OWN_SEGMENT = 256 * KIB

#: Smaller units of one message share segments up to this size: keeping one of them pins at most this much.
SHARED_SEGMENT = 4 * MIB

#: Copies of at least this much in all are shared among threads, in pieces of this size: one core alone cannot move as much
#: as the memory can. A few threads are enough to reach that limit.
PIECE = 4 * MIB
COPY_THREADS = 4

#: After this long without work, an owner gives the pages of its free ranges back to the kernel.
IDLE_SECONDS = 5.0

#: Tasks shorter than this on average may travel several to a frame...
SHORT_TASK_SECONDS = 1e-3
#: ...as many as take about this long (two of Python's thread switch intervals, so that workers do not run dry)...
FRAME_SECONDS = 10e-3
#: ...but never more than this many, nor more bytes than a socket takes without blocking.
FRAME_TASKS = 1024
FRAME_BYTES = 64 * KIB

#: Tasks shorter than this on average may queue behind one other in their worker, which then never waits for the next.
PREFETCH_SECONDS = 10e-3

#: Tasks that wait this long behind another one in the same worker, while other workers idle, are taken back.
RECALL_SECONDS = 0.02

#: Leases that one process can hold of another's arena at a time; beyond that, objects travel in band.
LEASE_SLOTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much shared memory one owner may use.

    Attributes
    ----------
    capacity : int
        Bytes of address space an arena reserves; no more than the machine's (or the container's) memory.
    budget : int
        Bytes of segments in flight at a time, from parent to workers.
    """

    capacity: int
    budget: int


def limits(max_bytes: int | None = None) -> Limits:
    """The limits for a new pool: half of what is available now is the budget, unless `max_bytes` says otherwise.

    Available memory is the smaller of what psutil reports and what the process's cgroup still allows.
    """
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    group = _cgroup_memory()
    if group is not None:
        limit, used = group
        total, available = min(total, limit), min(available, max(0, limit - used))
    budget = max(64 * MIB, available // 2) if max_bytes is None else max_bytes
    page = os.sysconf("SC_PAGESIZE")
    return Limits(capacity=max(total, 64 * MIB) // page * page, budget=budget)


def _cgroup_memory() -> tuple[int, int] | None:
    """(limit, use) in bytes of the tightest memory cgroup this process is in; None where there is no limit."""
    found: list[tuple[int, int]] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
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
        # A limit anywhere above binds too; inside a container the own group may be mounted as the root.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            group = root.joinpath(*parts[:depth])
            try:
                limit = (group / limit_name).read_text().strip()
                used = int((group / use_name).read_text())
            except (OSError, ValueError):
                continue
            if limit != "max" and int(limit) < 1 << 60:
                found.append((int(limit), used))
    return min(found, key=lambda pair: pair[0] - pair[1]) if found else None
