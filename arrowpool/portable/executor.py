"""The executor where there is no shared memory: `concurrent.futures.ProcessPoolExecutor` with arrowpool's arguments and methods."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import operator
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import AbstractContextManager
from multiprocessing.pool import mapstar  # type: ignore[attr-defined]
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from arrowpool import portable
from arrowpool.arguments import check, default_size, integer
from arrowpool.chunks import ahead, applied_to, batched, check_sizes
from arrowpool.engine.calls import Call
from arrowpool.engine.item_names import ItemNames
from arrowpool.errors import UnsupportedError
from arrowpool.health import Health
from arrowpool.portable.arguments import most_workers, no_trace, refuse, warn_once
from arrowpool.portable.outcomes import outcome_of_reply
from arrowpool.portable.parcels import Parcel
from arrowpool.portable.sharing import sharing
from arrowpool.portable.tasks import Reply, TaskParcel, run_chunk, run_directly
from arrowpool.portable.workers import begin
from arrowpool.stats import Stats
from arrowpool.stats_rows import Pickled
from arrowpool.transport.protocol import Star

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ProcessPoolExecutor(futures.ProcessPoolExecutor):
    """The standard library's executor. Functions and results that pickle cannot send are sent by value; `map` takes `buffersize`.

    Parameters
    ----------
    max_workers, mp_context, initializer, initargs, max_tasks_per_child
        As for `concurrent.futures.ProcessPoolExecutor`.
    max_bytes, spill_dir, retries, task_timeout
        Raise `UnsupportedError` unless they have their default.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_bytes: SupportsIndex | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        retries: int = 0,
        task_timeout: float | None = None,
    ):
        check(1, initializer, None, integer(max_bytes), retries, task_timeout)
        refuse(max_bytes=max_bytes, spill_dir=spill_dir, retries=retries, task_timeout=task_timeout)
        extras: dict[str, Any] = {}
        if max_tasks_per_child is not None:
            if sys.version_info < (3, 11):
                raise UnsupportedError(f"max_tasks_per_child= needs Python 3.11 here ({portable.why()})")
            extras["max_tasks_per_child"] = max_tasks_per_child
            mp_context = mp_context or multiprocessing.get_context("spawn")
        parcel = None if initializer is None else Parcel((initializer, tuple(initargs)))
        if max_workers is None:
            max_workers = most_workers(default_size())
        super().__init__(max_workers, mp_context, begin, (parcel,), **extras)
        warn_once()
        #: The parcels of the tasks that were answered: number and bytes. Changed with the lock held, in the thread that sets futures.
        self._answers = self._sent_bytes = 0
        self._counting = threading.Lock()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Start ``fn(*args, **kwargs)`` in a worker. Does not block."""
        future: Future[_T] = self._submit(TaskParcel(fn, Star.CALL, (args, kwargs)), run_directly)
        return future

    def _submit(self, parcel: TaskParcel, run: Callable[..., Any], *how: Any) -> Any:
        future: Any = super().submit(run, parcel, *how)
        executor = weakref.ref(self)

        def count(_: Any) -> None:
            alive = executor()
            if alive is not None and not future.cancelled():
                with alive._counting:
                    alive._answers += 1
                    alive._sent_bytes += parcel.nbytes

        future.add_done_callback(count)
        return future

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Return an iterator over the results of `fn`, called with one item of each iterable, in the order of the items."""
        check_sizes(chunksize, buffersize)
        until = None if timeout is None else time.monotonic() + timeout
        apply, rest = applied_to(iterables)
        star = Star.MAP if apply is mapstar else Star.STARMAP
        total = None
        if buffersize is None:
            items = list(rest)
            rest, total = iter(items), len(items)
        numbered = zip(itertools.count(0, chunksize), batched(rest, chunksize))

        def calls(executor: ProcessPoolExecutor, count: int | None) -> Iterator[_Chunk]:
            for first, chunk in itertools.islice(numbered, count):
                names = ItemNames(chunksize, total, first)
                future = executor._submit(TaskParcel(fn, star, chunk, names), run_chunk, len(chunk))
                yield _Chunk(future, Call(iter(()), None, names=names, function=fn))

        return ahead(self, calls, buffersize, until)

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None and issubclass(error[0], KeyboardInterrupt):
            self.terminate_workers()  # they ignore Ctrl-C, and go on
        super().__exit__(*error)

    def share(self, obj: _T) -> AbstractContextManager[_T]:
        """Give the object itself: there is no shared memory, and it travels with each task."""
        return sharing(obj, self._check_running)

    def trace(self, path: Any = None, *, max_events: Any = None) -> Any:
        """Raise `UnsupportedError`: these workers do not say what they do."""
        raise no_trace("executor")

    def terminate_workers(self) -> None:
        """End the workers with SIGTERM and shut down, without waiting. As in Python 3.14, in every version."""
        self._end_workers(operator.methodcaller("terminate"))

    def kill_workers(self) -> None:
        """As `terminate_workers`, with SIGKILL."""
        self._end_workers(operator.methodcaller("kill"))

    def _end_workers(self, end: Callable[[Any], None]) -> None:
        workers = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError, ValueError):  # it has ended, or is closed
                end(worker)

    def _check_running(self) -> None:
        if self._shutdown_thread:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def stats(self) -> Stats:
        """Return what this executor has done so far, without the bytes of results."""
        pickled = (Pickled(portable.why(), self._answers, self._sent_bytes),) if self._answers else ()
        return Stats(tasks=self._answers, piped_bytes=self._sent_bytes, pickled=pickled)

    def health(self) -> Health:
        """Return whether this executor takes calls. What its workers do is not known."""
        inner: Any = self
        return Health(
            state="closed" if self._shutdown_thread else "running",
            size=inner._max_workers,
            alive=len(inner._processes or {}),
            calls=len(inner._pending_work_items),
        )


class _Chunk:
    """A chunk of `map` on its way: as much of a future as `chunks.ahead` needs. Its errors say which item they belong to."""

    def __init__(self, future: Future[Reply], call: Call):
        self._future = future
        self._call = call

    def result(self, timeout: float | None = None) -> list[Any]:
        success, outcome = outcome_of_reply(self._call, 0, self._future.result(timeout))
        if success:
            return outcome  # type: ignore[no-any-return]
        try:
            raise outcome
        finally:
            del outcome  # which refers to this frame

    def cancel(self) -> bool:
        return self._future.cancel()


__all__ = ["ProcessPoolExecutor"]
