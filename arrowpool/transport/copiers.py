"""Threads that share large copies. Not threads of `concurrent.futures`, which take no work during Python's exit."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from arrowpool.threads import Service, current


class _Batch:
    """Copies that several threads make together: the caller's, and helpers that are free."""

    def __init__(self, copies: Iterable[Callable[[], Any]]):
        #: Copies that no thread has begun. Any thread of the batch takes out: `popleft` is one atomic operation of a deque, so one
        #: thread gets each copy.
        self._left = deque(copies)
        #: Number of copies. Not changed after construction.
        self._count = len(self._left)
        #: For each copy that has ended, None or its exception. Any thread of the batch puts; the caller's thread gets, and so sees
        #: all that the copy has written.
        self._made: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def help(self) -> None:
        """Make copies until there are no more to begin."""
        while True:
            try:
                copy = self._left.popleft()
            except IndexError:
                return
            error: BaseException | None = None
            try:
                copy()
            except BaseException as raised:
                error = raised
            self._made.put(error)

    def wait(self) -> None:
        """Wait for all copies, also after one has failed: the caller then frees memory that the others would write to.

        Raises
        ------
        BaseException
            The exception of the copy that failed first.
        """
        errors = [self._made.get() for _ in range(self._count)]
        for error in errors:
            if error is not None:
                raise error


class _Helper(Service):
    """Takes batches until it gets None. It counts as a part of the service that started it, which waits for its copies."""

    def __init__(self, batches: queue.SimpleQueue[_Batch | None]):
        super().__init__("arrowpool-copy", current())
        self._batches = batches

    def run(self) -> None:
        while True:
            batch = self._batches.get()
            if batch is None:
                return
            batch.help()
            del batch  # its copies refer to the user's memory


class Copiers:
    """Threads that copy together with the caller's. The first copies start them.

    `run` is called by one thread at a time, the owner of the arena. `close` is called by any thread, after the last `run`.

    Parameters
    ----------
    threads : int
        Number of threads, with the caller's.
    """

    def __init__(self, threads: int):
        self._wanted = threads - 1
        #: Threads that were started. Written and read by the threads of `run` and `close`, one after the other.
        self._helpers: list[_Helper] = []
        #: Each batch once for each helper; None ends a helper. The threads of `run` and `close` put, the helpers get.
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()

    def run(self, copies: Iterable[Callable[[], Any]]) -> None:
        """Make all copies; return when all have ended.

        Raises
        ------
        BaseException
            The exception of the copy that failed first.
        """
        # If no helper can start, the caller copies alone.
        while len(self._helpers) < self._wanted and (helper := _Helper(self._batches)).try_start():
            self._helpers.append(helper)
        batch = _Batch(copies)
        for _ in self._helpers:
            self._batches.put(batch)
        batch.help()
        batch.wait()

    def close(self) -> None:
        """End the threads."""
        for _ in self._helpers:
            self._batches.put(None)
        for helper in self._helpers:
            helper.join()
        self._helpers.clear()
