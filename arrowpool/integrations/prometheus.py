"""Figures of pools for Prometheus. Needs prometheus_client: ``pip install 'arrowpool[prometheus]'``.

    from prometheus_client import REGISTRY
    from arrowpool.integrations.prometheus import PoolCollector

    REGISTRY.register(PoolCollector(features=pool))

The figures are those of `Pool.stats` and `Pool.health`, read when Prometheus asks. The tasks pay nothing for that.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from arrowpool.health import Health
from arrowpool.stats import Stats


class _Pool(Protocol):
    def stats(self) -> Stats: ...

    def health(self) -> Health: ...


_Figure = Callable[[Stats, Health], float]

_COUNTERS: tuple[tuple[str, str, _Figure], ...] = (
    ("tasks", "Tasks answered; a chunk of map is one task.", lambda stats, _: stats.tasks),
    ("tasks_lost", "Tasks that ended with their worker.", lambda stats, _: stats.lost_tasks),
    ("busy_seconds", "Seconds in which the pool had calls.", lambda stats, _: stats.seconds),
    ("run_seconds", "Seconds of workers in tasks.", lambda stats, _: stats.run),
    ("decode_seconds", "Seconds of workers rebuilding arguments.", lambda stats, _: stats.decode),
    ("encode_seconds", "Seconds of workers placing results.", lambda stats, _: stats.encode),
    ("worker_cpu_seconds", "Seconds that the workers have computed.", lambda stats, _: stats.cpu),
    ("sending_seconds", "Seconds of the pool's threads in this process.", lambda stats, _: stats.sending),
    ("framing_seconds", "Seconds of cutting frames and joining results.", lambda stats, _: stats.framing),
    ("shared_bytes", "Bytes copied into shared memory.", lambda stats, _: stats.shared_bytes),
    ("piped_bytes", "Bytes through pipes.", lambda stats, _: stats.piped_bytes),
    ("saved_bytes", "Bytes that were already shared, so not copied.", lambda stats, _: stats.saved_bytes),
    ("workers_lost", "Workers that crashed, were killed or exited.", lambda stats, _: stats.lost),
    ("workers_timed_out", "Workers killed because of task_timeout.", lambda stats, _: stats.timeouts),
    ("workers_replaced", "Workers started in place of others.", lambda stats, _: stats.replaced),
    ("calls_cancelled", "Calls cancelled or interrupted.", lambda stats, _: stats.cancelled),
    ("memory_refusals", "Tasks and shared objects without memory.", lambda stats, _: stats.refused),
)
_GAUGES: tuple[tuple[str, str, _Figure], ...] = (
    ("up", "1 if the pool takes calls and can run them.", lambda _, health: health.ok),
    ("workers", "Number of workers that the pool keeps.", lambda _, health: health.size),
    ("workers_alive", "Worker processes that run.", lambda _, health: health.alive),
    ("open_calls", "Calls whose results are not complete.", lambda _, health: health.calls),
    ("running_tasks", "Tasks that run.", lambda _, health: health.running),
    ("waiting_tasks", "Known tasks that have not begun.", lambda _, health: health.waiting),
    ("longest_task_seconds", "Seconds of the longest running task so far.", lambda _, health: health.longest),
    ("argument_bytes", "Bytes of shared memory in use for arguments.", lambda stats, _: stats.live_bytes),
    ("result_bytes", "Bytes of results that this process refers to.", lambda stats, _: stats.live_result_bytes),
    ("warm_bytes", "Bytes of free memory kept for the next tasks.", lambda stats, _: stats.warm_bytes),
    ("shelf_bytes", "Bytes that this process has put on the shelf.", lambda stats, _: stats.shelf_bytes),
)


class PoolCollector(Collector):
    """Figures of pools and executors, with the label `pool`.

    Counters, with the prefix ``arrowpool_`` and the suffix ``_total``: tasks, seconds, bytes; workers that were lost, killed for
    time or replaced; cancelled calls; refusals for want of memory. Gauges: ``arrowpool_up``, workers, calls, tasks that run and wait,
    memory in use and kept.

    The pools are not kept alive: a pool that the program drops is left out.

    Parameters
    ----------
    **pools : ArrowPool or ProcessPoolExecutor
        The pools, by the value of the label.

    Examples
    --------
    >>> from prometheus_client import CollectorRegistry
    >>> from arrowpool import Pool
    >>> from arrowpool.integrations.prometheus import PoolCollector
    >>> registry = CollectorRegistry()
    >>> with Pool(2) as pool:
    ...     registry.register(PoolCollector(features=pool))
    ...     values = pool.map(abs, [-1, -2, -3], chunksize=1)
    ...     registry.get_sample_value("arrowpool_tasks_total", {"pool": "features"})
    3.0
    """

    def __init__(self, **pools: _Pool):
        #: By name. Any thread adds and removes, and the thread that collects reads a copy; each is one atomic operation.
        self._pools: dict[str, weakref.ref[_Pool]] = {}
        for name, pool in pools.items():
            self.add(name, pool)

    def add(self, name: str, pool: _Pool) -> None:
        """Add a pool, in place of one of the same name."""
        self._pools[name] = weakref.ref(pool)

    def remove(self, name: str) -> None:
        """Leave a pool out. Without effect if it is not there."""
        self._pools.pop(name, None)

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics without values: the registry learns their names from this."""
        yield from self._families([])

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics of this moment."""
        found = []
        for name, reference in list(self._pools.items()):
            pool = reference()
            if pool is not None:
                found.append((name, pool.stats(), pool.health()))
        yield from self._families(found)

    def _families(self, found: list[tuple[str, Stats, Health]]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for kind, figures in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for title, text, figure in figures:
                family = kind(f"arrowpool_{title}", text, labels=["pool"])
                for name, stats, health in found:
                    family.add_metric([name], float(figure(stats, health)))
                yield family
