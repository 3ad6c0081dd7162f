"""`concurrent.futures` over a cluster's pool: `DaskPool.executor`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from multiprocessing import TimeoutError as NotInTime
from typing import Any, TypeVar

from arrowpool.call_methods import CallMethods
from arrowpool.iterables import checked_chunksize
from arrowpool.transport.error_packing import refusal_of

_T = TypeVar("_T")


class _Future(Future[_T]):
    """A future of a call of the pool. Can be cancelled until it has its result: a running task is interrupted."""

    def __init__(self, pool: CallMethods):
        super().__init__()
        self._of = pool
        #: Number of the call. Written once, in the thread that submits; read by threads that cancel after that.
        self.job = -1

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self._of._cancel(self.job)
        return cancelled


class ClusterExecutor(Executor):
    """A `concurrent.futures.Executor` whose calls are those of a pool. Ending it does not end the pool.

    Parameters
    ----------
    pool : CallMethods
        The pool.
    """

    def __init__(self, pool: CallMethods):
        self._pool = pool
        #: Guards the two below. Callbacks of the pool take it, finalizers do not.
        self._changing = threading.Condition()
        self._open: set[Future[Any]] = set()
        self._closed = False

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Start ``fn(*args, **kwargs)`` on the cluster."""
        future: _Future[_T] = _Future(self._pool)

        def done(value: _T) -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(value)

        def failed(error: BaseException) -> None:
            if future.set_running_or_notify_cancel():
                future.set_exception(refusal_of(error))

        with self._changing:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._open.add(future)
        future.add_done_callback(self._forget)
        try:
            result = self._pool.apply_async(fn, args, kwargs, callback=done, error_callback=failed)
        except BaseException:
            self._forget(future)
            raise
        future.job = result._job  # type: ignore[attr-defined]
        return future

    def _forget(self, future: Future[Any]) -> None:
        with self._changing:
            self._open.discard(future)
            self._changing.notify_all()

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """As `concurrent.futures.Executor.map`. The iterables are read at once, or with a `buffersize` as results are read."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        deadline = None if timeout is None else time.monotonic() + timeout
        items: Iterable[Any] = zip(*iterables, strict=False)
        if buffersize is None:
            items = list(items)
        results = self._pool.imap(_Spread(fn), items, checked_chunksize(chunksize))
        return _read(results, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. The pool goes on."""
        with self._changing:
            self._closed = True
            waiting = list(self._open)
        if cancel_futures:
            for future in waiting:
                future.cancel()
        with self._changing:
            while wait and self._open:
                self._changing.wait(0.1)


class _Spread:
    """Calls a function with the arguments of one item."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, item: tuple[Any, ...]) -> Any:
        return self._function(*item)


def _read(results: Any, deadline: float | None) -> Iterator[Any]:
    try:
        while True:
            try:
                value = results.next(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except StopIteration:
                return
            except NotInTime as late:
                raise TimeoutError("the result is not there in time") from late
            yield value
            del value
    finally:
        results.close()
