"""Traces that open and close while threads make random calls and workers are killed: each file is read, and every row checked."""

from __future__ import annotations

import json
import os
import random
import signal
import threading

import numpy as np
import pandas as pd
import pytest

from arrowpool import WorkerLostError
from tests.conftest import forked_only

LIMIT = 60
TRACES = 12
SECONDS = 0.2


def work(item):
    luck = random.random()
    if luck < 0.005:
        os.kill(os.getpid(), signal.SIGKILL)
    if luck < 0.01:
        raise ValueError("bad luck")
    return item


def arrays(count):
    for number in range(count):
        yield np.full(10_000, float(number))


def leave_early(pool):
    results = pool.imap(work, arrays(50))
    next(results)
    results.close()


CALLS = (
    lambda pool: pool.map(work, range(200), random.choice([1, 5, None])),
    lambda pool: pool.map(work, [np.ones(20_000)] * 20, 1),
    lambda pool: list(pool.imap_unordered(work, arrays(30))),
    lambda pool: [result.get(LIMIT) for result in [pool.apply_async(work, (np.ones(5_000),)) for _ in range(20)]],
    lambda pool: pool.map_groups(len, pd.DataFrame({"a": np.arange(1000) % 50, "b": 1.0}), by="a"),
    leave_early,
)


def check(path, trace):
    """Rows are told apart by their numbers; bars lie within the trace, one after the other or within each other; arrows have both ends."""
    events = json.loads(path.read_text())["traceEvents"]
    numbers = [one["tid"] for one in events if one["name"] == "thread_name"]
    assert len(set(numbers)) == len(numbers)
    spans = {}
    for one in events:
        if one["ph"] == "X":
            spans.setdefault(one["tid"], []).append((one["ts"], one["ts"] + one["dur"], one["name"]))
    for number, of_row in spans.items():
        outer = []
        for began, ended, name in of_row:
            assert 0 <= began < ended <= trace.seconds * 1e6 + 1e-2, (number, name)
            while outer and outer[-1][1] <= began + 1e-2:
                outer.pop()
            assert not outer or ended <= outer[-1][1] + 1e-2, (number, name, outer[-1])
            outer.append((began, ended, name))
    ends = [one["id"] for one in events if one["ph"] == "f"]
    assert len(set(ends)) == len(ends)


@pytest.mark.own_pool
@forked_only
def test_every_trace_is_well_formed(our_pool, tmp_path):
    path, stop, failures = tmp_path / "trace.json", threading.Event(), []

    def make_calls():
        try:
            while not stop.is_set():
                try:
                    random.choice(CALLS)(our_pool)
                except (ValueError, WorkerLostError):
                    continue
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=make_calls, name=f"caller {number}") for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(TRACES):
            with our_pool.trace(path, max_events=(200_000, 1_000, 20)[number % 3]) as trace:
                stop.wait(SECONDS)
            check(path, trace)
            assert f"of a pool: {sum(row.is_worker for row in trace.rows)} worker processes" in repr(trace)
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
