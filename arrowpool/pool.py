"""The pool: `multiprocessing.Pool`, with frames, tables and arrays travelling through shared memory."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import queue
import traceback
import weakref
from collections.abc import Callable, Iterable
from multiprocessing import pool as stdlib
from multiprocessing import util
from multiprocessing.pool import INIT, RUN, TERMINATE, MapResult
from multiprocessing.process import BaseProcess
from typing import Any

from arrowpool.channel import Lifeline
from arrowpool.collector import Collector
from arrowpool.feeder import Feeder
from arrowpool.functions import Reach
from arrowpool.lane import Call, Stop
from arrowpool.launch import Initializer, Launcher
from arrowpool.memory import arena
from arrowpool.memory.arena import Arena
from arrowpool.settings import COPY_THREADS, limits
from arrowpool.stats import Traffic
from arrowpool.supervisor import Notifier, Supervisor
from arrowpool.wire import Sender

_log = logging.getLogger(__name__)

#: Workers that have not ended this long after SIGTERM are killed.
_TERMINATE_SECONDS = 5.0
_said_fallback = False


class ArrowPool(stdlib.Pool):
    """A pool of worker processes: the standard library's, except for how data travels.

    DataFrames, Series, Tables, arrays and whatever is made of them, anywhere in arguments, functions and results, are
    copied once into shared memory and read there; each task still has its own private, writable copy as far as it can tell.

    Parameters
    ----------
    processes, initializer, initargs, maxtasksperchild, context
        As for `multiprocessing.pool.Pool`.
    max_bytes : int, optional
        Bytes of shared memory in flight to the workers at a time; the default is half of the memory that is available
        when the pool is made. What exceeds it waits; an object that exceeds it alone travels alone.

    Raises
    ------
    ValueError, TypeError
        As for `multiprocessing.pool.Pool`, and for a `max_bytes` that is not a positive int.

    Examples
    --------
    >>> import numpy as np
    >>> from arrowpool import Pool
    >>> with Pool(2) as pool:
    ...     pool.map(np.sum, [np.ones(100_000), np.zeros(100_000)])
    [np.float64(100000.0), np.float64(0.0)]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        max_bytes: int | None = None,
    ):
        # First of all, so that __del__ finds them whatever happens here.
        self._pool: list[BaseProcess] = []
        self._state = INIT
        self._ctx = context or multiprocessing.get_context()
        if processes is None:
            processes = _default_size()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes <= 0):
            raise ValueError("max_bytes must be a positive int (bytes) or None")
        self._processes = processes
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._broken: list[BaseException] = []
        self._taskqueue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._change_notifier = Notifier()
        self._cache = stdlib._PoolCache(notifier=self._change_notifier)  # type: ignore[attr-defined]

        limit = limits(max_bytes)
        forks = self._ctx.get_start_method() == "fork"
        reach = Reach(forks=forks)
        sender = Sender(_make_arena(limit.capacity), reach, copy_threads=min(COPY_THREADS, _default_size()))
        lifeline = Lifeline()
        broke = functools.partial(_break, weakref.ref(self))
        self._result_handler = Collector(self._taskqueue, self._cache, reach.worker_has, broke)
        self._task_handler = Feeder(
            self._taskqueue, self._result_handler.tell, self._cache, sender, limit.budget, self._change_notifier.put
        )
        self._result_handler.answered = self._task_handler.answered
        initializing = Initializer(initializer, self._initargs, reach, limit.capacity)
        launcher = Launcher(
            context=self._ctx,
            process=self.Process,
            initializer=initializing,
            maxtasks=maxtasksperchild,
            arguments=sender.arena.fd if sender.arena is not None else -1,
            capacity=sender.arena.capacity if sender.arena is not None else 0,
            lifeline=lifeline,
            forks=forks,
        )
        self._worker_handler = Supervisor(
            launcher,
            self._pool,
            processes,
            self._change_notifier,
            self._cache,
            self._task_handler,
            self._result_handler.tell,
            broke,
        )
        closing = (self._worker_handler, self._task_handler, self._result_handler)
        try:
            self._repopulate_pool()
            for thread in closing:
                thread.start()
        except BaseException:
            for process in self._pool:
                process.terminate()
            for process in self._pool:
                process.join()
            sender.close()
            _release(self._worker_handler, self._result_handler, self._change_notifier, lifeline, initializing)
            raise
        self._terminate = util.Finalize(
            self,
            _terminate_pool,
            args=(self._pool, self._taskqueue, *closing, self._change_notifier, lifeline, initializing),
            exitpriority=15,
        )
        self._state = RUN

    def _repopulate_pool(self) -> None:
        """Bring the number of workers up to what it shall be."""
        self._worker_handler.repopulate()

    def _check_running(self) -> None:
        super()._check_running()  # type: ignore[misc]
        if self._broken:
            raise self._broken[0]

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Any = {},  # noqa: B006 (the standard library's signature, and never changed)
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> Any:
        """
        Asynchronous version of `apply()` method.
        """
        return super().apply_async(func, args, kwds, _guarded(callback), _guarded(error_callback))

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Any,
        mapper: Any,
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> Any:
        # As in the standard library, but that the feeder is told when it can rely on the items staying what they are.
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            chunksize, extra = divmod(len(iterable), self._processes * 4)
            if extra:
                chunksize += 1
        if len(iterable) == 0:
            chunksize = 0
        batches = stdlib.Pool._get_tasks(func, iterable, chunksize)  # type: ignore[attr-defined]
        result: Any = MapResult(
            self, chunksize, len(iterable), _guarded(callback), error_callback=_guarded(error_callback)
        )
        tasks = self._guarded_task_generation(result._job, mapper, batches)  # type: ignore[attr-defined]
        items = iterable if type(iterable) in (list, tuple) else None
        self._taskqueue.put(Call(tasks, None, items, length=result._number_left))
        return result

    def close(self) -> None:
        """
        Take no more calls; the workers end once all that were made are answered.
        """
        super().close()
        self._task_handler.hurry()

    def join(self) -> None:
        """
        Wait for the worker processes to exit, after `close()` or `terminate()`.
        """
        super().join()
        self._terminate()

    def traffic(self) -> Traffic:
        """What this pool has moved so far.

        Returns
        -------
        Traffic
            Counts of tasks and buffers, and bytes, of arguments and results together.
        """
        feeder, collector = self._task_handler, self._result_handler
        sender = feeder.sender
        return Traffic(
            tasks=collector.tasks,
            piped_bytes=feeder.piped_bytes + collector.piped_bytes,
            shared_bytes=sender.shared_bytes + collector.shared_bytes,
            copies=sender.copies + collector.copies,
        )


def _default_size() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    return os.cpu_count() or 1


def _make_arena(capacity: int) -> Arena | None:
    global _said_fallback
    try:
        return Arena(arena.create(capacity))
    except OSError as error:
        if not _said_fallback:
            _said_fallback = True
            _log.warning("no shared memory to be had on this system (%s): everything is pickled instead", str(error))
        return None


def _break(pool: weakref.ref[ArrowPool], error: BaseException) -> None:
    """No worker of this pool can run a task: say so to whoever calls it from now on."""
    broken = pool()
    if broken is not None:
        broken._broken.append(error)
        broken._worker_handler.give_up()


def _guarded(callback: Callable[[Any], Any] | None) -> Callable[[Any], None] | None:
    """A callback whose errors are logged: one that escaped would end the thread that sets all results."""
    if callback is None:
        return None

    def call(value: Any) -> None:
        try:
            callback(value)
        except Exception:
            # As text: a log record with the traceback would keep the frames alive, and the results in them.
            _log.error("a callback of the pool raised\n%s", traceback.format_exc())

    return call


def _terminate_pool(
    workers: list[BaseProcess],
    taskqueue: queue.SimpleQueue[Any],
    supervisor: Supervisor,
    feeder: Feeder,
    collector: Collector,
    notifier: Notifier,
    lifeline: Lifeline,
    initializer: Initializer,
) -> None:
    """End everything now; called once, by `terminate`, after `join`, or when the pool is gone or Python exits."""
    supervisor._state = TERMINATE
    notifier.put(None)
    taskqueue.put(Stop(drain=False))
    collector.tell(Stop(drain=False))
    # The supervisor first, so that no worker is started behind our back.
    supervisor.join()
    for process in workers:
        if process.exitcode is None:
            process.terminate()
    for process in workers:
        process.join(_TERMINATE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
    collector.join()
    # It may be held up in the user's iterable, where nothing can reach it; its memory must then stay.
    if feeder.join(_TERMINATE_SECONDS):
        feeder.sender.close()
    else:
        _log.warning("the iterable given to a pool still blocks after the pool was terminated")
    _release(supervisor, collector, notifier, lifeline, initializer)


def _release(
    supervisor: Supervisor,
    collector: Collector,
    notifier: Notifier,
    lifeline: Lifeline,
    initializer: Initializer,
) -> None:
    """Close what the threads lived by."""
    supervisor.close()
    collector.close()
    notifier.close()
    lifeline.close()
    initializer.close()


Pool = ArrowPool
