"""A user's iterator, drawn in a thread of its own: an iterator that is slow or blocks delays its own call only.

    feeder -- ask(n) --> source, which draws up to n tasks -- drawn(last) --> feeder, which takes and encodes them

The next step of an iterator may change its last item (``buffer[:] = row; yield buffer``) and the data of the function. So the
iterator goes on only when the feeder asks, and the feeder asks when the last item is encoded. Plain values and functions without
data cannot change: several of these are drawn ahead. Each drawn task is available to the feeder at once, so a generator may wait
for results of its own items.

Guarantees: after `close`, the iterator is not advanced again, and is released when its current step returns. No thread waits for
that. The source's thread ends with the iterator or with `close`.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import _helper_reraises_exception, mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, TypeAlias

import numpy as np

from arrowpool.engine.recorder import Activity, Recorder
from arrowpool.threads import Service, current
from arrowpool.transport.protocol import is_plain
from arrowpool.transport.resolution import is_fixed

#: Iterating over these types, and over the types of pandas and polars below, runs no user code.
_INERT = frozenset(
    (
        *(list, tuple, range, str, bytes, bytearray, dict, set, frozenset, deque, np.ndarray),
        *map(type, ({}.keys(), {}.values(), {}.items(), iter([]), iter(()), iter(range(0)), iter({}), iter(set()))),
    )
)
_INERT_NAMES = frozenset(
    (
        *(("pandas", name) for name in ("Series", "DataFrame", "Index", "RangeIndex", "DatetimeIndex")),
        ("polars", "Series"),
    )
)


#: A task that a source has drawn, or the exception that came instead (StopIteration at the end); whether it stays the same when
#: the iterator goes on; and the number of the request that it ends, counted from 1, or 0 when more is drawn for that request. All
#: in one object: if the acting thread saw the end of the request before the task, it would let the iterator go on, and change the
#: task.
_Drawn: TypeAlias = tuple[Any, bool, int]


class Source(Service):
    """An iterator over the tasks of one call. The acting thread (see `mailbox`) asks for tasks and takes them.

    A part of the service in whose thread it is made, the feeder: `drawn` may do the feeder's work.

    Parameters
    ----------
    tasks : iterator
        What to draw from: ``(job, index, function, args, kwds)``.
    drawn : callable
        Called in the source's thread when there are tasks and the acting thread has found none. Its argument says whether nothing
        more is drawn now.
    took : callable
        Called in the source's thread with the seconds that the iterator took for a request.
    recorder : Recorder
        Notes each step of the iterator in a trace.
    """

    def __init__(
        self, tasks: Iterator[Any], drawn: Callable[[bool], Any], took: Callable[[float], None], recorder: Recorder
    ):
        super().__init__("arrowpool-source", current())
        #: None after the end of the source's thread, which alone reads and writes this.
        self._tasks: Iterator[Any] | None = tasks
        #: None after `close`, so that a thread that blocks in user code keeps no part of the pool alive. The acting thread
        #: writes, the source's thread reads. Safe: a call after `close` finds nothing to take.
        self._drawn: Callable[[bool], Any] | None = drawn
        self._took = took
        #: Seconds in which `drawn` did the feeder's work, of the present request. For the source's thread only.
        self._elsewhere = 0.0
        self._recorder = recorder
        #: How many to draw; 0 to end. The acting thread puts, the source's thread gets.
        self._asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        #: Drawn and not taken. The source's thread appends. The acting thread takes, looks at the last one, and puts the end back
        #: when that is taken. Each is one atomic operation.
        self._there: deque[_Drawn] = deque()
        #: Number of requests for tasks; and of those of which all tasks were taken. For the acting thread only.
        self._requests = 0
        self._requests_done = 0
        #: Whether `drawn` was called, or need not be. The acting thread clears it, and looks at `_there` after that. The source's
        #: thread reads and sets it after it has appended. Safe: one of the two sees the other's write, so no task is overlooked.
        self._told = False
        #: Written by the acting thread, only to True; read by the source's thread.
        self._closed = False
        #: How many tasks were asked for the last time. For the acting thread only.
        self._count = 0

    def __repr__(self) -> str:
        asked = " | asked" if self._requests > self._requests_done else ""
        return f"<Source drawn: {len(self._there)}{asked}{' | closed' if self._closed else ''}>"

    # The acting thread

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        """The next task. Only called when there is one."""
        drawn = self._there.popleft()
        task, _, request = drawn
        if request:
            self._requests_done = request
        if isinstance(task, BaseException):
            if isinstance(task, StopIteration):
                self._there.append(drawn)  # as in every iterator, the end stays
            raise task
        return task

    def count(self) -> int:
        """Number of tasks that are there. The end counts as one."""
        return len(self._there)

    def has_some(self) -> bool:
        """Whether there are tasks. If not, `drawn` is called when there are."""
        if self._there:
            return True
        self._told = False
        return bool(self._there)

    def may_go_on(self) -> bool:
        """Whether the iterator may go on, if all tasks that were taken are encoded.

        Not while it is drawn from. Nor while a task that could change is there. Plain values are drawn ahead.
        """
        if self._requests_done == self._requests:
            return True
        if not self._there:
            return False
        _, is_fixed, request = self._there[-1]
        return request == self._requests and is_fixed and len(self._there) <= self._count // 2

    def ask(self, count: int) -> None:
        """Have up to `count` tasks drawn."""
        self._count = count
        self._requests += 1
        self._asked.put(count)

    def close(self) -> None:
        """Draw no more. The source's thread may stay in the user's code for any time; it ends after that."""
        self._closed = True
        self._drawn = None
        self._there.clear()
        self._asked.put(0)

    # The source's thread

    def run(self) -> None:
        try:
            for request in itertools.count(1):
                count = self._asked.get()
                if not count:
                    break
                # For each request, not for each of many items.
                began, self._elsewhere = time.perf_counter(), 0.0
                goes_on = self._draw(count, request)
                self._took(time.perf_counter() - began - self._elsewhere)
                if not goes_on:
                    break
        finally:
            self._tasks = None

    def _draw(self, count: int, request: int) -> bool:
        """Draw up to `count` tasks for a request, none after one that could change. Return False at the end."""
        tasks = self._tasks
        assert tasks is not None
        recorder = self._recorder
        while not self._closed:
            count -= 1
            began = recorder.begin()
            try:
                task = next(tasks)
            except StopIteration as end:
                self._give((end.with_traceback(None), False, request))
                return False
            except BaseException as error:
                # Not an Exception: `tasks_of` makes tasks of those.
                task = error
            if began:
                recorder.note(Activity.DRAW, began)
            if self._closed:
                return False
            fixed = not isinstance(task, BaseException) and _is_frozen(task)
            last = not fixed or not count
            self._give((task, fixed, request if last else 0))
            if last:
                return True
            del task
        return False

    def _give(self, drawn: _Drawn) -> None:
        self._there.append(drawn)
        if not self._told:
            self._told = True
            tell = self._drawn
            if tell is not None:
                began = time.perf_counter()
                tell(bool(drawn[2]))
                self._elsewhere += time.perf_counter() - began


def tasks_of(job: int, function: Any, iterable: Iterable[Any], length: int | None = None) -> Iterator[Any]:
    """The tasks of an iterable. An exception of the iterable becomes a task that raises it.

    As the standard library's `_guarded_task_generation`, which would keep the pool alive. With a `length`, exactly so many tasks
    come, even if the iterable raises or ends before: no call waits for missing ones.
    """
    index = 0
    try:
        # Not with `enumerate`, which would keep an item alive while the next one is made.
        for item in itertools.islice(iterable, length):
            yield job, index, function, (item,), {}
            del item
            index += 1
        if length is not None and index < length:
            raise ValueError("the iterable has fewer items than its len() says")
    except Exception as error:
        for missing in range(index, index + 1 if length is None else length):
            yield job, missing, _helper_reraises_exception, (error,), {}


def runs_code(iterable: Any) -> bool:
    """Whether iterating may run user code, which may block, or change earlier items."""
    kind = type(iterable)
    if kind in _INERT:
        return False
    module = kind.__module__  # the type of a proxy may have any object here
    return type(module) is not str or (module.partition(".")[0], kind.__name__) not in _INERT_NAMES


def _is_frozen(task: Any) -> bool:
    """Whether neither the arguments of a task nor its function can change."""
    _, _, function, args, _ = task
    if function is mapstar or function is starmapstar:
        function, args = args[0]
    return is_plain(args) and is_fixed(function)
