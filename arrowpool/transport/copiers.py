"""Threads that share large copies. Not threads of `concurrent.futures`, which take no work during Python's exit."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from arrowpool.threads import Service, current


class _Batch:
    """Copies that several threads make together."""

    def __init__(self, copies: Iterable[Callable[[], Any]]):
        self._left = deque(copies)
        self._count = len(self._left)
        #: For each copy that was made, None or its exception. Any thread of the batch puts, the caller gets.
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
        """Wait for all copies, even when one has failed: no thread may write to memory that the caller then frees."""
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
    """A number of threads, the caller's among them, that copy together. The others are started by the first copies.

    Parameters
    ----------
    threads : int
        Number of threads.
    """

    def __init__(self, threads: int):
        self._wanted = threads - 1
        self._helpers: list[_Helper] = []
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()

    def run(self, copies: Iterable[Callable[[], Any]]) -> None:
        """Make all copies; return when all have ended.

        Raises
        ------
        Exception
            The exception of the first copy that failed.
        """
        # With no helper that can start, the caller copies alone.
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
