"""Which tasks go in one frame, and what is in flight meanwhile: the feeder's parts over an arena, with workers that only keep
what they are sent. No process, no thread."""

from __future__ import annotations

import queue

import numpy as np
import pytest

from arrowpool.engine import events
from arrowpool.engine.calls import Call
from arrowpool.engine.feeder import Feeder
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.parts import assemble
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.state import PoolState
from arrowpool.memory.arena import Arena, create
from arrowpool.transport.protocol import read_orders
from arrowpool.transport.sender import Sender
from arrowpool.tuning import FRAME_BYTES, FRAME_PLACED_BYTES, KIB, MIB
from tests.workers import a_worker

SHORT = 1e-4


class House:
    """A feeder that is not started."""

    def __init__(self, budget=64 * MIB, workers=1):
        self.failed = []
        self.sender = Sender(Arena(create(256 * MIB)))
        parts = assemble(
            inbox=queue.SimpleQueue(),
            tell_collector=self.failed.append,
            cache={},
            sender=self.sender,
            budget=budget,
            one_by_one=False,
            workers=[],
            metrics=Metrics(),
            rested=print,
            recorder=Recorder(),
        )
        self.feeder = Feeder(
            parts=parts, tell_collector=self.failed.append, has_ended=print, state=PoolState(), metrics=Metrics()
        )
        self.workers = [a_worker(pid=number) for number in range(workers)]
        for worker in self.workers:
            self.feeder.parts.events.handle(events.WorkerJoined(worker))

    @property
    def live(self):
        return self.sender.lifecycle.bytes_live

    def begin(self, items, *, mean=SHORT, job=0):
        """A call whose tasks are known to be that short."""
        tasks = ((job, index, len, (item,), {}) for index, item in enumerate(items))
        self.call = Call(tasks, None, job=job, mean_seconds=mean, length=10_000)
        self.feeder.parts.events.handle(self.call)

    def run(self):
        self.feeder.parts.dispatcher.run()

    def frames(self, worker=0):
        """What was sent to a worker: for each frame, the bytes in segments of each of its tasks."""
        return [
            [sum(nbytes for _, _, nbytes, _ in grants) for _, grants in frame.tasks]
            for frame in read_orders(self.workers[worker].channel.sent)
        ]

    def answer(self, worker=0):
        """A worker has done all it was sent, and reads none of it any more."""
        done = self.workers[worker]
        tasks = list(done.outstanding.values())
        done.outstanding.clear()
        done.control.released_by_worker[list(self.sender.lifecycle._consumers[done].grants)] = 1
        self.feeder.answered(tasks, True)
        self.feeder._settlement.settle_answered()
        self.feeder.parts.reclaim.reap()

    def close(self):
        self.feeder._let_go()
        self.sender.close()


@pytest.fixture
def house():
    built = []

    def build(**how):
        built.append(House(**how))
        return built[-1]

    yield build
    for one in built:
        one.close()


def arrays(count, nbytes):
    return (np.full(nbytes, index % 251, dtype=np.uint8) for index in range(count))


@pytest.mark.parametrize("nbytes", [40 * KIB, 240 * KIB, 600 * KIB, 3 * MIB])
def test_short_tasks_with_memory_share_a_frame_up_to_its_bytes(house, nbytes):
    house = house()
    house.begin(arrays(60, nbytes))
    house.run()
    first, second = house.frames()
    assert len(first) == len(second) == max(1, FRAME_PLACED_BYTES // nbytes)
    assert all(size == nbytes for size in first)


@pytest.mark.parametrize("nbytes", [KIB, 12 * KIB, 30 * KIB])
def test_small_memory_goes_in_the_pipe_up_to_its_bytes(house, nbytes):
    house = house()
    house.begin(arrays(200, nbytes))
    house.run()
    first, second = house.frames()
    assert first == [0] * len(first)
    assert len(first) == len(second)
    assert 0.4 * FRAME_BYTES < len(first) * nbytes <= FRAME_BYTES


@pytest.mark.parametrize("mean", [None, 0.5])
def test_what_is_not_known_to_be_short_goes_alone(house, mean):
    house = house()
    house.begin(arrays(10, 40 * KIB), mean=mean)
    house.run()
    assert [len(frame) for frame in house.frames()] == [1]


def test_what_goes_in_a_frame_counts_as_in_flight_while_it_is_gathered(house):
    """Or the second would be taken for one that travels alone."""
    house = house(budget=100 * KIB)
    house.begin(arrays(60, 40 * KIB))
    house.run()
    assert house.frames() == [[40 * KIB, 40 * KIB]]
    assert house.live <= 100 * KIB
    assert house.feeder._backlog.waits
    house.answer()
    house.run()
    assert [len(frame) for frame in house.frames()] == [2, 2]
    assert house.live <= 100 * KIB


def test_what_is_encoded_ahead_stays_in_the_caches(house):
    house = house()
    house.begin(arrays(200, 240 * KIB))
    house.run()
    assert len(house.frames()) == 2
    assert house.live <= 5 * FRAME_PLACED_BYTES


def test_what_is_encoded_ahead_is_what_the_workers_need_next(house):
    house = house(workers=3)
    house.begin(arrays(200, 3 * MIB))
    house.run()
    assert len(house.feeder._backlog._ahead) == 3


def test_what_is_taken_back_is_sent_to_another_worker_and_freed_once(house):
    house = house(workers=2)
    house.begin(arrays(8, 240 * KIB))
    house.run()
    slow, other = house.workers
    assert len(slow.outstanding) > 1
    house.answer(1)
    # The worker has begun its first task, which does not end; then it says that it has skipped the others.
    slow.control.started = 1
    taken = [slow.outstanding.pop(number) for number in list(slow.outstanding)[1:]]
    house.feeder.parts.events.handle(events.Returned(taken))
    house.run()
    assert [task.index for task in taken] == [task.index for task in list(other.outstanding.values())[: len(taken)]]
    for _ in range(5):
        house.answer(0)
        house.answer(1)
        house.run()
    assert house.sender.lifecycle.live == set()
    assert house.call.pending == 0


def test_a_worker_that_dies_gives_the_memory_of_its_frame_back(house):
    house = house(workers=2)
    house.begin(arrays(8, 240 * KIB))
    house.run()
    dead, other = house.workers
    begun, *rest = [dead.outstanding.pop(number) for number in list(dead.outstanding)]
    assert rest
    # As the collector does it: the task that ran is lost, the others come back.
    house.feeder.parts.events.handle(events.WorkerExited(dead, -9))
    house.feeder.parts.events.handle(events.Returned(rest))
    house.feeder.answered([begun], True)
    house.feeder._settlement.settle_answered()
    for _ in range(8):
        house.answer(1)
        house.run()
    assert house.sender.lifecycle.live == set()
    assert house.call.pending == 0
    assert not other.outstanding


def test_a_cancelled_call_gives_back_what_waits_in_workers_and_ahead(house):
    house = house(workers=2)
    house.begin(arrays(200, 240 * KIB))
    house.run()
    house.feeder.parts.events.handle(events.Cancelled(0))
    house.answer(0)
    house.answer(1)
    assert house.sender.lifecycle.live == set()


def test_leases_that_are_used_up_fail_only_the_tasks_without_one(house, monkeypatch):
    monkeypatch.setattr("arrowpool.memory.lifecycle.LEASE_SLOTS", 2)
    house = house()
    house.begin(arrays(4, 40 * KIB), mean=SHORT)
    house.run()
    assert house.frames() == [[40 * KIB], [40 * KIB]]
    assert [event.index for event in house.failed] == [2, 3]
    house.answer()
    assert house.sender.lifecycle.live == set()


def numbers(count, *, then=()):
    """Plain items; what comes after them is none."""
    yield from range(count)
    yield from then


def test_plain_tasks_are_taken_many_at_a_time_up_to_what_is_not_plain(house):
    house = house()
    house.begin(numbers(1000, then=arrays(2, 40 * KIB)))
    house.run()
    indexes = []
    for _ in range(20):
        indexes += [task.index for task in house.workers[0].outstanding.values()]
        house.answer()
        house.run()
    assert indexes == list(range(1002))
    assert house.call.exhausted
    assert house.call.pending == 0
    assert sum(len(frame) for frame in house.frames()) == 1002
    assert house.sender.lifecycle.live == set()


def test_an_error_of_the_iterable_behind_plain_tasks_is_the_next_ones(house):
    house = house()

    def fails():
        yield from numbers(300)
        raise SystemExit("the iterable ends so")

    house.begin(fails())
    for _ in range(20):
        house.run()
        house.answer()
    assert sum(len(frame) for frame in house.frames()) == 300
    assert [event.index for event in house.failed] == [300]
    assert house.call.pending == 0


def encode_ahead(house, most, least):
    """As the dispatcher does when no worker is free; return how many tasks were encoded."""
    backlog = house.feeder._backlog
    before = len(backlog._ahead)
    while backlog.encode_ahead(most, least):
        pass
    return len(backlog._ahead) - before


def use_one(house):
    house.feeder._settlement.settle(house.feeder._backlog._ahead.popleft())


def test_tasks_are_encoded_ahead_in_bursts(house):
    house = house(workers=0)
    house.begin(arrays(400, KIB))
    most, least = 40, 2
    assert encode_ahead(house, most, least) == most
    for _ in range(most // 2):
        use_one(house)
        assert encode_ahead(house, most, least) == 0, "half of them are left"
    use_one(house)
    assert encode_ahead(house, most, least) == most // 2 + 1


def test_a_burst_ends_when_so_much_is_in_flight_and_begins_when_half_of_it_is(house):
    house = house(workers=0)
    house.begin(arrays(400, 256 * KIB))
    most, least = 40, 2
    in_flight = least * 2 * FRAME_PLACED_BYTES // (256 * KIB)
    assert encode_ahead(house, most, least) == in_flight + 1
    for _ in range(in_flight // 2):
        use_one(house)
        assert encode_ahead(house, most, least) == 0
    use_one(house)
    assert encode_ahead(house, most, least) == in_flight // 2 + 1


def test_where_few_are_encoded_ahead_each_that_is_used_is_replaced(house):
    house = house(workers=0)
    house.begin(arrays(40, KIB))
    assert encode_ahead(house, 2, 2) == 2
    use_one(house)
    assert encode_ahead(house, 2, 2) == 1
