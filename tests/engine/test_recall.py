"""What is taken back from workers, and when: as tables. No process."""

from __future__ import annotations

import types

import pytest

from arrowpool.engine import recall, worker_handle
from arrowpool.engine.recall import Recall
from arrowpool.tuning import RECALL_SECONDS
from tests.workers import a_call, a_task, a_worker


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(recall, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def signalled(monkeypatch):
    """The processes that were sent a signal."""
    pids = []
    monkeypatch.setattr(worker_handle.os, "kill", lambda pid, _: pids.append(pid))
    return pids


class Watch:
    """A recall over these workers, acted on as the feeder does, and what it gave back."""

    def __init__(self, *workers):
        self.given_back = []
        self.recall = Recall(list(workers))

    def look(self):
        self._act_on(self.recall.look())

    def cancel(self, call):
        self._act_on(self.recall.cancel(call))

    def _act_on(self, recalled):
        for worker, number in recalled.interrupts:
            worker.interrupt(number)
        self.given_back += recalled.tasks


def test_there_is_nothing_to_watch_while_nothing_waits():
    assert not Watch().recall.is_pending()
    assert not Watch(a_worker(1), a_worker(0)).recall.is_pending()
    assert Watch(a_worker(2), a_worker(0)).recall.is_pending()
    assert Watch(a_worker(0, recalled=(0, 1))).recall.is_pending()


def test_what_waits_behind_a_long_task_is_given_to_others(clock):
    busy = a_worker(4)
    watch = Watch(busy, a_worker(0))
    tasks = list(busy.outstanding.values())
    busy.control.started = 1
    watch.look()  # it has just begun one
    clock.now += RECALL_SECONDS / 2
    watch.look()
    assert busy.recalled is None
    clock.now += 1.5 * RECALL_SECONDS
    watch.look()
    assert busy.control.recalled == [4]
    assert watch.given_back == []
    clock.now += RECALL_SECONDS / 2
    watch.look()
    assert watch.given_back == [], "it may have begun more of them before it could see that"
    busy.control.started = 2
    del busy.outstanding[2]  # said to be skipped, and so back already
    clock.now += 1.5 * RECALL_SECONDS
    watch.look()
    assert watch.given_back == [tasks[3]]
    assert list(busy.outstanding.values()) == tasks[:2]
    assert busy.recalled is None
    assert busy.last_frame == 0


def test_no_task_is_taken_back_while_all_workers_work_or_it_makes_progress(clock):
    busy, other = a_worker(3), a_worker(1)
    watch = Watch(busy, other)
    for _ in range(5):
        watch.look()
        clock.now += 1.5 * RECALL_SECONDS
    assert busy.control.recalled == [], "nobody else could take it"
    other.outstanding.clear()
    for started in range(1, 6):
        busy.control.started = started
        watch.look()
        clock.now += 1.5 * RECALL_SECONDS
    assert busy.control.recalled == [], "it makes progress"


def test_a_cancelled_call_is_taken_back_and_interrupted(clock, signalled):
    cancelled, other = a_call(1), a_call(2)
    mine, theirs, idle = a_worker(3, pid=11, call=cancelled), a_worker(2, pid=12, call=other), a_worker(0, pid=13)
    mine.control.started = theirs.control.started = 1
    watch = Watch(mine, theirs, idle)
    watch.cancel(cancelled)
    assert cancelled.cancelled
    assert mine.control.recalled == [3]
    assert theirs.control.recalled == idle.control.recalled == []
    assert mine.control.interrupted == [0]
    assert signalled == [11]
    clock.now += 1.5 * RECALL_SECONDS
    watch.look()
    # Once more: it may have begun another one, or gone on after the first signal.
    assert signalled == [11, 11]
    assert [task.index for task in watch.given_back] == [1, 2]
    assert list(mine.outstanding) == [0]


def test_a_running_task_of_another_call_is_not_interrupted(clock, signalled):
    cancelled = a_call(1)
    worker = a_worker(1, call=a_call(2))
    worker.outstanding[1] = a_task(cancelled)
    worker.sent = 2
    worker.control.started = 1
    Watch(worker).cancel(cancelled)
    assert worker.control.recalled == [2]
    assert signalled == []


def test_what_is_taken_back_again_is_taken_back_from_where_it_was_first(clock, signalled):
    worker = a_worker(3, call=a_call(1))
    worker.control.started = 1
    watch = Watch(worker)
    watch.cancel(next(iter(worker.outstanding.values())).call)
    worker.outstanding[3] = a_task(late := a_call(2))
    worker.sent = 4
    worker.control.started = 2
    clock.now += RECALL_SECONDS / 2
    watch.cancel(late)
    assert worker.recalled == (1, 4)
    clock.now += 1.5 * RECALL_SECONDS
    watch.look()
    assert list(worker.outstanding) == [0, 1]
    assert len(watch.given_back) == 2


def test_a_worker_that_was_joined_is_sent_no_signal(signalled):
    """The supervisor may join it before the feeder learns of its end; then its number may be another process's."""
    worker = a_worker(1)
    worker.process._popen = types.SimpleNamespace(returncode=None)
    worker.interrupt(0)
    assert signalled == [worker.process.pid]
    worker.process._popen.returncode = -9
    worker.interrupt(0)
    assert signalled == [worker.process.pid]
    assert worker.control.interrupted == [0, 0]
