"""The C library's heap of a worker: memory that a task has freed stays warm for the next task, within bounds.

Called by the worker's loop. By default, glibc gets each array of more than 128 kB from the kernel and gives it back when the array is
freed. So the kernel zeroes the pages of each temporary of each task again. A process that frees large arrays raises glibc's thresholds
step by step; this module sets those that a process reaches after it has freed an array of 32 MB.

Guarantees: the parent's heap stays as it is. Thresholds that the user has set higher stay. Freed memory goes back to the kernel after
half a minute, also in a worker that is never idle, and at once where memory is short. With another C library than glibc, nothing
happens. A preloaded allocator (jemalloc, tcmalloc) has its own thresholds, which stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from arrowpool.memory import facilities, platform
from arrowpool.memory.limits import is_tight, memory
from arrowpool.tuning import HEAP_KEPT, HEAP_SHARE, LARGEST_KEPT, WARM_SECONDS

#: Parameters of `mallopt`, by their names in the environment.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = "trim_threshold", "mmap_threshold"
_PARAMETERS = {_TRIM_THRESHOLD: -1, _MMAP_THRESHOLD: -3}
#: Both thresholds at the start of a process.
_DEFAULT = 128 << 10
_INT_MAX = (1 << 31) - 1
#: Time between two looks at the available memory.
_LOOK_SECONDS = 1.0


class Heap:
    """This process's heap.

    Used by the worker's main thread only, which alone writes and reads the attributes. Threads of tasks may allocate and free meanwhile:
    glibc's own locks guard its heap and its thresholds.

    Parameters
    ----------
    processes : int
        Number of processes that keep memory in this way. Together they keep a small part of the machine's memory.
    """

    def __init__(self, processes: int):
        self._libc = platform.glibc() if facilities.has("mallopt") else None
        kept = min(HEAP_KEPT, memory()[0] // (HEAP_SHARE * processes)) if self._libc is not None else 0
        self._thresholds = raised(kept, os.environ)
        #: Whether the thresholds are raised now, so that freed memory is kept.
        self._keeps = False
        #: Whether a task has run since the last `trim`, and may have freed memory.
        self._used = False
        #: When the available memory was looked up last, and when memory was given back last.
        self._looked = self._trimmed = time.monotonic()
        self._keep(self._libc is not None and not is_tight())

    def __repr__(self) -> str:
        return f"<Heap keeps={self._keeps} used={self._used} {self._thresholds}>"

    @property
    def holds_memory(self) -> bool:
        """Whether `trim` may give memory back."""
        return self._used and self._keeps

    def worked(self) -> None:
        """A task has run. From time to time, decide whether freed memory is kept."""
        self._used = True
        now = time.monotonic()
        if self._libc is None or now < self._looked + _LOOK_SECONDS:
            return
        self._looked = now
        tight = is_tight()
        if tight == self._keeps:
            self._keep(not tight)
        if tight or now >= self._trimmed + WARM_SECONDS:
            self.trim()

    def trim(self) -> None:
        """Give freed memory back to the kernel."""
        if self._libc is not None and self._used:
            self._libc.malloc_trim(0)
            self._trimmed = time.monotonic()
            self._used = False

    def _keep(self, keep: bool) -> None:
        if self._libc is not None and self._keeps != keep:
            self._keeps = keep
            for name, value in self._thresholds.items():
                self._libc.mallopt(_PARAMETERS[name], value if keep else _DEFAULT)


def raised(kept: int, environment: Mapping[str, str]) -> dict[str, int]:
    """The thresholds by which a process keeps `kept` bytes of freed memory; those of the user's environment where they are higher."""
    wanted = {_TRIM_THRESHOLD: kept, _MMAP_THRESHOLD: min(LARGEST_KEPT, kept // 2)}
    tunables = dict(part.partition("=")[::2] for part in environment.get("GLIBC_TUNABLES", "").split(":"))
    for name in wanted:
        for text in (environment.get(f"MALLOC_{name.upper()}_", ""), tunables.get(f"glibc.malloc.{name}", "")):
            with contextlib.suppress(ValueError):
                wanted[name] = max(wanted[name], min(int(text, 0), _INT_MAX))
    return {name: max(value, _DEFAULT) for name, value in wanted.items()}
