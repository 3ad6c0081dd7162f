"""What a pool says of itself: bytes, copies, times, and why something was not shared."""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from multiprocessing import TimeoutError

import numpy as np
import pandas as pd
import polars as pl
import pytest

from arrowpool import TaskTimeoutError, WorkerLostError
from arrowpool.codecs.explain import reasons
from arrowpool.engine import metrics
from arrowpool.engine.recorder import Activity
from arrowpool.memory import platform
from tests.conftest import forked_only
from tests.pool import tasks

# What a pool counts is counted from its beginning.
pytestmark = pytest.mark.own_pool

SIZE = 100_000


def test_what_moved(our_pool):
    array = np.ones(SIZE)
    assert our_pool.map(tasks.double, [array + i for i in range(4)], 1)[3][0] == 8
    stats = our_pool.stats()
    assert stats.tasks == 4
    assert stats.shared_bytes == 8 * array.nbytes
    assert stats.copies == 8
    assert stats.copies_saved == stats.saved_bytes == 0
    assert 0 < stats.piped_bytes < 8000
    assert stats.peak_segments >= 1
    assert stats.peak_bytes >= array.nbytes
    assert stats.pickled == ()


@forked_only
def test_copies_that_were_saved(our_pool):
    array = np.ones(SIZE)
    our_pool.map(tasks.first, [array] * 10, 1)
    stats = our_pool.stats()
    assert (stats.copies, stats.copies_saved) == (1, 9)
    assert 9 * array.nbytes <= stats.saved_bytes <= 9 * platform.page_ceil(round(1.01 * array.nbytes))
    our_pool.map(functools.partial(tasks.pick, array), range(10), 1)
    stats = our_pool.stats()
    assert (stats.copies, stats.copies_saved) == (2, 18)
    with our_pool.share(array):
        our_pool.map(functools.partial(tasks.pick, array), range(10), 1)
        our_pool.map(tasks.first, [array] * 10, 1)
    stats = our_pool.stats()
    assert stats.copies == 3
    windows = [array[at : at + SIZE // 2] for at in range(0, SIZE // 2, SIZE // 20)]
    before = stats.saved_bytes
    our_pool.map(tasks.first, windows, 1)
    saved = our_pool.stats().saved_bytes - before
    visible = sum(window.nbytes for window in windows)
    assert visible - array.nbytes <= saved <= visible - 0.9 * array.nbytes


def test_where_the_time_went(our_pool):
    our_pool.map(tasks.wait_for, [0.2, 0.2, 0.01, 0.01], 1)
    stats = our_pool.stats()
    workers = [worker for worker in stats.workers if worker.alive]
    assert {worker.pid for worker in workers} <= {process.pid for process in our_pool._pool}
    assert sum(worker.tasks for worker in workers) == 4
    assert sum(worker.run for worker in workers) >= 0.42
    for worker in workers:
        assert worker.run + worker.decode + worker.encode + worker.wait == pytest.approx(worker.seconds)
    assert [task.function for task in stats.slowest] == ["wait_for"] * 4
    assert [task.seconds >= 0.2 for task in stats.slowest] == [True, True, False, False]
    assert {task.index for task in stats.slowest[:2]} == {0, 1}
    assert {task.items for task in stats.slowest[:2]} == {"item 0 of 4", "item 1 of 4"}
    with pytest.raises(WorkerLostError):
        our_pool.apply(tasks.die, ("sigkill",))
    assert [worker.alive for worker in our_pool.stats().workers].count(False) == 1


def test_tasks_that_are_killed_ran_until_then(ours):
    with ours.pool(2, task_timeout=1.0) as pool:
        assert pool.apply(abs, (-1,)) == 1
        failed = pool.map(tasks.wait_for, [60.0, 60.0], 2, on_error="return")
        assert [type(error) for error in failed] == [TaskTimeoutError] * 2
        with pytest.raises(WorkerLostError):
            pool.apply(tasks.die, ("sigkill",))
        stats = pool.stats()
    pool.join()
    assert (stats.tasks, stats.timeouts, stats.lost, stats.lost_tasks) == (1, 1, 1, 2)
    assert 1.0 <= stats.lost_run <= stats.run
    killed = next(worker for worker in stats.workers if worker.pid == failed[0].pid)
    assert not killed.alive
    assert killed.run >= 1.0
    assert killed.decode + killed.run + killed.encode + killed.wait == pytest.approx(killed.seconds)
    slowest = stats.slowest[0]
    assert (slowest.items, slowest.index, slowest.ended) == ("item 0 of 2", 0, "was killed for time")
    assert slowest.seconds >= 1.0
    assert "was killed by SIGKILL" in {one.ended for one in stats.slowest}
    assert "2 tasks ended with their workers" in stats.verdict
    assert "1 task, and 2 that ended with their worker" in repr(stats)


def test_a_task_that_runs_is_no_wait(our_pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    result = our_pool.apply_async(tasks.wait_for_file_open, (str(gate),))
    os.close(os.open(gate, os.O_WRONLY))  # the task has begun
    stats = our_pool.stats()
    (busy,) = [worker for worker in stats.workers if worker.running]
    assert stats.running == busy.running > 0
    assert busy.run + busy.running + busy.decode + busy.wait == pytest.approx(busy.seconds)
    gate.unlink()
    assert result.get(30) == "read"
    since = our_pool.stats().since(stats)
    assert (since.tasks, since.running) == (1, 0.0)


def test_a_task_that_runs_at_the_end_of_the_pool_ran_until_then(ours, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with ours.pool(1) as pool:
        pool.apply_async(tasks.wait_for_file_open, (str(gate),))
        os.close(os.open(gate, os.O_WRONLY))  # the task has begun
    pool.join()
    stats = pool.stats()
    assert (stats.tasks, stats.lost_tasks, stats.running) == (0, 1, 0.0)
    assert 0 < stats.lost_run == stats.run


def test_after_the_end(ours):
    with ours.pool(2) as pool:
        pool.map(tasks.wait_for, [0.01] * 4, 1)
        before = pool.stats()
    pool.join()
    after = pool.stats()
    assert after.tasks == before.tasks == 4
    assert {worker.pid: worker.tasks for worker in after.workers if worker.tasks} == {
        worker.pid: worker.tasks for worker in before.workers if worker.tasks
    }
    assert not any(worker.alive for worker in after.workers)
    assert after.run == pytest.approx(before.run)
    assert after.seconds > 0
    assert after == pool.stats()  # no clock runs on
    assert repr(after).endswith(after.verdict)
    assert after.verdict


def test_what_the_workers_computed(our_pool):
    our_pool.map(tasks.wait_for, [0.2] * 2, 1)
    asleep = our_pool.stats()
    assert 0 < asleep.cpu < asleep.run / 2
    our_pool.map(sum, [range(1_000_000)] * 4, 1)
    awake = our_pool.stats().since(asleep)
    assert awake.cpu > 0
    assert asleep.spent.costs.waits


@forked_only
def test_the_time_of_users_code(our_pool):
    def slowly():
        for number in range(5):
            time.sleep(0.05)
            yield number

    assert list(our_pool.imap(abs, slowly())) == list(range(5))
    stats = our_pool.stats()
    assert stats.user >= 0.25
    assert stats.spent.costs.serial >= 0.25  # a loop would wait as well


@forked_only
def test_calls_that_are_cut_short_stop_the_clock(our_pool):
    results = our_pool.imap(tasks.wait_for, [60.0] * 4)
    with pytest.raises(TimeoutError):
        results.next(0.1)
    results.close()
    our_pool.apply(abs, (1,))
    until = time.monotonic() + 30
    while our_pool.stats().seconds != our_pool.stats().seconds:
        assert time.monotonic() < until


def test_what_is_alive(our_pool):
    results = our_pool.map(tasks.frame_of, range(3), 1)
    stats = our_pool.stats()
    assert stats.live_results >= 3
    assert stats.live_result_bytes >= sum(result.memory_usage(index=False).sum() for result in results)
    del results
    assert our_pool.stats().live_results == 0


def test_why_something_was_pickled(our_pool):
    mixed = pd.DataFrame({"x": np.ones(SIZE), "note": [i if i % 2 else str(i) for i in range(SIZE)]})
    our_pool.map(tasks.length, [mixed] * 2, 1)
    stats = our_pool.stats()
    assert [one.why for one in stats.pickled] == ["column 'note': object dtype with int, str"]
    assert stats.pickled[0].nbytes > SIZE
    our_pool.apply(tasks.listed, (SIZE,))
    assert [one.why for one in our_pool.stats().pickled][1:] == ["list of int: nothing in it offers its memory"]


REASONS = [
    (pd.DataFrame({"a": [1.0], "b": [{}]}), ["column 'b': object dtype with dict"]),
    (
        pd.Series(["a", None], dtype=object, name="s"),
        ["series 's': object dtype with NoneType, str, often the same; a string or categorical dtype would be shared"],
    ),
    (pd.DataFrame({"a": [1]}, index=pd.Index([1, "a"], dtype=object)), ["index: object dtype with int, str"]),
    ({"deep": [(np.array([1, None]),)]}, ["array: object dtype with NoneType, int"]),
    (pl.DataFrame({"x": [1]}).lazy(), ["LazyFrame: a plan, not data; collect() it"]),
    (pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), ["column 'o': polars Object dtype"]),
    (
        pl.DataFrame({"l": [[1], [2, 3]]}),
        ["column 'l': lists that polars has marked (FAST_EXPLODE), which only polars itself can write"],
    ),
    (
        pl.Series("l", [[1], [2, 3]]),
        ["series 'l': lists that polars has marked (FAST_EXPLODE), which only polars itself can write"],
    ),
    (np.array([1, {}] * 9, dtype=object)[::2].reshape(3, 3).T, ["array: object dtype with int"]),
    (tasks.Scaled(np.array([{}], dtype=object)), ["array: object dtype with dict"]),
    (["x" * 5000], ["str: pickle copies it"]),
    ({1, 2}, ["set of int: nothing in it offers its memory"]),
    (np.ones(3), ["ndarray: small ones travel in the stream"]),
    ([("a", pd.DataFrame({"x": [1.0]}), np.ones(3))], ["DataFrame, ndarray: small ones travel in the stream"]),
    ([pd.DataFrame({"x": [1.0]})] * 300, ["DataFrame: small ones travel in the stream"]),
    (
        [pd.DataFrame({"x": np.ones(5_000), "n": range(5_000)})] * 3,
        ["DataFrame: parts below 32 kB travel in the stream"],
    ),
    ({"a": np.ones(9), "s": pd.Series(np.ones(9_000))}, ["Series, ndarray: parts below 32 kB travel in the stream"]),
    (pl.DataFrame({"x": np.ones(9_000), "s": ["a"] * 9_000}), ["DataFrame: parts below 32 kB travel in the stream"]),
    ([pd.Index(range(10_000_000))], ["RangeIndex: small ones travel in the stream"]),
]


@pytest.mark.parametrize(("obj", "expected"), REASONS, ids=[str(i) for i in range(len(REASONS))])
def test_reasons(obj, expected):
    assert reasons(obj) == expected


def test_reasons_end_when_an_object_refers_to_itself():
    cycle = []
    cycle.append(cycle)
    assert reasons(cycle) == ["list of list: nothing in it offers its memory"]


def test_what_raises_when_it_is_looked_into_is_sent_all_the_same(our_pool):
    many = tasks.no_truth_of([str(i) for i in range(SIZE)])
    assert our_pool.apply(tasks.size_of_dict, (many,)) == SIZE
    assert our_pool.map(tasks.size_of_dict, [many]) == [SIZE]
    assert tasks.size_of_dict(our_pool.apply(tasks.identity, (many,))) == SIZE
    assert {one.why for one in our_pool.stats().pickled} <= {
        "NoTruth of int: nothing in it offers its memory",
        "list of NoTruth: nothing in it offers its memory",
    }


class Unnameable:
    def __repr__(self):
        raise ValueError("no name")


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (tasks.no_truth_of(range(300)), ["NoTruth of int: nothing in it offers its memory"]),
        (tasks.Proxy(), ["Proxy: nothing in it offers its memory"]),
        (pd.DataFrame({Unnameable(): ["a", 1]}), ["DataFrame: cannot be looked into"]),
    ],
    ids=["container", "proxy", "column"],
)
def test_reasons_are_found_without_the_code_of_users(obj, expected):
    assert reasons(obj) == expected


@forked_only
def test_a_hint_is_given_once(our_pool, caplog, monkeypatch):
    monkeypatch.setattr(metrics, "_hinted", set())
    monkeypatch.setattr(metrics, "_WORTH_A_HINT", 100_000)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            our_pool.apply(tasks.length, (list(range(SIZE)),))
    assert len(caplog.records) == 1
    assert "list of int" in caplog.text


def test_stats_as_text_and_as_html(our_pool):
    our_pool.map(tasks.double, [np.ones(SIZE)] * 3, 1)
    our_pool.apply(tasks.length, (["<tag>" * 20_000],))
    stats = our_pool.stats()
    text = repr(stats)
    assert text.startswith("4 tasks\n")
    for part in (
        "copied once into shared memory",
        "where the workers' time went",
        "slowest tasks",
        "pickled, not shared",
    ):
        assert part in text
    page = stats._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 4
    assert stats.verdict in text
    assert page.endswith(f"<p>{stats.verdict}</p>")
    assert re.search(r"state=RUN pool_size=2 \| segments: \d+ \(.*\) \| leases: \d+>", repr(our_pool))
    assert "&lt;" in our_pool._repr_html_()
    assert stats == stats
    with pytest.raises(AttributeError):
        stats.tasks = 0


def test_cutting_and_joining_a_frame_is_counted(our_pool):
    frame = pd.DataFrame({"key": np.arange(3000) % 300, "x": np.ones(3000)})
    our_pool.map(tasks.square, [1])
    assert our_pool.stats().framing == 0.0
    our_pool.map_frame(tasks.identity, frame)
    of_map_frame = our_pool.stats().framing
    assert of_map_frame > 0
    before = our_pool.stats()
    with our_pool.trace() as trace:
        our_pool.map_groups(tasks.identity, frame, by="key")
    since = our_pool.stats().since(before)
    noted = [bar for row in trace.rows for bar in row.bars if bar.activity in (Activity.CUT, Activity.JOIN)]
    assert [bar.activity for bar in noted] == [Activity.CUT, Activity.JOIN]
    assert sum(bar.ended - bar.began for bar in noted) / 1e9 >= since.framing * 0.999
    assert since.spent.costs.pool == pytest.approx(since.seconds + since.framing)
    assert dict(our_pool.imap_groups(tasks.length, frame, by="key")) == dict.fromkeys(range(300), 10)
    assert our_pool.stats().framing > since.framing + of_map_frame
