"""A user's iterator, drawn in a thread of its own: one that is slow, or blocks, holds up its own call and nothing else.

    feeder -- ask(n) --> source, which draws up to n tasks -- drawn(last) --> feeder, which takes and encodes them

The iterator may change at its next step what it gave at the last one (``buffer[:] = row; yield buffer``), and what is called
for it. So it goes on only when the feeder asks, and the feeder asks when what was given is encoded. Plain values cannot
change, nor functions without data: of these, several are drawn ahead. Whatever is drawn is there for the feeder at once, and so a generator may wait for results of what it gave.

Guarantees: after `close`, nothing more is asked of the iterator, and it is let go of as soon as it returns; nobody waits for
that. The thread ends with the iterator or with `close`.
"""

from __future__ import annotations

import itertools
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import _helper_reraises_exception, mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from arrowpool.threads import Service, current
from arrowpool.transport.protocol import is_plain
from arrowpool.transport.resolution import is_fixed

#: Iterating over these runs no code but Python's and NumPy's; nor does iterating over the containers of pandas and polars below.
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


class Source(Service):
    """An iterator over tasks that the feeder takes from when there are some.

    Parameters
    ----------
    tasks : iterator
        What to draw from: ``(job, index, function, args, kwds)``.
    drawn : callable
        Called, in the source's thread, when there are tasks where the feeder found none; with whether nothing more is drawn
        now.

    Notes
    -----
    A source is a part of the service in whose thread it is made, the feeder: `drawn` may do the feeder's work.
    """

    def __init__(self, tasks: Iterator[Any], drawn: Callable[[bool], Any]):
        super().__init__("arrowpool-source", current())
        self._tasks: Iterator[Any] | None = tasks
        self._drawn = drawn
        #: How many to draw; 0 to end.
        self._asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        #: Drawn, not yet taken: tasks, and the exception that came instead of one. The thread appends, the feeder takes.
        self._there: deque[Any] = deque()
        #: Whether the thread is drawing. The feeder sets it, the thread clears it before it appends its last task.
        self._draws = False
        #: Whether the task that was drawn last could change if the iterator went on. The thread's.
        self._ends_open = False
        #: Whether the feeder knows that there are tasks. It clears this, and then looks once more; the thread sets it.
        self._told = False
        self._closed = False
        #: How many were asked for the last time. The feeder's.
        self._count = 0

    def __repr__(self) -> str:
        return f"<Source drawn: {len(self._there)}{' | draws' if self._draws else ''}{' | closed' if self._closed else ''}>"

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        """The next task; only when there is one."""
        task = self._there.popleft()
        if isinstance(task, BaseException):
            if isinstance(task, StopIteration):
                self._there.append(task)  # as every iterator, it stays at its end
            raise task
        return task

    def count(self) -> int:
        """How many tasks there are, the end counting as one."""
        return len(self._there)

    def has_some(self) -> bool:
        """Whether there are tasks; if not, `drawn` will be called when there are."""
        if self._there:
            return True
        self._told = False
        return bool(self._there)

    def may_go_on(self) -> bool:
        """Whether to ask for more, all that was taken being encoded."""
        if self._draws:
            return False
        return not self._there or (not self._ends_open and len(self._there) <= self._count // 2)

    def ask(self, count: int) -> None:
        """Draw up to so many tasks."""
        self._count = count
        self._draws = True
        self._asked.put(count)

    def close(self) -> None:
        """Draw no more. From the feeder's thread; the source's may be in the user's code for as long as that likes."""
        self._closed = True
        self._drawn = bool
        self._there.clear()
        self._asked.put(0)

    def run(self) -> None:
        try:
            while (count := self._asked.get()) and self._draw(count):
                pass
        finally:
            self._tasks = None

    def _draw(self, count: int) -> bool:
        """Draw up to so many, none behind one that could change; False at the end."""
        tasks = self._tasks
        assert tasks is not None
        while not self._closed:
            count -= 1
            try:
                task = next(tasks)
            except StopIteration as end:
                self._give(end.with_traceback(None), open_ended=False, last=True)
                return False
            except BaseException as error:
                # Only what is no Exception gets here out of a user's iterable.
                task = error
            if self._closed:
                return False
            open_ended = isinstance(task, BaseException) or not _is_frozen(task)
            last = open_ended or not count
            self._give(task, open_ended, last)
            if last:
                return True
            del task
        return False

    def _give(self, task: Any, open_ended: bool, last: bool) -> None:
        self._ends_open = open_ended
        if last:
            # Before it is there: who takes it asks for the next one, and nobody else would.
            self._draws = False
        self._there.append(task)
        if not self._told:
            self._told = True
            self._drawn(last)


def tasks_of(job: int, function: Any, iterable: Iterable[Any], length: int | None = None) -> Iterator[Any]:
    """The tasks of an iterable; what it raises is a task that raises it.

    As the standard library's `_guarded_task_generation`, which would keep the pool alive. Where it is known how many there
    will be, so many come, also of an iterable that raises or ends before: nobody waits for those that are missing.
    """
    index = 0
    try:
        # Not enumerated: an item must not be kept alive while the next one is waited for.
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
    """Whether iterating may run the user's code, which may block, or change what it gave before."""
    kind = type(iterable)
    if kind in _INERT:
        return False
    module = kind.__module__  # of a proxy, it may be anything
    return type(module) is not str or (module.partition(".")[0], kind.__name__) not in _INERT_NAMES


def _is_frozen(task: Any) -> bool:
    """Whether nothing in a task's arguments can change, nor its function."""
    _, _, function, args, _ = task
    if function is mapstar or function is starmapstar:
        function, args = args[0]
    return is_plain(args) and is_fixed(function)
