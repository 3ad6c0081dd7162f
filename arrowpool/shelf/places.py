"""The choice of a memory file for each part of this process's objects, and the reuse of the memory of deleted parts.

- Parts of up to `COPIED` bytes lie in one file together (`SmallParts`).
- A larger part has a file of its own. When it is deleted, the file is kept warm for a while, for the next part: a few files, a
  share of the memory, and none where memory or descriptors are short.
- Where descriptors are short, large parts share files (`LargeParts`).

So few descriptors are needed, however many objects there are.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from arrowpool.errors import ArenaFullError
from arrowpool.memory import limits, platform
from arrowpool.shelf.layout import Memory
from arrowpool.shelf.part_files import LargeParts, MemoryFile, Place, SharedPlace, SmallParts
from arrowpool.tuning import KIB, MIB, WARM_SECONDS

#: Parts up to this size are copied by their readers: that is as fast as mapping them, and keeps no file open.
COPIED = 256 * KIB

#: At most this many files of deleted parts are kept, and at most this share (1/n) of the available memory.
_SPARES = 4
_SPARE_SHARE = 8
#: No file is kept while less than this share (1/n) of all memory is available.
_TIGHT = 4
#: At most this many files of one part each, and at most this share (1/n) of the descriptors that the process may have.
_OWN_FILES = 256
_OWN_SHARE = 4
#: Parts per file where large parts share files. While one is read, the memory of the others cannot be given back.
_SHARING = 64
#: The available memory is looked up again after this many bytes of small parts.
_UNCHECKED = MIB


class Places:
    """The places of all parts. Any thread may call its methods, also a signal handler or finalizer that interrupts another call.

    Race: `free` must not wait, since a finalizer may call it in the middle of any code. So it notes the place in `_deleted` and
    tries to take the lock.

    1. Thread A notes a place and finds the lock taken by thread B.
    2. B releases the lock.
    3. B looks for notes (`_free_deleted`), always after it has released the lock, and frees what is noted.

    A's note comes before its failed attempt, which comes before 2. Verdict: B sees the note in 3.

    Race: a signal handler or finalizer puts an object, and interrupts this very thread while it holds the lock. Waiting would
    never end, so the lock is reentrant. The interrupting call sees `_is_changing`, leaves the half-changed state alone, and makes
    a file of its own, which needs none of that state.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: True while the state below is being changed. Read and written with the lock held: a thread that has just got the lock
        #: and reads True has interrupted itself.
        self._is_changing = False
        #: Places of deleted parts, and whether their files may be kept. Any thread appends without the lock; taken out with the
        #: lock held. A deque's append and popleft are single steps, also on a free-threaded build.
        self._deleted: deque[tuple[Place, bool]] = deque()
        # All that follows is read and changed with the lock held; `_own` may also be added to by an interrupting call.
        self._small: SmallParts | None = None
        self._own: set[MemoryFile] = set()
        self._shared: list[LargeParts] = []
        #: Files of deleted parts, and when they were deleted; the oldest first.
        self._spare: list[tuple[MemoryFile, float]] = []
        self._unchecked = _UNCHECKED

    def put(self, size: int, write: Callable[[Memory], None]) -> Place:
        """Write a part; return its place.

        Raises
        ------
        MemoryError
            When there is no memory for it. Nothing is left behind.
        OSError
            When this process has no more descriptors.
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
                self._small = SmallParts()
            self._unchecked += size
            if self._unchecked > _UNCHECKED:
                self._check_memory(self._small.fd, size)
                self._unchecked = 0
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
            shared = LargeParts()
            self._shared.append(shared)
        self._check_memory(shared.fd, size)
        return shared.add(size)

    def _new_file(self, size: int, *, may_drop: bool = True) -> MemoryFile:
        file = MemoryFile(size)
        self._own.add(file)
        try:
            self._check_memory(file.fd, size, may_drop=may_drop)
        except BaseException:
            self._own.discard(file)
            file.close()
            raise
        return file

    def _may_have_own(self) -> bool:
        soft, _ = platform.descriptors_limit()
        most = min(_OWN_FILES, soft // _OWN_SHARE if soft != platform.UNLIMITED else _OWN_FILES)
        if len(self._own) + len(self._spare) >= most:
            self._drop_spares()
        return len(self._own) < most

    def _check_memory(self, fd: int, size: int, *, may_drop: bool = True) -> None:
        """Raise `ArenaFullError` unless there is memory for `size` bytes."""
        available = limits.headroom(fd)
        if size > available and may_drop and self._drop_spares():
            available = limits.headroom(fd)
        if size > available:
            raise ArenaFullError(f"the shelf needs {size:,} bytes, and {max(0, available):,} are available")

    def free(self, place: Place, *, keep: bool = True) -> None:
        """Reuse or give back the memory of a part. Its object must have been struck out of the catalogue before."""
        self._deleted.append((place, keep))
        self._free_deleted()

    def _free_deleted(self) -> None:
        while self._deleted and self._lock.acquire(blocking=False):
            try:
                if self._is_changing:
                    return  # the interrupted call does it afterwards
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
        """Hold the lock. Yield False if the caller interrupts a change that this thread is making: it must not change the state."""
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
            file.free(place.location)
            if isinstance(file, LargeParts) and not file.live:
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
        """Close all spare files; return whether there were any."""
        spares, self._spare = self._spare, []
        for spare, _ in spares:
            spare.close()
        return bool(spares)

    def give_back(self) -> None:
        """Close all files that are kept warm."""
        with self._held() as is_alone:
            if is_alone:
                self._drop_spares()

    def tend(self) -> bool:
        """Give back memory that was kept long enough, or that no reader maps any more; return whether more remains to be given back."""
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
        """Close all files in a forked child. Without the lock, which a thread that the child does not have may hold."""
        for file in [*self._own, *(spare for spare, _ in self._spare)]:
            file.forget()
        self._close_shared()

    def _close_shared(self) -> None:
        for shared in [*self._shared, *([self._small] if self._small is not None else [])]:
            shared.close()
        self._shared = []
        self._small = None
