"""The constructor's extras for tasks that may run twice, and for tasks that may run for so long and no longer."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

import arrowpool
from arrowpool import TaskTimeoutError, WorkerLostError
from tests.conftest import across_methods
from tests.pool import tasks

LIMIT = 30


def test_a_lost_task_is_run_again_as_often_as_allowed(ours, tmp_path):
    with ours.pool(2, retries=2) as pool:
        array = np.ones(100_000)
        given = (str(tmp_path / "lucky"), 3, array)
        assert pool.apply_async(tasks.scribble_and_die_until, given).get(LIMIT) == 100_000.0
        with pytest.raises(WorkerLostError, match=r"while it ran die_until \(tried 3 times\)"):
            pool.apply_async(tasks.die_until, (str(tmp_path / "unlucky"), 4)).get(LIMIT)
        assert len((tmp_path / "unlucky").read_text().split()) == 3
        # In order, among others.
        given = [(str(tmp_path / f"item {i}"), 1 + i % 3) for i in range(8)]
        assert pool.starmap_async(tasks.die_until, given, 1).get(60) == [1 + i % 3 for i in range(8)]
    pool.join()


@pytest.mark.own_pool
def test_by_default_nothing_is_run_twice(our_pool, tmp_path):
    path = tmp_path / "runs"
    with pytest.raises(WorkerLostError):
        our_pool.apply_async(tasks.die_until, (str(path), 9)).get(LIMIT)
    assert len(path.read_text().split()) == 1


@across_methods(("ours", "how"), ["spin", "note_pid_and_block"])
def test_a_task_that_runs_too_long(ours, tmp_path, how):
    # Workers that are not forked import the tasks' module within the time of their first one.
    limit = 1.0 if ours.method == "fork" else 2.5
    with ours.pool(2, task_timeout=limit) as pool:
        pool.map(tasks.square, range(4), 1)
        began = time.monotonic()
        stuck = pool.apply_async(getattr(tasks, how), (str(tmp_path / "pid"),))
        others = pool.map_async(tasks.wait_for, [0.01] * 20, 1)
        with pytest.raises(TaskTimeoutError, match=rf"^{how} ran for more than {limit:g} s in worker") as caught:
            stuck.get(LIMIT)
        assert 0.9 * limit < time.monotonic() - began < 10 + limit
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.seconds == limit
        with pytest.raises(ProcessLookupError):
            os.kill(caught.value.pid, 0)
        assert others.get(LIMIT) == [0.01] * 20
        assert pool.map_async(tasks.first, [np.ones(100_000)] * 6, 1).get(LIMIT) == [1.0] * 6
    pool.join()


def test_what_ran_out_of_time_is_not_run_again(tmp_path):
    path = tmp_path / "runs"
    with arrowpool.get_context("fork").Pool(2, task_timeout=0.5, retries=5) as pool:
        with pytest.raises(TaskTimeoutError):
            pool.apply_async(tasks.note_pid_and_block_once, (str(path),)).get(LIMIT)
        assert len(path.read_text().split()) == 1
    pool.join()


def test_tasks_within_their_time_are_left_alone():
    """Each is shorter, all together far longer; a worker that idles has no time that could run out."""
    with arrowpool.get_context("fork").Pool(2, task_timeout=1.5) as pool:
        pids = {process.pid for process in pool._pool}
        assert pool.map_async(tasks.wait_for, [0.1] * 40, 1).get(LIMIT) == [0.1] * 40
        assert pool.map_async(tasks.square, range(2000), 1).get(LIMIT) == [x * x for x in range(2000)]
        time.sleep(1.6)  # idle for longer than a task may take
        assert {process.pid for process in pool._pool} == pids
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]
    pool.join()


def test_tasks_that_end_when_their_time_does():
    """Whatever comes first: each has its result or its error, and every other task its result."""
    late = "late"

    def outcome(result):
        try:
            return result.get(LIMIT)
        except TaskTimeoutError:
            return late

    with arrowpool.get_context("fork").Pool(2, task_timeout=0.05) as pool:
        results = [pool.apply_async(tasks.wait_for, (0.05,)) for _ in range(40)]
        assert {outcome(result) for result in results} <= {0.05, late}
        quick = [pool.apply_async(tasks.square, (i,)) for i in range(200)]
        assert all(outcome(result) in (i * i, late) for i, result in enumerate(quick))
    pool.join()


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("retries", None),
        ("task_timeout", 0),
        ("task_timeout", -1.0),
        ("task_timeout", float("inf")),
        ("task_timeout", "1 s"),
    ],
)
def test_wrong_extras(extra, wrong):
    with pytest.raises(ValueError, match=extra):
        arrowpool.Pool(1, **{extra: wrong})
