"""The control page of one worker: a few shared words and one release flag per lease, in both directions.

Parent and worker map the same small file. Every byte has one writer at a time, and a store of one byte or one aligned
word is all that ever happens, so there is no lock that a killed process could leave held.

=================  ============  ============  =====================================================================
what               written by    read by       meaning
=================  ============  ============  =====================================================================
started            worker        parent        how many tasks this worker has begun, ever
began              worker        parent        when the running task was begun, by the monotonic clock; 0 while none runs
recalled           parent        worker        tasks in ``[first, end)`` are not to be begun any more
interrupted        parent        worker        one more than the number of the task that the next SIGINT is meant for
ending             parent        worker        not 0: a SIGTERM is the parent's, and ends this worker
pids               both          others        parent and worker
owners             parent        worker        how many processes of this pool have an arena
relief             parent        worker        answers to its calls for memory, and bytes that others had to give back then
arguments          parent        others        segments and bytes of the parent's arena in use, leases of this worker, bytes with pages
results            worker        others        segments and bytes of this worker's arena in use, leases of the parent, bytes with pages
flags, to worker   worker        parent        1: the worker's lease in this slot of the parent's arena is over
flags, to parent   parent        worker        1: the parent's lease in this slot of the worker's arena is over
=================  ============  ============  =====================================================================
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arrowpool.memory import platform
from arrowpool.tuning import LEASE_SLOTS

_WORDS = platform.PAGE
SIZE = _WORDS + 2 * LEASE_SLOTS
_STARTED, _RECALLED_FIRST, _RECALLED_END, _INTERRUPTED, _BEGAN, _PARENT, _WORKER, _OWNERS = range(8)
_ARGUMENTS, _RESULTS = slice(8, 12), slice(12, 16)
_ANSWERS, _ELSEWHERE, _ENDING = 16, 17, 18
_USE = struct.Struct("QQQQ")
#: From here downwards: the number of a System V segment, counted backwards.
_SEGMENTS = -2

Flags = NDArray[np.uint8]


def create() -> int:
    """Make a new control page. Return the descriptor of its file, or a negative number where no file can be made.

    The negative number stands for a System V segment; `ControlPage` takes it in any process. Use it at once: only when a process
    has attached the segment does the kernel remove it with its last process.
    """
    with contextlib.suppress(OSError):
        return platform.create_memory("arrowpool-control", SIZE)
    with contextlib.suppress(OSError, MemoryError):
        return _create_in(tempfile.gettempdir())
    return _SEGMENTS - platform.create_segment(SIZE)


def _create_in(directory: str) -> int:
    fd = platform.create_unlinked("arrowpool-control", SIZE, directory)
    try:
        platform.reserve(fd, 0, SIZE)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Use(NamedTuple):
    """The use of an arena: segments, their bytes, the leases of one consumer, and all bytes that have memory."""

    segments: int
    nbytes: int
    leases: int
    resident: int


class _Map:
    """The base object of arrays over the page. (An `mmap.mmap` would keep a duplicate of its descriptor for each worker.)"""

    def __init__(self, fd: int):
        address = platform.map_page(fd, SIZE)
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False),
            "shape": (SIZE,),
            "typestr": "|u1",
            "version": 3,
        }
        weakref.finalize(self, platform.unmap, address, SIZE).atexit = False


class ControlPage:
    """A view of the control page behind `fd`, which the caller closes. Only the parent and the worker write."""

    def __init__(self, fd: int, for_reading: bool = False):
        shared: Any
        if fd <= _SEGMENTS:
            shared = platform.attach_segment(_SEGMENTS - fd, SIZE)
        elif for_reading:
            shared = mmap.mmap(fd, SIZE, access=mmap.ACCESS_READ)
        else:
            shared = np.asarray(_Map(fd))
        self._words = memoryview(shared)[:_WORDS].cast("Q")
        self._times = memoryview(shared)[:_WORDS].cast("d")
        flags = np.frombuffer(shared, dtype=np.uint8, offset=_WORDS)
        self.released_by_worker: Flags = flags[:LEASE_SLOTS]
        self.released_by_parent: Flags = flags[LEASE_SLOTS:]

    @property
    def started(self) -> int:
        return self._words[_STARTED]

    @started.setter
    def started(self, count: int) -> None:
        self._words[_STARTED] = count

    @property
    def began(self) -> float:
        """When the running task was begun, by `time.monotonic`, which all processes share; 0 while none runs."""
        return self._times[_BEGAN]

    @began.setter
    def began(self, moment: float) -> None:
        self._times[_BEGAN] = moment

    @property
    def pids(self) -> tuple[int, int]:
        """Parent and worker."""
        return self._words[_PARENT], self._words[_WORKER]

    @pids.setter
    def pids(self, pids: tuple[int, int]) -> None:
        self._words[_PARENT], self._words[_WORKER] = pids

    @property
    def owners(self) -> int:
        return max(1, self._words[_OWNERS])

    @owners.setter
    def owners(self, count: int) -> None:
        self._words[_OWNERS] = count

    @property
    def relief(self) -> tuple[int, int]:
        """The number of answers to this worker's calls for memory, and the bytes that other processes could give back then."""
        return self._words[_ANSWERS], self._words[_ELSEWHERE]

    def answer(self, elsewhere: int) -> None:
        """Answer a worker's call for memory with the bytes that other processes can give back."""
        # In this order: with a new number of answers, the worker never reads older bytes.
        self._words[_ELSEWHERE] = elsewhere
        self._words[_ANSWERS] += 1

    @property
    def arguments(self) -> Use:
        """The use of the parent's arena, with the worker's leases. For display only."""
        return Use(*self._words[_ARGUMENTS])

    @arguments.setter
    def arguments(self, use: Use) -> None:
        self._words[_ARGUMENTS] = memoryview(_USE.pack(*use)).cast("Q")

    @property
    def results(self) -> Use:
        """The use of the worker's arena, with the parent's leases."""
        return Use(*self._words[_RESULTS])

    @results.setter
    def results(self, use: Use) -> None:
        self._words[_RESULTS] = memoryview(_USE.pack(*use)).cast("Q")

    def interrupt(self, number: int) -> None:
        """Make the next SIGINT interrupt the task `number`, if that task runs then."""
        self._words[_INTERRUPTED] = number + 1

    def is_interrupted(self, number: int) -> bool:
        """Whether a SIGINT is meant for the task `number`."""
        return self._words[_INTERRUPTED] == number + 1

    @property
    def ending(self) -> bool:
        """Whether the parent wants the worker to end, whatever it does."""
        return bool(self._words[_ENDING])

    @ending.setter
    def ending(self, ending: bool) -> None:
        self._words[_ENDING] = ending

    def recall(self, first: int, end: int) -> None:
        """Tell the worker not to begin the tasks numbered ``[first, end)``. Neither number ever decreases."""
        # In this order, tasks that were recalled before and did not begin stay recalled, and no other task seems recalled.
        self._words[_RECALLED_FIRST] = first
        self._words[_RECALLED_END] = end

    def is_recalled(self, number: int) -> bool:
        """Whether the task `number` was taken back."""
        return number < self._words[_RECALLED_END] and number >= self._words[_RECALLED_FIRST]
