"""`arrowpool.explain()`: why the calls of this process's pools took as long as they did.

Each pool enters itself when it is made, and leaves its last figures when it ends. No pool, and no part of one, is kept alive.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from arrowpool.codecs.explain import is_small
from arrowpool.stats import Stats, show_bytes

#: Ended pools whose figures are kept until they are explained.
_KEPT = 10
#: Reasons for pickling that are named.
_REASONS = 3


class _HasStats(Protocol):
    def stats(self) -> Stats: ...


class _Entry:
    """One pool: the part of it that has the figures, and the figures that were explained."""

    def __init__(self, engine: _HasStats):
        self.pid = os.getpid()
        self.engine = weakref.ref(engine)
        #: Written by the threads that call `explain`, and read by them and at the end of the pool. Two at a time may explain the
        #: same calls.
        self.explained = Stats()


_numbers = itertools.count()
#: The open pools. Any thread adds, removes and reads a copy; each is one atomic operation. Finalizers do so too: no lock.
_open: dict[int, _Entry] = {}
#: The process of each ended pool, and what it did after the last explanation. The same.
_ended: deque[tuple[int, Stats]] = deque(maxlen=_KEPT)


def opened(engine: _HasStats) -> Callable[[], None]:
    """Enter a pool. The returned function removes it, at its end, and keeps its figures; it refers to the pool weakly."""
    number = next(_numbers)
    _open[number] = entry = _Entry(engine)

    def end() -> None:
        engine = entry.engine()
        if _open.pop(number, None) is None or engine is None:
            return
        with contextlib.suppress(Exception):  # at the end of Python, parts of the pool may be gone
            calls = engine.stats().since(entry.explained)
            if calls.tasks > 0 or calls.lost_tasks > 0:
                _ended.append((entry.pid, calls))

    return end


def explain(*, file: TextIO | None = None) -> None:
    """Print where the time of all pools' calls went, whether the pools paid, and what would be faster.

    For the calls since the last explanation, of all pools and executors of this process, also of some that have ended. The
    sentences are those of ``pool.stats().verdict``. What was pickled instead of shared is named, with the reason.

    Parameters
    ----------
    file : file, optional
        Where to print. By default standard output.

    Examples
    --------
    >>> import io
    >>> import arrowpool
    >>> with arrowpool.Pool(2) as pool:
    ...     values = pool.map(abs, [-1, -2, -3])
    >>> text = io.StringIO()
    >>> arrowpool.explain(file=text)
    >>> "A pool of 2 workers: In " in text.getvalue()
    True
    """
    said = False
    for calls in _take():
        said = True
        print(f"A pool of {calls.size} worker{'s' if calls.size != 1 else ''}: {calls.verdict}", file=file)
        for one in [one for one in calls.pickled if not is_small(one.why)][:_REASONS]:
            print(f"Pickled, not shared: {show_bytes(one.nbytes)} in {one.count:,} objects: {one.why}.", file=file)
    if not said:
        print("No pool has run a task since the last explanation.", file=file)


def _take() -> Iterator[Stats]:
    """The calls of each pool since the last explanation."""
    pid = os.getpid()
    with contextlib.suppress(IndexError):
        while True:
            process, calls = _ended.popleft()
            if process == pid:  # otherwise the parent's, from before this process was forked
                yield calls
    for entry in list(_open.values()):
        engine = entry.engine()
        if entry.pid == pid and engine is not None:
            stats = engine.stats()
            calls, entry.explained = stats.since(entry.explained), stats
            if calls.tasks > 0 or calls.lost_tasks > 0:
                yield calls
