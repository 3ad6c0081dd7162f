"""An owner's shared memory: one sparse anonymous file, mapped once, carved into segments.

Only the owner process writes to it and decides what is free. Used by `wire` (what goes where) and `lifecycle` (when it
is over). Guarantees: segments start on a page; memory of a freed segment is used again warm; pages idle for long are
given back to the kernel; nothing is left when the last process is gone, however it went. Assumes one thread at a time.
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

Run = Callable[[list[Callable[[], Any]], int], None]

_log = logging.getLogger(__name__)
_LEAST_FILE = 64 * MIB
_said_where = False


class Arena:
    """The memory that one process hands out to others.

    Parameters
    ----------
    fd : int
        Descriptor of the arena's file, as made by :func:`create`; the arena owns it from here on.
    owners : int
        How many processes have an arena and take memory at the same time: the pool's workers, and its parent.
    turns : int
        Descriptor of a file by which these take turns where memory is short, opened in each of them: see `Turns`. Not the
        arena's own; by default that of `fd`.
    """

    def __init__(self, fd: int, owners: int = 1, turns: int = -1):
        self.fd = fd
        self.capacity = os.fstat(fd).st_size
        # A child forked before `map_shared` is done would have a map of the file.
        with no_forks():
            try:
                address = platform.map_shared(fd, self.capacity)
            except BaseException:
                os.close(fd)
                raise
            _keep_from_children(fd)
        self._owners = owners
        self._turns = Turns(fd if turns < 0 else turns)
        self._address = address
        self._bytes = platform.bytes_at(address, self.capacity)
        self._allocator = Allocator(self.capacity)
        self._is_memfd = platform.is_memfd(fd)
        #: Bytes that may be taken before asking again how much memory there is.
        self._headroom = 0
        #: Bytes freed since it was last asked whether memory is tight.
        self._freed = 0
        #: Bytes of memory that were lacking the last time; 0 when it was room in the arena.
        self.lacking = 0
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
        """Bytes that have memory behind them, in segments or kept warm for the next."""
        return self._allocator.resident()

    def allocate(self, nbytes: int, run: Run | None = None) -> tuple[int, int]:
        """A new segment of at least `nbytes`: (offset, size), both page-aligned, its pages in memory.

        Parameters
        ----------
        nbytes : int
            How many bytes it needs.
        run : callable, optional
            Runs functions, which get pages of so many bytes in all, and returns when all have ended. By default they run one
            after the other.

        Raises
        ------
        ArenaFullError
            When no free range is long enough, or the kernel has no memory for it. Nothing is held then.
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
                f"{error}; {self.used:,} bytes are in use. Send smaller chunks, set max_bytes to less, or let them lie on a "
                "disk: Pool(spill_dir=...)."
            ) from error
        return offset, size

    def _grow(self, cold: list[tuple[int, int]], run: Run | None) -> None:
        """Get pages for these stretches; refuse when that would leave the machine (or its container) without memory.

        Other owners see the same memory and may take of it at the same moment. So each may take so little without asking
        that all of them together stay within the reserve. Whoever asks for a small part of what there is keeps the turn
        shared until the pages are there; whoever asks for more waits until nobody else is at it.
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
        # The kernel fills a page with zeros, which takes longer than to copy one: as much work for threads as the copies.
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
        """The owner's writable view of a range. Must never reach a user: a forked child has no such memory."""
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
    spill_dir : str, optional
        Where it shall lie on disk; else it lies in memory, if this system has a way to do that.

    Raises
    ------
    OSError
        When this system has no way to share memory without a name, or `spill_dir` cannot be written to.
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
        fd, substitute = _create(capacity, spill_dir)
        made = Arena(fd, owners)
    _warn_of(substitute)
    return made


def _create(capacity: int, spill_dir: str | None) -> tuple[int, str | None]:
    """The file, and the directory that it lies in if this system has no memfd. Called in a `no_forks` block."""
    while True:
        fd, substitute = _create_file(capacity, spill_dir)
        capacity = os.fstat(fd).st_size
        try:
            # A consumer maps the whole arena privately: what strict overcommit or RLIMIT_AS refuse shows here.
            platform.unmap(platform.map_private(fd, 0, capacity), capacity)
        except OSError as error:
            os.close(fd)
            if error.errno != errno.ENOMEM or capacity <= 64 * platform.PAGE:
                raise
            capacity = platform.page_ceil(capacity // 2)
        else:
            return fd, substitute


def _create_file(capacity: int, spill_dir: str | None) -> tuple[int, str | None]:
    if spill_dir is not None:
        return platform.create_unlinked("arrowpool", capacity, spill_dir), None
    with contextlib.suppress(OSError):
        return platform.create_memory("arrowpool", capacity), None
    temporary = tempfile.gettempdir()  # raises FileNotFoundError where there is none
    # In memory as well, where there is some to speak of: containers have little. Else the kernel's page cache has to do.
    try:
        return _create_in("/dev/shm", capacity, min(capacity // 4, 1 << 30)), "/dev/shm"
    except OSError:
        return _create_in(temporary, capacity, _LEAST_FILE), temporary


def _warn_of(substitute: str | None) -> None:
    """Warn once. Not in a `no_forks` block: a handler of the log may wait."""
    global _said_where
    if substitute is not None and not _said_where and facilities.has("memfd"):  # else the user excluded it
        _said_where = True
        _log.warning("this system has no memfd: shared memory lies in unlinked files in %s", substitute)


def _create_in(directory: str, capacity: int, enough: int) -> int:
    """A file of so many bytes, or of half of what is free there, if that is enough."""
    free = shutil.disk_usage(directory).free
    if free < enough:
        raise OSError(errno.ENOSPC, f"{directory} has only {free:,} bytes free")
    return platform.create_unlinked("arrowpool", min(capacity, platform.page_ceil(free // 2)), directory)


#: Descriptors of this process's arenas.
_open: set[int] = set()
_watching = False


def _keep_from_children(fd: int) -> None:
    """A forked child that kept it would keep the memory, also when this arena is closed."""
    global _watching
    _open.add(fd)
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_close_in_child)


def _close_in_child() -> None:
    for fd in _open:
        os.close(fd)
    _open.clear()


def _close(fd: int, address: int, size: int, pid: int) -> None:
    if os.getpid() == pid:
        platform.unmap(address, size)
        # Forgotten first: a child forked in between would close by number what has been opened since.
        _open.discard(fd)
        os.close(fd)
