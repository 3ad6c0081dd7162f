"""The contenders: one small adapter for each pool, with the stdlib's `map(fn, items, chunksize)`.

Called by `measure`. Guarantees that a contender's library is imported only when it is opened, and that a default
chunksize is the library's own. A library without one sends each task alone, as its users see it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.by_hand import Blocks
from benchmarks.inputs import row_chunks
from benchmarks.scenarios import Scenario, Timing

PROCESSES = 2
ROOT = Path(__file__).resolve().parent.parent


class Contender(ABC):
    """A pool of `workers` workers between `open` and `close`."""

    name: ClassVar[str]
    module: ClassVar[str]

    def __init__(self, workers: int = PROCESSES):
        self.workers = workers

    @classmethod
    def installed(cls) -> bool:
        return importlib.util.find_spec(cls.module) is not None

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]: ...

    def takes(self, scenario: Scenario) -> bool:
        return self.name not in scenario.left_out

    def prepare(self, scenario: Scenario, made: Any) -> Callable[[], Any]:
        """What the clock sees, as a call without arguments."""
        return partial(scenario.run, self, made)

    def check(self, scenario: Scenario, made: Any, result: Any) -> None:
        scenario.check(made, result)


class Serial(Contender):
    """A loop, without a pool."""

    name = "serial"
    module = "builtins"

    def open(self) -> None: ...

    def close(self) -> None: ...

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return [fn(item) for item in items]


class StdlibPool(Contender):
    name = "stdlib"
    module = "multiprocessing"

    def open(self) -> None:
        from multiprocessing import Pool

        self.pool: Any = Pool(self.workers)

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.pool.map(fn, items, chunksize))


class Threads(StdlibPool):
    name = "threads"
    module = "multiprocessing.pool"

    def open(self) -> None:
        from multiprocessing.pool import ThreadPool

        self.pool = ThreadPool(self.workers)


class ArrowPool(StdlibPool):
    name = "arrowpool"
    module = "arrowpool"

    @classmethod
    def installed(cls) -> bool:
        import arrowpool

        return hasattr(arrowpool, "Pool")

    def open(self) -> None:
        from arrowpool import Pool

        self.pool = Pool(self.workers)


class Joblib(Contender):
    """`Parallel` with its default backend (loky), kept open; it chooses the batch size itself."""

    name = "joblib"
    module = "joblib"

    def open(self) -> None:
        import joblib

        self.joblib = joblib
        self.parallel = joblib.Parallel(n_jobs=self.workers).__enter__()

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.parallel.__exit__(None, None, None)
        get_reusable_executor(max_workers=self.workers).shutdown(wait=True)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        task = self.joblib.delayed(fn)
        return list(self.parallel(task(item) for item in items))


class Mpire(Contender):
    """`WorkerPool(keep_alive=True)`. Items go as 1-tuples: mpire would unpack a frame into its column names."""

    name = "mpire"
    module = "mpire"

    def open(self) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=self.workers, keep_alive=True)

    def close(self) -> None:
        self.pool.stop_and_join()

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(
            self.pool.map(fn, [(item,) for item in items], chunk_size=chunksize, concatenate_numpy_output=False)
        )


class RayPool(Contender):
    """`ray.util.multiprocessing.Pool` on a local cluster that is started once and not timed."""

    name = "ray"
    module = "ray"

    def open(self) -> None:
        import ray
        from ray.util.multiprocessing import Pool

        self.started_ray = not ray.is_initialized()
        if self.started_ray:
            ray.init(
                num_cpus=self.workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            )
        self.pool = Pool(self.workers)

    def close(self) -> None:
        import ray

        self.pool.terminate()
        self.pool.join()
        if self.started_ray:
            ray.shutdown()

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.pool.map(fn, items, chunksize))


class Dask(Contender):
    """`Client.map` on a `LocalCluster` of single-threaded processes; it sends every task alone."""

    name = "dask"
    module = "distributed"

    def open(self) -> None:
        from distributed import Client, LocalCluster

        warnings.filterwarnings("ignore", message="Sending large graph")
        self.cluster = LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        )
        self.client = Client(self.cluster)

    def close(self) -> None:
        self.client.close()
        self.cluster.close()

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.client.gather(self.client.map(fn, list(items), pure=False)))


class Futures(Contender):
    """`concurrent.futures.ProcessPoolExecutor.map`, whose default chunksize is 1."""

    name = "futures"
    module = "concurrent.futures"

    def open(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(self.workers)

    def close(self) -> None:
        self.executor.shutdown(wait=True)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return list(self.executor.map(fn, items, chunksize=chunksize or 1))


class ByHand(StdlibPool):
    """The stdlib's pool over a hand-written block of `SharedMemory`; for row chunks of one float frame only."""

    name = "by_hand"
    module = "multiprocessing.shared_memory"

    def open(self) -> None:
        self.blocks = Blocks()
        super().open()

    def close(self) -> None:
        super().close()
        self.blocks.close()

    def takes(self, scenario: Scenario) -> bool:
        return scenario.rows_task is not None

    def prepare(self, scenario: Scenario, made: Any) -> Callable[[], Any]:
        assert scenario.rows_task is not None
        bounds = [(chunk.index[0], chunk.index[-1] + 1) for chunk in row_chunks(made)]
        return partial(self.blocks.map, self.pool, scenario.rows_task, made, bounds)


class Memcpy(Contender):
    """The limit: `np.copyto` of as many bytes as the scenario has to move, into memory that is already warm."""

    name = "memcpy"
    module = "numpy"

    def open(self) -> None:
        self.source = self.target = np.empty(0, dtype=np.uint8)

    def close(self) -> None:
        del self.source, self.target

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        raise NotImplementedError("memcpy copies; it maps nothing")

    def takes(self, scenario: Scenario) -> bool:
        return scenario.copied_bytes is not None and scenario.timing is Timing.WARM_CALL

    def prepare(self, scenario: Scenario, made: Any) -> Callable[[], Any]:
        assert scenario.copied_bytes is not None
        nbytes = scenario.copied_bytes(made)
        if len(self.source) != nbytes:
            self.source, self.target = np.ones(nbytes, dtype=np.uint8), np.zeros(nbytes, dtype=np.uint8)
        np.copyto(self.target, self.source)
        return partial(np.copyto, self.target, self.source)

    def check(self, scenario: Scenario, made: Any, result: Any) -> None:
        assert self.target[-1] == 1


CONTENDERS: tuple[type[Contender], ...] = (
    Serial,
    Threads,
    StdlibPool,
    ArrowPool,
    Joblib,
    Mpire,
    RayPool,
    Dask,
    Futures,
    ByHand,
    Memcpy,
)
#: Contenders that move no data. A comparison of pools includes them only on request.
NO_POOLS = frozenset({"serial", "threads"})
PEERS = frozenset({"joblib", "mpire", "ray", "dask", "futures"})
#: Contenders that are part of Python or of what arrowpool stands on: they have no version of their own.
WITHOUT_VERSION = frozenset({"serial", "threads", "stdlib", "arrowpool", "futures", "by_hand", "memcpy"})


def choose(names: str | None) -> list[type[Contender]]:
    """The installed contenders among `names` (comma separated), or all pools; `LookupError` for an unknown name."""
    wanted = names.split(",") if names else [kind.name for kind in CONTENDERS if kind.name not in NO_POOLS]
    return [kind for kind in named(wanted) if kind.installed()]


def named(names: Iterable[str]) -> list[type[Contender]]:
    """The contenders of these names, installed or not; `LookupError` for an unknown name."""
    known = {contender.name: contender for contender in CONTENDERS}
    wanted = [name.strip() for name in names]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise LookupError(f"no contender {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in wanted]


@contextlib.contextmanager
def opened(contender: Contender) -> Iterator[Contender]:
    """The contender between `open` and `close`."""
    contender.open()
    try:
        yield contender
    finally:
        contender.close()


def quiet_peers() -> None:
    """Keep the peers' own notices out of the table; to be called before any of them is imported."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
