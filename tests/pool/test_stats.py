"""What a pool says of itself: bytes, copies, times, and why something was not shared."""

from __future__ import annotations

import functools
import logging
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest

from arrowpool import WorkerLostError
from arrowpool.codecs.explain import reasons
from arrowpool.engine import metrics
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


def test_copies_that_were_saved(our_pool):
    array = np.ones(SIZE)
    our_pool.map(tasks.first, [array] * 10, 1)
    stats = our_pool.stats()
    assert (stats.copies, stats.copies_saved) == (1, 9)
    assert stats.saved_bytes == pytest.approx(9 * array.nbytes, rel=0.01)
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
    with pytest.raises(WorkerLostError):
        our_pool.apply(tasks.die, ("sigkill",))
    assert [worker.alive for worker in our_pool.stats().workers].count(False) == 1


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
    (np.array([1, {}] * 9, dtype=object)[::2].reshape(3, 3).T, ["array: object dtype with int"]),
    (tasks.Scaled(np.array([{}], dtype=object)), ["array: object dtype with dict"]),
    (["x" * 5000], ["str: pickle copies it"]),
    ({1, 2}, ["set of int: nothing in it offers its memory"]),
    (np.ones(3), ["ndarray: nothing in it offers its memory"]),
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


def test_a_hint_is_given_once(our_pool, caplog, monkeypatch):
    monkeypatch.setattr(metrics, "_hinted", False)
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
    assert re.search(r"state=RUN pool_size=2 \| segments: \d+ \(.*\) \| leases: \d+>", repr(our_pool))
    assert "&lt;" in our_pool._repr_html_()
    assert stats == stats
    with pytest.raises(AttributeError):
        stats.tasks = 0
