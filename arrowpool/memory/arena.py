"""An owner's shared memory: one sparse anonymous file, mapped once, divided into segments.

Only the owner process writes to it. Used by `transport.sender`, which decides with `lifecycle` when a segment is free.

Guarantees: segments begin on a page. The memory of a freed segment is reused while it is warm. `trim` gives idle pages back to the
kernel. No child that is forked keeps the memory. The kernel frees it with the last process, also after SIGKILL.

Assumes that one thread at a time uses an arena: the feeder in the parent, the main thread in a worker.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrowpool.errors import ArenaFullError
from arrowpool.forking import no_forks
from arrowpool.memory import facilities, platform
from arrowpool.memory.admission import Turns
from arrowpool.memory.allocator import Allocator
from arrowpool.memory.limits import headroom, is_tight, unasked
from arrowpool.tuning import HEADROOM_STEP, MIB, PIECE

#: Runs functions that get pages of so many bytes in all, and returns when all have ended.
Run = Callable[[list[Callable[[], Any]], int], None]

_log = logging.getLogger(__name__)
#: An unlinked file in the temporary directory needs this much free space.
_LEAST_FILE = 64 * MIB
#: Whether the warning was given. Any thread that makes an arena reads and sets it; two at the same time warn twice, which does no harm.
_said_where = False


class Arena:
    """The memory that one process hands out to others.

    Parameters
    ----------
    fd : int
        Descriptor of the arena's file, as made by :func:`create`; owned by the arena.
    owners : int
        Number of processes that have an arena and allocate memory at the same time: the pool's workers and its parent.
    turns : int
        Descriptor of the file whose lock these processes take where memory is short: see `Turns`. Each of them has opened the file
        for itself. Not owned by the arena. By default `fd`.
    """

    def __init__(self, fd: int, owners: int = 1, turns: int = -1):
        self.fd = fd
        self.capacity = os.fstat(fd).st_size
        # A child forked before `map_shared` is done would have a map of the file.
        with no_forks():
            try:
                address = platform.map_shared(fd, self.capacity)
            except BaseException:
                platform.close_file(fd)
                raise
            _keep_from_children(fd)
        # Not changed after construction.
        self._owners = owners
        self._turns = Turns(fd if turns < 0 else turns)
        self._address = address
        self._is_memfd = platform.is_memfd(fd)
        #: The whole map. Threads that share a copy write to disjoint parts of it, which the owner's thread waits for.
        self._bytes = platform.bytes_at(address, self.capacity)
        # The state. Written and read by the owner's thread only; `repr` may be off for a moment in another thread.
        #: Which ranges are free, and which have pages.
        self._allocator = Allocator(self.capacity)
        #: Bytes that may be allocated before the available memory is looked up again.
        self._headroom = 0
        #: Bytes freed since the last look whether memory is tight.
        self._freed = 0
        #: Bytes of memory that were missing at the last `ArenaFullError`; 0 if the arena itself was full.
        self.lacking = 0
        #: Unmaps the memory and closes the descriptor, once. Called by any thread after the owner's thread has ended, or as a finalizer.
        self.close = weakref.finalize(self, _close, fd, address, self.capacity, os.getpid())
        self.close.atexit = False

    def __repr__(self) -> str:
        return f"<Arena {self._allocator!r}>"

    @property
    def used(self) -> int:
        """Bytes in segments."""
        return self._allocator.used

    @property
    def resident(self) -> int:
        """Bytes that have pages, in segments or kept warm for the next segments."""
        return self._allocator.resident()

    def allocate(self, nbytes: int, run: Run | None = None) -> tuple[int, int]:
        """A new segment of at least `nbytes`: (offset, size), both page-aligned, its pages in memory.

        Parameters
        ----------
        nbytes : int
            Bytes needed.
        run : callable, optional
            Runs functions that get pages, possibly in several threads: see `Run`. By default they run one after the other.

        Raises
        ------
        ArenaFullError
            When no free range is long enough, or the kernel has no memory for it. No segment is held then.
        """
        size = platform.page_ceil(max(nbytes, 1))
        found = self._allocator.allocate(size)
        if found is None:
            self.lacking = 0
            raise ArenaFullError(
                f"no room for {nbytes:,} bytes in shared memory: {self.used:,} of {self.capacity:,} bytes are in use. "
                "Release results or frames that are no longer needed, or send smaller chunks."
            )
        offset, cold = found
        if not cold:
            return offset, size
        try:
            self._grow(cold, run)
        except MemoryError as error:
            self._allocator.free(offset, size)
            self._allocator.mark_cold(cold)
            raise ArenaFullError(
                f"{error}; {self.used:,} bytes are in use. Send smaller chunks, set max_bytes to less, or put shared memory on "
                "a disk: Pool(spill_dir=...)."
            ) from error
        return offset, size

    def _grow(self, cold: list[tuple[int, int]], run: Run | None) -> None:
        """Get pages for these ranges; refuse if that would leave the machine or its container without memory.

        Other owners see the same available memory, and may take some of it at the same moment. So:

        - Without a look at the available memory, an owner takes so little that all owners together stay within the reserve.
        - An owner that takes a small part of the available memory holds the lock shared until it has the pages.
        - An owner that takes more holds the lock alone.
        """
        nbytes = sum(end - start for start, end in cold)
        if nbytes <= self._headroom:
            self._headroom -= nbytes
            self._populate(cold, run)
            return
        with self._turns:
            available = headroom(self.fd)
            if 2 * nbytes * self._owners > available:
                self._turns.alone()
                available = headroom(self.fd)
                if nbytes > available:
                    self.trim()
                    available = headroom(self.fd)
                if nbytes > available:
                    self.lacking = nbytes - available
                    raise MemoryError(
                        f"{nbytes:,} more bytes of shared memory are wanted and {max(0, available):,} available"
                    )
            self._headroom = unasked(available - nbytes, self._owners)
            self._populate(cold, run)

    def _populate(self, cold: list[tuple[int, int]], run: Run | None) -> None:
        if not self._is_memfd:
            for start, end in cold:
                platform.reserve(self.fd, start, end - start)
        # The kernel fills each page with zeros, which takes longer than to copy to it: worth several threads, as the copies are.
        step = PIECE if run is not None else self.capacity
        pieces = [(at, min(step, end - at)) for start, end in cold for at in range(start, end, step)]
        works: list[Callable[[], Any]] = [
            functools.partial(platform.populate, self._address + at, nbytes) for at, nbytes in pieces
        ]
        if run is not None:
            run(works, sum(nbytes for _, nbytes in pieces))
        else:
            for work in works:
                work()

    def free(self, offset: int, size: int) -> None:
        """Take a segment back; its pages stay warm for the next one, unless memory is tight."""
        self._allocator.free(offset, size)
        self._freed += size
        if self._freed >= HEADROOM_STEP:
            self._freed = 0
            if self._is_memfd and is_tight():
                self.trim()

    def room(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """The owner's writable view of a range. A user must never get it: a forked child has no such memory."""
        return self._bytes[offset : offset + nbytes]

    def trim(self) -> None:
        """Give the pages of all free ranges back to the kernel."""
        for start, end in self._allocator.chill():
            if not platform.punch(self.fd, start, end - start):
                self._allocator.mark_warm(start, end)


def create(capacity: int, spill_dir: str | None = None) -> int:
    """The file for an arena of `capacity` bytes, or of the largest part of it that this process may map.

    Parameters
    ----------
    capacity : int
        Bytes of address space.
    spill_dir : str, optional
        Directory of the file. By default it lies in memory, if this system can do that.

    Raises
    ------
    OSError
        When this system cannot share memory without a name, or `spill_dir` is not writable.
    """
    with no_forks():
        fd, substitute = _create(capacity, spill_dir)
    _warn_of(substitute)
    return fd


def make(capacity: int, spill_dir: str | None = None, owners: int = 1) -> Arena:
    """A new arena of this process. No child keeps its memory, also none that another thread forks meanwhile.

    Parameters
    ----------
    capacity, spill_dir
        As for `create`.
    owners : int
        As for `Arena`.

    Raises
    ------
    OSError
        As from `create`.
    """
    with no_forks():
        fd, substitute = _create(capacity, spill_dir, for_readers=True)
        made = Arena(fd, owners)
    _warn_of(substitute)
    return made


def _create(capacity: int, spill_dir: str | None, *, for_readers: bool = False) -> tuple[int, str | None]:
    """The file, and the directory that it lies in if this system has no memfd. Called in a `no_forks` block."""
    while True:
        fd, substitute = _create_file(capacity, spill_dir, for_readers)
        capacity = os.fstat(fd).st_size
        try:
            # As each consumer does. Fails here if strict overcommit or RLIMIT_AS refuses it.
            platform.unmap(platform.map_private(fd, 0, capacity), capacity)
        except OSError as error:
            platform.close_file(fd)
            if error.errno != errno.ENOMEM or capacity <= 64 * platform.PAGE:
                raise
            capacity = platform.page_ceil(capacity // 2)
        else:
            return fd, substitute


def _create_file(capacity: int, spill_dir: str | None, for_readers: bool) -> tuple[int, str | None]:
    if spill_dir is not None:
        return platform.create_unlinked("arrowpool", capacity, spill_dir, for_readers=for_readers), None
    with contextlib.suppress(OSError):
        return platform.create_memory("arrowpool", capacity), None
    temporary = tempfile.gettempdir()  # raises FileNotFoundError where there is none
    # `/dev/shm` is in memory as well, but containers often have little of it. Otherwise the kernel's page cache holds the file.
    try:
        return _create_in("/dev/shm", capacity, min(capacity // 4, 1 << 30), for_readers), "/dev/shm"
    except OSError:
        return _create_in(temporary, capacity, _LEAST_FILE, for_readers), temporary


def _warn_of(substitute: str | None) -> None:
    """Warn once. Not in a `no_forks` block: a handler of the log may wait."""
    global _said_where
    # Otherwise the user excluded it, or the system has none: then this is the usual place.
    is_odd = platform.IS_LINUX and facilities.has("memfd")
    if substitute is not None and not _said_where and is_odd:
        _said_where = True
        _log.warning("this system has no memfd: shared memory lies in unlinked files in %s", substitute)


def _create_in(directory: str, capacity: int, enough: int, for_readers: bool) -> int:
    """A file of `capacity` bytes, or of half the free space if that is less. Fails if less than `enough` is free."""
    free = shutil.disk_usage(directory).free
    if free < enough:
        raise OSError(errno.ENOSPC, f"{directory} has only {free:,} bytes free")
    return platform.create_unlinked(
        "arrowpool", min(capacity, platform.page_ceil(free // 2)), directory, for_readers=for_readers
    )


#: Descriptors of this process's arenas. Any thread adds, in a `no_forks` block, and discards, in a finalizer: each is one atomic
#: operation of a set. A forked child, which has one thread, reads.
_open: set[int] = set()
#: Whether the fork hook is registered. Read and set in `no_forks` blocks.
_watching = False


def _keep_from_children(fd: int) -> None:
    """Close the descriptor in forked children: they would keep the memory after the arena is closed. Called in a `no_forks` block."""
    global _watching
    _open.add(fd)
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    for fd in _open:
        platform.close_file(fd)
    _open.clear()


def _close(fd: int, address: int, size: int, pid: int) -> None:
    if os.getpid() == pid:
        platform.unmap(address, size)
        # Forgotten first: a child forked in between would close another file that has the number by then.
        _open.discard(fd)
        platform.close_file(fd)
