"""The control page of one worker: a few shared words and one release flag per lease, in both directions.

Parent and worker map the same small file. The only operations are loads and stores of one byte or one aligned word, so there is no
lock that a killed process could leave held.

==================  ==================  ===============  ========================================================================
what                written by          read by          meaning
==================  ==================  ===============  ========================================================================
started             worker              parent           number of tasks that this worker has begun, ever
began               worker              parent           when the running task, or its running items, were begun, by the monotonic clock; 0 while none runs
task_began          worker              parent           when the running task was begun, by the same clock; of the last task while none runs
running             worker              parent           position and number of the items of a chunk that run now; 0 items: not known
running_key         worker              others           the key of the group that runs now
recalled            feeder              worker           the worker begins no task below this number
interrupted         feeder              worker           1 + number of the task that the next SIGINT is meant for
ending              supervisor          worker           not 0: SIGTERM comes from the parent, and ends this worker
pids                launching thread    others           parent and worker
owners              launching thread    worker           number of processes of this pool that have an arena
cpu                 worker              parent           seconds that the worker has computed since it was ready, in all of its threads
delayed             worker              parent           seconds that the worker's main thread was ready to run since then, and had no processor
relief              feeder              worker           answers to its calls for memory, and bytes that others had to give back then
announcements       feeder              others           the function and items of the frames that were sent last
arguments           feeder              others           the use of the parent's arena, with the leases of this worker
results             worker              parent, others   the use of this worker's arena, with the leases of the parent
released_by_worker  worker sets,        feeder           1: the worker's lease in this slot of the parent's arena is over
                    feeder clears
released_by_parent  parent sets,        worker           1: the parent's lease in this slot of the worker's arena is over
                    worker clears
==================  ==================  ===============  ========================================================================

"Worker" is the worker's main thread. "Feeder", "supervisor" and the launching thread are threads of the parent; the last one is the
thread that makes the pool, later the supervisor. "Others" are processes that show the page (`top`).

Why that is safe
----------------
- A word has one writer. Its readers see the old value or the new one, never a part of either, on every processor that aligns words.
- A flag is set by any thread of the consumer, when a lease ends; once, since a slot belongs to one lease at a time. It is cleared
  by the owner, which gives the slot to another lease only after that.
- A use is four words. A reader may see words of two moments: it shows them, or estimates with them.
- Only `answer` depends on the order of two stores, and says so.

None of this depends on the interpreter lock.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arrowpool.memory import platform
from arrowpool.memory.announcements import Announcements
from arrowpool.memory.running_key import RunningKey
from arrowpool.memory.views import page_view
from arrowpool.tuning import LEASE_SLOTS

_WORDS = platform.PAGE
SIZE = _WORDS + 2 * LEASE_SLOTS
#: Kept where they are: `top` also shows the workers of programs that have another version of this package.
_STARTED, _RECALLED, _INTERRUPTED, _BEGAN, _PARENT, _WORKER, _OWNERS = 0, 2, 3, 4, 5, 6, 7
_ARGUMENTS, _RESULTS = slice(8, 12), slice(12, 16)
_ANSWERS, _ELSEWHERE, _ENDING, _CPU, _RUNNING, _DELAYED, _TASK_BEGAN = 16, 17, 18, 19, 20, 21, 22
_USE = struct.Struct("QQQQ")
#: A "descriptor" of at most this value is the number of a System V segment, counted backwards.
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


class ControlPage:
    """A view of the control page behind `fd`, which the caller closes. Only the parent and the worker write.

    Parameters
    ----------
    fd : int
        As returned by `create`.
    for_reading : bool
        Whether writing raises.
    """

    def __init__(self, fd: int, for_reading: bool = False):
        shared: Any
        if fd <= _SEGMENTS:
            shared = platform.attach_segment(_SEGMENTS - fd, SIZE)
        elif for_reading:
            shared = mmap.mmap(fd, SIZE, access=mmap.ACCESS_READ)
        else:
            shared = page_view(fd, SIZE)
        #: The page as words and as floats, for the threads in the table above. The views are not changed after construction.
        self._words = memoryview(shared)[:_WORDS].cast("Q")
        self._times = memoryview(shared)[:_WORDS].cast("d")
        self.announcements = Announcements(memoryview(shared)[:_WORDS])
        self.running_key = RunningKey(memoryview(shared)[:_WORDS])
        flags = np.frombuffer(shared, dtype=np.uint8, offset=_WORDS)
        self.released_by_worker: Flags = flags[:LEASE_SLOTS]
        self.released_by_parent: Flags = flags[LEASE_SLOTS:]

    @property
    def started(self) -> int:
        """Number of tasks that the worker has begun."""
        return self._words[_STARTED]

    @started.setter
    def started(self, count: int) -> None:
        self._words[_STARTED] = count

    @property
    def began(self) -> float:
        """When the running task, or its running items, were begun, by `time.monotonic`, which all processes share; 0 while none runs."""
        return self._times[_BEGAN]

    def begin_task(self, moment: float) -> None:
        """Note that a task begins at this moment."""
        self._times[_TASK_BEGAN] = moment
        self._times[_BEGAN] = moment

    def end_task(self) -> None:
        """Note that no task runs."""
        self._times[_BEGAN] = 0.0

    @property
    def task_began(self) -> float:
        """When the running task was begun, by `time.monotonic`; 0 while none runs."""
        # In this order: a worker that begins another task meanwhile has written the moment of that.
        return self._times[_TASK_BEGAN] if self._times[_BEGAN] else 0.0

    @property
    def cpu(self) -> float:
        """Seconds that the worker has computed since it was ready, in all of its threads. Written at the end of each frame."""
        return self._times[_CPU]

    @cpu.setter
    def cpu(self, seconds: float) -> None:
        self._times[_CPU] = seconds

    @property
    def running(self) -> range:
        """The positions, in the running task, of the items that run now; empty when that is not known."""
        count, at = divmod(self._words[_RUNNING], 1 << 32)
        return range(at, at + count)

    def run_items(self, at: int, count: int) -> None:
        """Note that the items of these positions begin to run now; 0 items for none."""
        self._words[_RUNNING] = (count << 32) + at
        if count:
            self._times[_BEGAN] = time.monotonic()

    def run_group(self, at: int, key: object) -> None:
        """Note that the group at this position begins to run now."""
        self.running_key.write(self._words[_STARTED] - 1, at, key)
        self.run_items(at, 1)

    @property
    def delayed(self) -> float:
        """Seconds for which the worker's main thread was ready to run since it took tasks, and had no processor."""
        return self._times[_DELAYED]

    @delayed.setter
    def delayed(self, seconds: float) -> None:
        self._times[_DELAYED] = seconds

    @property
    def pids(self) -> tuple[int, int]:
        """Parent and worker."""
        return self._words[_PARENT], self._words[_WORKER]

    @pids.setter
    def pids(self, pids: tuple[int, int]) -> None:
        self._words[_PARENT], self._words[_WORKER] = pids

    @property
    def owners(self) -> int:
        """Number of processes of the pool that have an arena."""
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
        # In this order: a worker that reads the new number of answers does not read older bytes. A processor that reorders
        # stores may break that: the worker then waits too long or too short for memory, at most a second.
        self._words[_ELSEWHERE] = elsewhere
        self._words[_ANSWERS] += 1

    @property
    def arguments(self) -> Use:
        """The use of the parent's arena, with the worker's leases. Only shown."""
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

    def recall(self, end: int) -> None:
        """Recall all tasks numbered below `end`: the worker begins none of them. `end` never decreases.

        Race: the parent recalls tasks while the worker begins task n. All tasks below n have begun before, or were skipped.

        1. The worker stores n + 1 in `started`.
        2. The worker loads `end`, in `is_recalled`.
        A. The parent stores `end`, above n.

        Verdict: if A comes before 2, the worker skips n, otherwise it begins n. Either is right: the reply says which, and
        `engine.recall` says how the parent decides before the reply. There is one word, so no reader sees half of a change.
        """
        self._words[_RECALLED] = end

    def is_recalled(self, number: int) -> bool:
        """Whether the task `number` is recalled. The worker asks after it has stored `started`; see `recall`."""
        return number < self._words[_RECALLED]
