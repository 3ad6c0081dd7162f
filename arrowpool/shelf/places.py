"""Where the pieces of this process's objects lie, and what becomes of that memory once they are deleted.

- A small piece lies in one file with all others. Readers copy it out, so its pages are given back as soon as it is deleted.
- A large piece has a file of its own, which readers map. When it is deleted the file is kept warm for the next one for a
  while: a few files, a share of the memory, and none where memory or descriptors are short.
- Where descriptors are short, large pieces share files. Pages of a deleted one are given back once nobody has that file open,
  the file when all that lay in it is deleted.

So few descriptors are needed, however many objects there are. What is mapped by readers is theirs until they let go: the
kernel says whether a file is open anywhere else (`platform.is_exclusive`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from arrowpool.errors import ArenaFullError
from arrowpool.memory import limits, platform
from arrowpool.shelf import files
from arrowpool.shelf.catalogue import Piece
from arrowpool.shelf.layout import Memory
from arrowpool.tuning import KIB, MIB, WARM_SECONDS

#: Pieces up to this size are copied by their readers: that is as quick as to map them, and pins nothing.
COPIED = 256 * KIB

#: Memory of deleted objects is kept for the next ones: so many files, up to this share of what is available.
_SPARES = 4
_SPARE_SHARE = 8
#: Below this share of all memory none is kept.
_TIGHT = 4
#: Files of one piece each, at most, and as a share of the descriptors that the process may have.
_OWN_FILES = 256
_OWN_SHARE = 4
#: Pieces that share a file. One that is read keeps as many from being given back.
_SHARING = 64
#: How much memory there is is asked again after so many bytes of small pieces.
_UNASKED = MIB


class Place(ABC):
    """Where one piece lies."""

    piece: Piece
    #: Whether its memory may be there for a while after it was deleted.
    lingers = True

    @abstractmethod
    def write(self, write: Callable[[Memory], None]) -> None:
        """Have it written."""


class MemoryFile(Place):
    """A file in memory for one piece, mapped for as long as it is ours: the next piece that it takes finds its pages there."""

    def __init__(self, size: int):
        self.fd = files.create(files.SHELF, size)
        self.size = size
        self._mapped = platform.page_ceil(size)
        self._address = 0
        #: Whether all its pages exist, and are mapped.
        self._is_warm = False
        try:
            self.inode = os.fstat(self.fd).st_ino
            self._address = platform.map_shared(self.fd, self._mapped)
        except BaseException:
            self.close()
            raise

    @property
    def piece(self) -> Piece:  # type: ignore[override]
        return Piece(self.fd, self.inode, 0, self.size)

    def write(self, write: Callable[[Memory], None]) -> None:
        if not self._is_warm:
            _populate(self.fd, self._address, 0, self.size)
            self._is_warm = True
        write(platform.bytes_at(self._address, self.size))

    def take_for(self, size: int) -> bool:
        """Make it a file of fewer bytes, for another piece, if nobody else sees it any more; whether that was so."""
        if not size <= self.size <= 2 * size + platform.PAGE or not platform.is_exclusive(self.fd):
            return False
        os.ftruncate(self.fd, size)
        self.size = size
        return True

    def close(self) -> None:
        """Let go of it. Who has it open goes on reading."""
        self.forget()
        address, self._address = self._address, 0
        if address:
            platform.unmap(address, self._mapped)

    def forget(self) -> None:
        """In a forked child, which has the descriptor but not the map."""
        fd, self.fd = self.fd, -1  # first: the number may be another file's a moment later, and a child be forked then
        if fd >= 0:
            os.close(fd)


class SharedPlace(Place):
    """A piece in a file that others lie in, too."""

    def __init__(self, file: SharedFile, piece: Piece):
        self.file = file
        self.piece = piece
        self.lingers = isinstance(file, LargePieces)

    def write(self, write: Callable[[Memory], None]) -> None:
        self.file.write(self.piece, write)


class SharedFile(ABC):
    """A file that many pieces lie in, each on pages of its own. Its caller sees to it that one thread at a time adds or frees."""

    def __init__(self) -> None:
        self.fd = files.create(files.SHELF, 0)
        self.inode = os.fstat(self.fd).st_ino
        #: Where the next piece goes, how many have been added, and how many of them are there.
        self.end = 0
        self.added = 0
        self.live = 0

    def add(self, size: int) -> SharedPlace:
        """Set pages aside for a piece."""
        os.ftruncate(self.fd, self.end + platform.page_ceil(size))
        piece = Piece(self.fd, self.inode, self.end, size)
        self.end += platform.page_ceil(size)
        self.added += 1
        self.live += 1
        return SharedPlace(self, piece)

    @abstractmethod
    def write(self, piece: Piece, write: Callable[[Memory], None]) -> None: ...

    @abstractmethod
    def free(self, piece: Piece) -> None:
        """The piece was deleted."""

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class SmallPieces(SharedFile):
    """The file of small pieces. Pages are set aside again for pieces of as many pages: there are few such sizes."""

    def __init__(self) -> None:
        super().__init__()
        #: Offsets of pages that are free, by how many bytes.
        self._free: dict[int, list[int]] = {}

    def add(self, size: int) -> SharedPlace:
        free = self._free.get(platform.page_ceil(size))
        if not free:
            return super().add(size)
        self.live += 1
        return SharedPlace(self, Piece(self.fd, self.inode, free.pop(), size))

    def write(self, piece: Piece, write: Callable[[Memory], None]) -> None:
        memory = np.zeros(piece.size, dtype=np.uint8)
        write(memory)
        if not platform.is_in_memory(self.fd):
            platform.reserve(self.fd, piece.offset, piece.size)
        done = 0
        try:
            while done < piece.size:
                done += os.pwrite(self.fd, memory[done:].data, piece.offset + done)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC):
                raise
            raise MemoryError(f"the kernel has no memory for {piece.size} more bytes of shared memory") from error

    def free(self, piece: Piece) -> None:
        self.live -= 1
        if self.live == 0:
            os.ftruncate(self.fd, 0)
            self.end = 0
            self._free.clear()
        else:
            pages = platform.page_ceil(piece.size)
            platform.punch(self.fd, piece.offset, pages)
            self._free.setdefault(pages, []).append(piece.offset)


class LargePieces(SharedFile):
    """A file of large pieces."""

    def __init__(self) -> None:
        super().__init__()
        #: Deleted, and perhaps mapped by somebody.
        self.pending: list[Piece] = []

    def write(self, piece: Piece, write: Callable[[Memory], None]) -> None:
        mapped = piece.offset + platform.page_ceil(piece.size)
        address = platform.map_shared(self.fd, mapped)
        try:
            _populate(self.fd, address, piece.offset, piece.size)
            write(platform.bytes_at(address + piece.offset, piece.size))
        finally:
            platform.unmap(address, mapped)

    def free(self, piece: Piece) -> None:
        self.live -= 1
        self.pending.append(piece)
        self.give_back()

    def give_back(self) -> None:
        """Give back what nobody sees any more."""
        if self.pending and self.live and platform.is_exclusive(self.fd):
            for piece in self.pending:
                platform.punch(self.fd, piece.offset, platform.page_ceil(piece.size))
            self.pending.clear()


class Places:
    """All of them. Its methods may be called from any thread, and by signal handlers and finalizers in the middle of each other.

    `free` waits for nobody, since finalizers may call it, in the middle of anything: what was deleted is noted, and whoever
    holds the lock, or can have it, does the rest. Race: a thread notes a place and finds the lock taken; its holder lets go, and
    looks for notes only then. So it finds this one.

    A signal handler or a finalizer that puts an object may interrupt this very thread while it holds the lock, in the middle of
    anything. It does not wait for that, which would be for ever: the lock is one that a thread can take again. What it finds
    half-done it leaves alone, and makes a file of its own, which needs nothing of it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: Whether what the lock guards is being changed; who has the lock and finds this so has interrupted itself.
        self._is_changing = False
        #: Places of deleted pieces, and whether they may be kept; from any thread.
        self._deleted: deque[tuple[Place, bool]] = deque()
        #: All of these are read and changed with the lock held.
        self._small: SmallPieces | None = None
        self._own: set[MemoryFile] = set()
        self._shared: list[LargePieces] = []
        #: Files that nobody needs any more, and since when; the oldest first.
        self._spare: list[tuple[MemoryFile, float]] = []
        self._unasked = _UNASKED

    def put(self, size: int, write: Callable[[Memory], None]) -> Place:
        """Have a piece written; return where it lies.

        Raises
        ------
        MemoryError
            When there is no memory for it. Nothing is held then.
        OSError
            When this process can have no more descriptors.
        """
        place: Place
        with self._held() as is_alone:
            try:
                place = self._place(size) if is_alone else self._new_file(size, may_drop=False)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not is_alone or not self._drop_spares():
                    raise
                place = self._place(size)
        try:
            place.write(write)
        except BaseException:
            self.free(place, keep=False)
            raise
        return place

    def _place(self, size: int) -> Place:
        if size <= COPIED:
            if self._small is None:
                self._small = SmallPieces()
            self._unasked += size
            if self._unasked > _UNASKED:
                self._ask_for(self._small.fd, size)
                self._unasked = 0
            return self._small.add(size)
        for number, (spare, _) in enumerate(self._spare):
            if spare.take_for(size):
                del self._spare[number]
                self._own.add(spare)
                return spare
        if self._may_have_own():
            try:
                return self._new_file(size)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._shared:
                    raise
        shared = next((one for one in self._shared if one.added < _SHARING), None)
        if shared is None:
            shared = LargePieces()
            self._shared.append(shared)
        self._ask_for(shared.fd, size)
        return shared.add(size)

    def _new_file(self, size: int, *, may_drop: bool = True) -> MemoryFile:
        file = MemoryFile(size)
        self._own.add(file)
        try:
            self._ask_for(file.fd, size, may_drop=may_drop)
        except BaseException:
            self._own.discard(file)
            file.close()
            raise
        return file

    def _may_have_own(self) -> bool:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(_OWN_FILES, soft // _OWN_SHARE if soft != resource.RLIM_INFINITY else _OWN_FILES)
        if len(self._own) + len(self._spare) >= most:
            self._drop_spares()
        return len(self._own) < most

    def _ask_for(self, fd: int, size: int, *, may_drop: bool = True) -> None:
        """See to it that there is memory for so many bytes."""
        available = limits.headroom(fd)
        if size > available and may_drop and self._drop_spares():
            available = limits.headroom(fd)
        if size > available:
            raise ArenaFullError(f"{size:,} bytes are wanted for the shelf and {max(0, available):,} available")

    def free(self, place: Place, *, keep: bool = True) -> None:
        """A piece was deleted, its number first: its memory is used again, or given back."""
        self._deleted.append((place, keep))
        self._free_deleted()

    def _free_deleted(self) -> None:
        while self._deleted and self._lock.acquire(blocking=False):
            try:
                if self._is_changing:
                    return  # whoever is interrupted does it afterwards
                self._is_changing = True
                try:
                    self._do_free()
                finally:
                    self._is_changing = False
            finally:
                self._lock.release()

    def _do_free(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                place, keep = self._deleted.popleft()
                self._free(place, keep)

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """Hold the lock; whether this does not interrupt what this thread does with it already, and so may change everything."""
        try:
            with self._lock:
                if self._is_changing:
                    yield False
                    return
                self._is_changing = True
                try:
                    self._do_free()
                    yield True
                finally:
                    self._is_changing = False
        finally:
            self._free_deleted()

    def _free(self, place: Place, keep: bool) -> None:
        if isinstance(place, SharedPlace):
            file = place.file
            file.free(place.piece)
            if isinstance(file, LargePieces) and not file.live:
                self._shared.remove(file)
                file.close()
        elif isinstance(place, MemoryFile):
            self._own.discard(place)
            self._spare.append((place, time.monotonic()))
            if keep:
                self._keep_few()
            else:
                self._drop(place)

    def _keep_few(self) -> None:
        total, available = limits.memory()
        most = available // _SPARE_SHARE if available > total // _TIGHT else 0
        since = time.monotonic() - WARM_SECONDS
        while self._spare and (
            len(self._spare) > _SPARES
            or self._spare[0][1] < since
            or sum(spare.size for spare, _ in self._spare) > most
        ):
            self._drop(self._spare[0][0])

    def _drop(self, spare: MemoryFile) -> None:
        self._spare = [pair for pair in self._spare if pair[0] is not spare]
        spare.close()

    def _drop_spares(self) -> bool:
        """Whether there was any."""
        spares, self._spare = self._spare, []
        for spare, _ in spares:
            spare.close()
        return bool(spares)

    def give_back(self) -> None:
        """Give back all that is kept warm."""
        with self._held() as is_alone:
            if is_alone:
                self._drop_spares()

    def tend(self) -> bool:
        """Give back what has been kept long enough, or is seen by nobody any more; whether there is more to come."""
        with self._held() as is_alone:
            if not is_alone:
                return True
            if self._spare:
                self._keep_few()
            for shared in self._shared:
                shared.give_back()
            return bool(self._spare) or any(shared.pending for shared in self._shared)

    def close(self) -> None:
        with self._held():
            self._drop_spares()
            for file in list(self._own):
                file.close()
            self._own.clear()
            self._close_shared()

    def forget(self) -> None:
        """In a forked child; the lock may have been held by a thread that it has not."""
        for file in [*self._own, *(spare for spare, _ in self._spare)]:
            file.forget()
        self._close_shared()

    def _close_shared(self) -> None:
        for shared in [*self._shared, *([self._small] if self._small is not None else [])]:
            shared.close()
        self._shared = []
        self._small = None


def _populate(fd: int, address: int, offset: int, size: int) -> None:
    if not platform.is_in_memory(fd):
        platform.reserve(fd, offset, size)
    platform.populate(address + offset, platform.page_ceil(size))
