"""What a pool notes down, and what is made of it. No process."""

from __future__ import annotations

import pytest

from arrowpool.engine import metrics as module
from arrowpool.engine.metrics import Ledger
from tests.lanes import a_call, a_lane, a_task


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.setattr(module, "_hinted", False)
    return Ledger()


def test_times_are_added_up_by_worker(ledger):
    one, other = a_lane(pid=1), a_lane(pid=2)
    task = a_task(a_call())
    for _ in range(3):
        ledger.answered(one, task, 1.0, 2.0, 3.0)
    ledger.answered(other, task, 0.5, 0.5, 0.5)
    assert ledger.tasks == 4
    first, second = ledger.workers([one, other])
    assert (first.pid, first.tasks, first.decode, first.run, first.encode) == (1, 3, 3.0, 6.0, 9.0)
    assert (second.pid, second.tasks) == (2, 1)
    assert first.alive
    assert second.alive


def test_workers_that_have_ended_come_behind_the_newest_first(ledger):
    lanes = [a_lane(pid=number) for number in range(4)]
    for lane in lanes[1:3]:
        ledger.ended(lane)
    assert [(worker.pid, worker.alive) for worker in ledger.workers(lanes)] == [
        (0, True),
        (3, True),
        (2, False),
        (1, False),
    ]
    assert all(worker.seconds >= 0 for worker in ledger.workers(lanes))


def test_not_all_that_have_ended_are_kept(ledger):
    for number in range(module._ENDED_KEPT + 10):
        ledger.ended(a_lane(pid=number))
    kept = ledger.workers([])
    assert [worker.pid for worker in kept] == list(range(module._ENDED_KEPT + 9, 9, -1))


@pytest.mark.parametrize("order", [range(20), range(19, -1, -1), [*range(0, 20, 2), *range(1, 20, 2)]])
def test_the_slowest_tasks(ledger, order):
    call = a_call()
    call.function = len
    lane = a_lane()
    for seconds in order:
        ledger.answered(lane, a_task(call, index=100 + seconds), 9.0, float(seconds), 9.0)
    slowest = ledger.slowest()
    assert [(slow.index, slow.seconds) for slow in slowest] == [(100 + s, float(s)) for s in (19, 18, 17, 16, 15)]
    assert {slow.function for slow in slowest} == {"len"}


@pytest.mark.parametrize("references", [1, 2, 7])
def test_what_is_referred_to_saves_all_copies_but_one(ledger, references):
    ledger.placed_for_many(1000)
    for _ in range(references):
        ledger.saved(1000)
    assert ledger.copies_saved == references - 1
    assert ledger.saved_bytes == 1000 * (references - 1)


def test_reasons_for_pickling(ledger, monkeypatch):
    monkeypatch.setattr(module, "reasons", lambda obj: [obj])
    for why, nbytes in (("rare", 10), ("often", 5), ("often", 6), ("often", 7)):
        ledger.pickled(why, nbytes)
    assert [(one.why, one.count, one.nbytes) for one in ledger.reasons()] == [("often", 3, 18), ("rare", 1, 10)]


def test_reasons_are_not_looked_for_again_and_again(ledger, monkeypatch):
    looks = []
    monkeypatch.setattr(module, "reasons", lambda obj: looks.append(obj) or ["a reason"])
    for _ in range(module._LOOKS + 50):
        ledger.pickled("object", 2)
    assert len(looks) == module._LOOKS
    assert {one.why: one.count for one in ledger.reasons()} == {"a reason": module._LOOKS, "not looked into": 50}


def test_it_says_once_that_much_is_pickled(ledger, caplog):
    ledger.pickled([], module._WORTH_A_HINT - 1)
    assert not caplog.records
    for _ in range(3):
        ledger.pickled([], module._WORTH_A_HINT)
    assert caplog.text.count("were pickled instead of shared") == 1
