"""What a pool notes down, and what is made of it. No process."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from arrowpool.engine import metrics as module
from arrowpool.engine.metrics import Metrics
from tests.workers import a_call, a_task, a_worker


@pytest.fixture
def metrics(monkeypatch):
    monkeypatch.setattr(module, "_hinted", set())
    return Metrics()


def test_times_are_added_up_by_worker(metrics):
    one, other = a_worker(pid=1), a_worker(pid=2)
    task = a_task(a_call())
    for _ in range(3):
        metrics.answered(one, task, 1.0, 2.0, 3.0)
    metrics.answered(other, task, 0.5, 0.5, 0.5)
    assert metrics.tasks == 4
    first, second = metrics.workers([one, other])
    assert (first.pid, first.tasks, first.decode, first.run, first.encode) == (1, 3, 3.0, 6.0, 9.0)
    assert (second.pid, second.tasks) == (2, 1)
    assert first.alive
    assert second.alive


def test_workers_that_have_ended_come_behind_the_newest_first(metrics):
    workers = [a_worker(pid=number) for number in range(4)]
    for worker in workers[1:3]:
        metrics.ended(worker)
    assert [(worker.pid, worker.alive) for worker in metrics.workers(workers)] == [
        (0, True),
        (3, True),
        (2, False),
        (1, False),
    ]
    assert all(worker.seconds >= 0 for worker in metrics.workers(workers))


def test_not_all_that_have_ended_are_kept(metrics):
    for number in range(module._ENDED_KEPT + 10):
        metrics.ended(a_worker(pid=number))
    kept = metrics.workers([])
    assert [worker.pid for worker in kept] == list(range(module._ENDED_KEPT + 9, 9, -1))


@pytest.mark.parametrize("order", [range(20), range(19, -1, -1), [*range(0, 20, 2), *range(1, 20, 2)]])
def test_the_slowest_tasks(metrics, order):
    call = a_call()
    call.function = len
    worker = a_worker()
    for seconds in order:
        metrics.answered(worker, a_task(call, index=100 + seconds), 9.0, float(seconds), 9.0)
    slowest = metrics.slowest()
    assert [(slow.index, slow.seconds) for slow in slowest] == [(100 + s, float(s)) for s in (19, 18, 17, 16, 15)]
    assert {slow.function for slow in slowest} == {"len"}


@pytest.mark.parametrize("references", [1, 2, 7])
def test_what_is_referred_to_saves_all_copies_but_one(metrics, references):
    metrics.placed_for_many(1000)
    for _ in range(references):
        metrics.saved(1000)
    assert metrics.copies_saved == references - 1
    assert metrics.saved_bytes == 1000 * (references - 1)


def test_reasons_for_pickling(metrics, monkeypatch):
    monkeypatch.setattr(module, "reasons", lambda obj: [obj])
    for why, nbytes in (("rare", 10), ("often", 5), ("often", 6), ("often", 7)):
        metrics.pickled(why, nbytes)
    assert [(one.why, one.count, one.nbytes) for one in metrics.reasons()] == [("often", 3, 18), ("rare", 1, 10)]


def test_reasons_are_not_looked_for_again_and_again(metrics, monkeypatch):
    looks = []
    monkeypatch.setattr(module, "reasons", lambda obj: looks.append(obj) or ["a reason"])
    for _ in range(module._LOOKS + 50):
        metrics.pickled("object", 2)
    assert len(looks) == module._LOOKS
    assert {one.why: one.count for one in metrics.reasons()} == {"a reason": module._LOOKS, "not looked into": 50}


def test_it_says_once_that_much_is_pickled(metrics, caplog):
    metrics.pickled([], module._WORTH_A_HINT - 1)
    assert not caplog.records
    for _ in range(3):
        metrics.pickled([], module._WORTH_A_HINT)
    assert caplog.text.count("were pickled instead of shared") == 1


def test_what_is_pickled_in_parts_adds_up(metrics, caplog):
    for _ in range(module._LOOKS * 2):
        metrics.pickled(["x"], module._WORTH_A_HINT // module._LOOKS // 2)
    assert caplog.text.count("10.0 MB were pickled instead of shared: list of str") == 0
    for _ in range(module._LOOKS):
        metrics.pickled(["x"], module._WORTH_A_HINT // module._LOOKS // 2)
    # From some point on, reasons are not looked for: it still names the one that it knows.
    assert caplog.text.count("were pickled instead of shared: list of str") == 1


def test_each_reason_is_said_but_not_without_end(metrics, monkeypatch, caplog):
    monkeypatch.setattr(module, "reasons", lambda obj: [obj])
    for number in range(20):
        metrics.pickled(f"reason {number}", module._WORTH_A_HINT)
    assert [record.args[1] for record in caplog.records] == [f"reason {number}" for number in range(module._HINTS)]


def test_small_ones_are_counted_one_by_one_and_not_warned_of(metrics, caplog):
    frame = pd.DataFrame({"x": np.ones(10)})
    metrics.pickled(tuple((str(number), frame) for number in range(1000)), 2 * module._WORTH_A_HINT)
    (one,) = metrics.reasons()
    assert (one.why, one.count) == ("DataFrame: small ones travel in the stream", 1000)
    assert not caplog.records


def test_small_parts_of_large_ones_are_not_warned_of_and_not_called_small(metrics, caplog):
    frame = pd.DataFrame({"x": np.ones(5_000), "n": np.arange(5_000, dtype="int32")})
    metrics.pickled([frame] * 500, 2 * module._WORTH_A_HINT)
    (one,) = metrics.reasons()
    assert (one.why, one.count) == ("DataFrame: parts below 32 kB travel in the stream", 500)
    assert not caplog.records
