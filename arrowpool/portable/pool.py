"""The pool where there is no shared memory: `multiprocessing.pool.Pool` with the methods of `arrowpool.pool.ArrowPool`.

Everything is pickled. Functions, methods and results that pickle cannot send are sent by value. See `relay` for what differs from the
standard library's pool.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing import pool as stdlib
from multiprocessing import util
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE, _PoolCache  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from arrowpool.arguments import check, default_size, integer
from arrowpool.engine.imap import IMapIterator, IMapUnorderedIterator
from arrowpool.engine.results import ApplyResult, AsyncResult, MapResult
from arrowpool.errors import ForkedPoolError, said
from arrowpool.frame_methods import FrameMethods, GroupIterator
from arrowpool.guard import leave_if_unguarded
from arrowpool.health import Health
from arrowpool.interrupts import check_process
from arrowpool.portable.arguments import most_workers, no_trace, refuse, warn_once
from arrowpool.portable.parcels import Parcel
from arrowpool.portable.queues import Queue
from arrowpool.portable.relay import Relay
from arrowpool.portable.sharing import sharing
from arrowpool.portable.workers import begin_in_pool
from arrowpool.stats import Stats

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ApplyResult",
    "ArrowPool",
    "AsyncResult",
    "GroupIterator",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
]

_T = TypeVar("_T")


class ArrowPool(FrameMethods):
    """A pool of worker processes. The methods are those of `arrowpool.pool.ArrowPool`.

    Parameters
    ----------
    processes, initializer, initargs, maxtasksperchild, context
        As for `multiprocessing.pool.Pool`.
    max_bytes, spill_dir, retries, task_timeout
        Raise `UnsupportedError` unless they have their default.

    Raises
    ------
    ValueError, TypeError
        As for `multiprocessing.pool.Pool`.
    UnsupportedError
        See above.
    """

    #: A class attribute, so that __del__ and __repr__ find it even if the arguments do not fit __init__.
    _state = INIT
    _wrap_exception = True

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        max_bytes: SupportsIndex | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        retries: int = 0,
        task_timeout: float | None = None,
    ):
        self._pool: list[BaseProcess] = []
        self._state = INIT
        self._pid = os.getpid()
        self._ctx = context or multiprocessing.get_context()
        leave_if_unguarded(self._ctx.get_start_method())
        self._processes = most_workers(default_size()) if processes is None else processes
        check(self._processes, initializer, maxtasksperchild, integer(max_bytes), retries, task_timeout)
        refuse(max_bytes=max_bytes, spill_dir=spill_dir, retries=retries, task_timeout=task_timeout)
        warn_once()
        self._shares = {}
        self._maxtasksperchild = maxtasksperchild
        self._initializer = begin_in_pool
        self._initargs = (None if initializer is None else Parcel((initializer, tuple(initargs))),)
        self._inqueue, self._outqueue = Queue(ctx=self._ctx), Queue(ctx=self._ctx)
        self._taskqueue: Any = queue.SimpleQueue()
        self._change_notifier = self._ctx.SimpleQueue()
        self._cache = _PoolCache(notifier=self._change_notifier)
        relay = Relay(self._pool, self._inqueue, self._outqueue, self._taskqueue, self._cache, self._change_notifier)
        self._engine = relay  # type: ignore[assignment]
        self._end = relay.end
        self._terminate = util.Finalize(self, relay.end, exitpriority=15)
        try:
            self._repopulate_pool()  # type: ignore[attr-defined]
            how = (self._initializer, self._initargs, maxtasksperchild, True)
            started = (self._ctx, self.Process, self._processes, self._pool, self._inqueue, self._outqueue, *how)
            library: Any = stdlib.Pool
            relay.start(
                partial(library._repopulate_pool_static, *started),
                partial(_wait, self._pool, self._change_notifier),
                workers_end=maxtasksperchild is not None,
            )
        except BaseException:
            self._terminate()
            raise
        self._worker_handler, self._task_handler, self._result_handler = relay.threads
        self._state = RUN

    def __enter__(self) -> Self:
        check_process(self._pid)
        stdlib.Pool._check_running(self)  # type: ignore[attr-defined]
        return self

    def _is_own_thread(self) -> bool:
        return self._engine.is_own_thread()

    def close(self) -> None:
        """Take no more calls. The workers end when all calls are answered. Can be called again."""
        if self._pid == os.getpid():
            super().close()
        elif self._state == RUN:
            self._state = CLOSE

    def terminate(self) -> None:
        """End the pool at once, and its workers with it. Open calls raise `PoolTerminatedError`. Can be called again."""
        self._state = TERMINATE
        if self._pid == os.getpid():
            self._terminate()
            if not self._is_own_thread():  # which uses it once more, after a callback
                self._change_notifier.close()

    def join(self) -> None:
        """Wait until all workers have ended. Call `close` or `terminate` first."""
        check_process(self._pid)
        if self._is_own_thread():
            raise RuntimeError(
                "a pool cannot be joined in a callback, or elsewhere in its own threads: a thread cannot wait for its own end"
            )
        if self._state != TERMINATE:  # which waits by itself, and for no iterator of the user's that blocks
            super().join()
        self._terminate()
        self._end()  # waits for another thread that terminates the pool
        self._change_notifier.close()

    def share(self, obj: _T) -> AbstractContextManager[_T]:
        """Give the object itself: there is no shared memory, and it travels with each task."""
        return sharing(obj, self._check_running)

    def stats(self) -> Stats:
        """Return the figures of this pool so far: tasks, bytes, and why nothing is shared."""
        return self._engine.stats()

    def trace(self, path: Any = None, *, max_events: Any = None) -> Any:
        """Raise `UnsupportedError`: these workers do not say what they do."""
        raise no_trace("pool")

    def health(self) -> Health:
        """Return whether this pool takes calls, and how many are open. What workers do is not known."""
        if self._pid != os.getpid():
            return Health(state="terminated", broken=str(ForkedPoolError(self._pid)), size=self._processes)
        state = {INIT: "running", RUN: "running", CLOSE: "closed"}.get(self._state, "terminated")
        broken = None if self._broken is None else said(self._broken, str)
        return Health(state=state, broken=broken, size=self._processes, alive=len(self._pool), calls=len(self._cache))

    def __repr__(self) -> str:
        if self._state == INIT:
            return super().__repr__()
        kind = type(self)
        return (
            f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={len(self._pool)} | "
            f"{self._engine.usage()}>"
        )


def _wait(workers: list[Any], notifier: Any) -> None:
    """Wait until a worker has ended, or the pool changes. Not a method: the thread that runs this must not keep the pool."""
    library: Any = stdlib.Pool
    library._wait_for_updates([*library._get_worker_sentinels(workers), notifier._reader], notifier)


Pool = ArrowPool
