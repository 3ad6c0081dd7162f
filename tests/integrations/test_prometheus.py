"""The figures of pools, as Prometheus reads them."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest

import arrowpool
from arrowpool import WorkerLostError
from tests.integrations.conftest import library
from tests.pool import tasks

prometheus_client = library("prometheus_client")
exporter = library("arrowpool.integrations.prometheus")


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry(auto_describe=True)


def test_figures_of_pools_and_executors(registry):
    with arrowpool.Pool(2) as pool, arrowpool.ProcessPoolExecutor(1) as executor:
        registry.register(exporter.PoolCollector(features=pool, backtests=executor))

        def value(name, pool="features"):
            return registry.get_sample_value(f"arrowpool_{name}", {"pool": pool})

        assert value("up", "backtests") == value("up") == 1
        assert value("workers_alive", "backtests") == 0
        pool.map(np.sum, [np.ones(100_000)] * 4, chunksize=1)
        executor.submit(abs, -1).result()
        with pytest.raises(WorkerLostError):
            pool.apply(tasks.die, ("sigkill",))
        assert (value("tasks_total"), value("tasks_total", "backtests")) == (4, 1)
        assert value("shared_bytes_total") == 800_000
        assert value("workers_lost_total") == 1
        assert value("run_seconds_total") > 0
        assert value("workers") == 2
        text = prometheus_client.generate_latest(registry).decode()
    pool.join()
    assert value("up") == value("workers_alive") == 0
    assert value("tasks_total") == 4
    assert 'arrowpool_open_calls{pool="features"} 0.0' in text
    assert re.search(r"^# TYPE arrowpool_tasks_total counter$", text, re.MULTILINE)
    assert re.search(r"^# TYPE arrowpool_warm_bytes gauge$", text, re.MULTILINE)


def test_a_name_has_one_collector(registry):
    registry.register(exporter.PoolCollector())
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(exporter.PoolCollector())


def test_pools_come_and_go(registry):
    collector = exporter.PoolCollector()
    registry.register(collector)

    def names():
        return {sample.labels["pool"] for family in registry.collect() for sample in family.samples}

    assert names() == set()
    with arrowpool.ProcessPoolExecutor(1) as first, arrowpool.ProcessPoolExecutor(2) as second:
        collector.add("a", first)
        collector.add("b", first)
        collector.add("a", second)
        assert registry.get_sample_value("arrowpool_workers", {"pool": "a"}) == 2
        assert names() == {"a", "b"}
        collector.remove("b")
        collector.remove("b")
        assert names() == {"a"}
    del first, second
    gc.collect()
    assert names() == set()
