"""The backend "arrowpool" for joblib, and for libraries that use joblib, such as scikit-learn.

    import arrowpool.integrations.joblib
    arrowpool.integrations.joblib.register()
    with joblib.parallel_config(backend="arrowpool", n_jobs=4):
        GridSearchCV(model, grid).fit(X, y)

Workers start as those of joblib's own backend: as new programs, which neither import the main module nor inherit threads, and
which limit OpenMP and BLAS to their share of the cores. They are kept for the next call.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import joblib
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    LokyBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.externals.loky.backend.context import LokyContext
from joblib.externals.loky.backend.process import LokyProcess
from joblib.parallel import register_parallel_backend

from arrowpool import portable
from arrowpool.executor import ProcessPoolExecutor
from arrowpool.forking import run_in_children


def register() -> None:
    """Register the backend with joblib under the name "arrowpool". Can be called again.

    Examples
    --------
    >>> import joblib
    >>> from arrowpool.integrations.joblib import register
    >>> register()
    >>> with joblib.parallel_config(backend="arrowpool", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3))
    [0, 1, 2]
    """
    # Where there is no shared memory, joblib's own processes do all that ours could do.
    register_parallel_backend("arrowpool", ArrowpoolBackend if portable.missing() is None else LokyBackend)


def make_default(note_call: Callable[[], None], note_other: Callable[[], None]) -> Callable[[], None]:
    """Make the backend joblib's default. Returns what undoes it.

    Parameters
    ----------
    note_call : callable
        Called with each call of joblib that uses the backend.
    note_other : callable
        Called with each call that names joblib's own processes as its backend.
    """

    class Backend(ArrowpoolBackend):
        """The backend, which notes its calls."""

        def start_call(self) -> None:
            super().start_call()
            note_call()

    class Loky(LokyBackend):  # type: ignore[misc]
        """joblib's own backend, which notes its calls."""

        def start_call(self) -> None:
            super().start_call()
            note_other()

    before = joblib.parallel.DEFAULT_BACKEND
    loky = joblib.parallel.BACKENDS.get("loky")
    register_parallel_backend("arrowpool", Backend, make_default=True)
    if loky is LokyBackend:
        register_parallel_backend("loky", Loky)

    def undo() -> None:
        register()
        if joblib.parallel.BACKENDS.get("loky") is Loky:
            register_parallel_backend("loky", LokyBackend)
        if joblib.parallel.DEFAULT_BACKEND == "arrowpool":
            joblib.parallel.DEFAULT_BACKEND = before

    return undo


class ArrowpoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's interface to an `arrowpool.ProcessPoolExecutor`.

    Nested calls get the same backends as with joblib's own: threads at the first level, sequential execution below. Arguments are
    private, writeable copies. `temp_folder`, `max_nbytes` and `mmap_mode`, which make joblib map files, are ignored.

    Parameters
    ----------
    nesting_level, inner_max_num_threads
        As for every backend of joblib.
    share : iterable
        Frames, tables and arrays that are arguments of many tasks. They are copied once for a call, in the state that they have
        then, instead of once for each task; see `ArrowPool.share`.
    **extras
        Keyword arguments of `ProcessPoolExecutor`: `max_bytes`, `spill_dir`, `retries`, `task_timeout`.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        share: Iterable[Any] = (),
        **extras: Any,
    ):
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._share = tuple(share)
        self._extras = extras
        #: Between `configure` and `terminate`: the workers, the shared objects, and the futures of the call.
        self._workers: _Workers | None = None
        self._shared = contextlib.ExitStack()
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """The number of workers for `n_jobs`: one inside of a worker, or in a thread of a nested call."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs == 1:
            return 1
        why = None
        if joblib.parallel.mp is None:
            return 1
        if joblib.parallel.mp.current_process().daemon:
            why = "in a daemonic process, such as a worker of a pool"
        elif not (self.in_main_thread() or self.nesting_level == 0):
            why = "below threads"
        if why is not None:
            warnings.warn(f"arrowpool-backed parallel loops cannot be nested {why}, setting n_jobs=1", stacklevel=3)
            return 1
        return n_jobs if n_jobs > 0 else max(joblib.cpu_count() + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **_: Any,
    ) -> int:
        """Take or start workers for a call of `parallel`; return their number."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._workers = _take(n_jobs, self._prepare_worker_env(n_jobs=n_jobs), self._extras)
        try:
            for obj in self._share:
                self._shared.enter_context(self._workers.executor.share(obj))
        except BaseException:
            self.terminate()
            raise
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None) -> Future[Any]:
        """Run a batch of tasks."""
        assert self._workers is not None
        # `func` holds the data of the batch. As an argument it counts towards `max_bytes`; as the function it would not.
        future = self._workers.executor.submit(_run, func)
        self._futures.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # before joblib 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the values of a batch, or raise its exception."""
        return out.result()

    def terminate(self) -> None:
        """End the call. The workers stay for the next one."""
        workers, self._workers = self._workers, None
        self._shared.close()
        if workers is not None:
            _give_back(workers)
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel waiting tasks. End the workers, and with them the running tasks, unless another call uses them too."""
        for future in list(self._futures):
            future.cancel()
        if self._workers is not None and self._workers.users == 1:
            _end(self._workers)
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


def _run(batch: Callable[[], Any]) -> Any:
    return batch()


class _Process(LokyProcess):  # type: ignore[misc]
    def kill(self) -> None:
        # loky's `Popen` has no `kill`. `poll` would reap the process, which is the pool's task; `returncode` only looks.
        if self.pid is not None and self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class _Context(LokyContext):  # type: ignore[misc]
    """Starts programs with these environment variables, which libraries read when they are imported."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment

    def Process(self, *args: Any, **kwargs: Any) -> _Process:
        return _Process(*args, env=self._environment, **kwargs)


@dataclass(slots=True, eq=False)
class _Workers:
    """An executor, its configuration, and the number of calls that use it now."""

    key: tuple[Any, ...]
    executor: ProcessPoolExecutor
    users: int = 0


#: Held by every thread that reads or changes `_kept`, or the `users` of workers.
_changing = threading.Lock()
#: The kept workers, by process id: a forked child inherits its parent's entry, and does not use it.
_kept: dict[int, _Workers] = {}


def _renew_lock() -> None:
    """Called in a forked child, which has none of the threads that may have held the lock."""
    global _changing
    _changing = threading.Lock()


run_in_children(_renew_lock)


def _take(n_jobs: int, environment: dict[str, str], extras: dict[str, Any]) -> _Workers:
    """Workers for a call: the kept ones if they have the same configuration and work, else new ones."""
    key = (n_jobs, environment, extras)
    with _changing:
        kept = _kept.get(os.getpid())
        if kept is not None and kept.key == key and not kept.executor._broken:
            kept.users += 1
            return kept
        workers = _Workers(key, ProcessPoolExecutor(n_jobs, _Context(environment), **extras), 1)
        if kept is None or not kept.users:
            _kept[os.getpid()] = workers
    if kept is not None and not kept.users:
        kept.executor.shutdown()
    return workers


def _give_back(workers: _Workers) -> None:
    with _changing:
        workers.users -= 1
        unused = not workers.users and _kept.get(os.getpid()) is not workers
    if unused:
        workers.executor.shutdown()


def _end(workers: _Workers) -> None:
    with _changing:
        if _kept.get(os.getpid()) is workers:
            del _kept[os.getpid()]
    workers.executor.kill_workers()


def shutdown() -> None:
    """End the workers that are kept for the next call, unless a call uses them. Python's exit does the same."""
    with _changing:
        kept = _kept.get(os.getpid())
        if kept is None or kept.users:
            return
        del _kept[os.getpid()]
    kept.executor.shutdown()
