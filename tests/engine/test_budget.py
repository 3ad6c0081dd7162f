"""The budget, and what gives memory back to it, as a table. No process, no memory."""

from __future__ import annotations

import pytest

from arrowpool.engine.budget import Budget, Verdict
from arrowpool.engine.reclaim import Reclaim
from arrowpool.memory.lifecycle import Segment
from arrowpool.transport.protocol import trim
from arrowpool.transport.sender import Sender
from arrowpool.tuning import FRAME_PLACED_BYTES
from tests.workers import a_task, a_worker

BUDGET = 1000


class House:
    """A budget, the lifecycle of a sender without an arena, and stand-ins for workers."""

    def __init__(self, workers=2):
        self.sender = Sender(None)
        self.workers = [a_worker(pid=number) for number in range(workers)]
        for worker in self.workers:
            self.sender.lifecycle.consumer_joined(worker)
        self.ahead = [a_task()]
        self.reclaim = Reclaim(self.sender, self.workers)
        self.budget = Budget(BUDGET, self.sender.lifecycle, self.reclaim, self.workers, self.ahead)

    def be_in_flight(self, in_flight):
        self.ahead[:] = [a_task()] if in_flight else []

    def place(self, nbytes):
        segment = Segment(0, nbytes)
        self.sender.lifecycle.placed(segment)
        return segment

    def grant(self, segment, worker):
        return self.sender.lifecycle.grant(segment, self.workers[worker])


@pytest.mark.parametrize(
    ("live", "pinned", "in_flight", "asked", "fits"),
    [
        (0, 0, True, BUDGET, True),
        (0, 0, True, BUDGET + 1, False),
        (0, 0, False, BUDGET + 1, True),  # alone
        (400, 0, True, 600, True),
        (400, 0, True, 601, False),
        (400, 0, False, 601, True),  # nothing will end that would make room
        (5000, 0, True, 0, False),
        # What users have said shall stay is not in flight.
        (5000, 5000, True, BUDGET, True),
        (5000, 4600, True, 601, False),
    ],
)
def test_what_fits_the_budget(live, pinned, in_flight, asked, fits):
    house = House()
    if live:
        house.place(live)
    house.budget.pinned = pinned
    house.be_in_flight(in_flight)
    assert house.budget.fits(asked) is fits


@pytest.mark.parametrize(
    ("live", "asked", "fits"),
    [(0, BUDGET // 2, True), (0, BUDGET // 2 + 1, False), (500, 500, True), (501, 500, False)],
)
def test_what_is_for_many_tasks_leaves_half_to_those_in_flight(live, asked, fits):
    house = House()
    if live:
        house.place(live)
    assert house.budget.fits_for_many(asked) is fits


def test_what_was_answered_makes_room():
    house = House()
    answered = house.place(BUDGET)
    assert not house.budget.fits(1)
    house.sender.unpin([answered])
    assert house.budget.fits(BUDGET)
    assert house.sender.lifecycle.bytes_live == 0


def test_what_is_in_flight():
    house = House()
    assert house.budget.in_flight(), "a task is encoded ahead"
    house.be_in_flight(False)
    assert not house.budget.in_flight()
    house.workers[1].outstanding[0] = a_task()
    assert house.budget.in_flight()


def test_what_workers_have_released_makes_room():
    house = House()
    segment = house.place(BUDGET)
    slots = [house.grant(segment, worker) for worker in (0, 1)]
    house.sender.unpin([segment])
    for worker, slot in zip(house.workers, slots, strict=True):
        assert not house.budget.fits(1), "one has it still"
        worker.control.released_by_worker[slot] = 1
    assert house.budget.fits(BUDGET)
    assert not any(worker.control.released_by_worker.any() for worker in house.workers)
    for worker in house.workers:
        assert worker.control.arguments.leases == 0, "others read that"


def test_idle_workers_trim_at_once_except_the_one_that_asks():
    house = House(workers=4)
    asking, idle, busy, gone = house.workers
    busy.outstanding[0] = None
    gone.channel.gone = True
    house.reclaim.trim_all(asking)
    assert idle.channel.sent == [trim()]
    assert asking.channel.sent == busy.channel.sent == []
    house.reclaim.trim_all()
    assert len(asking.channel.sent) == 1


def test_a_worker_without_memory_learns_how_much_others_could_give_back():
    house = House(workers=3)
    short, other, clean = house.workers
    for worker, resident, leased in ((short, 700, 0), (other, 500, 100), (clean, 50, 80)):
        worker.control.results.resident = resident
        worker.receiver.leased = lambda leased=leased: leased
    house.reclaim.help(short)
    assert short.control.answers == [400]
    assert len(other.channel.sent) == len(clean.channel.sent) == 1
    assert short.channel.sent == []


@pytest.mark.parametrize(
    ("live", "in_flight", "asked", "verdict"),
    [
        (0, True, BUDGET, Verdict.PLACE_OR_WAIT),
        (0, True, BUDGET + 1, Verdict.WAIT),
        (400, True, 601, Verdict.WAIT),
        (0, False, BUDGET, Verdict.PLACE),
        (400, False, 601, Verdict.PLACE),
    ],
)
def test_a_task_waits_for_what_is_in_flight_rather_than_for_other_processes(live, in_flight, asked, verdict):
    house = House()
    if live:
        house.place(live)
    house.be_in_flight(in_flight)
    assert house.budget.judge(asked) is verdict


@pytest.mark.parametrize(("workers", "waits"), [(2, True), (0, False)])
def test_waiting_for_memory_of_other_processes(workers, waits):
    """Only where there are others."""
    house = House(workers)
    enough = house.reclaim.relieve()
    assert (enough is not None) is waits
    if enough is not None:
        house.workers[0].control.results.resident = 300
        assert enough(300)
        assert not enough(301)


def test_what_is_released_is_noticed_when_it_is_needed_and_every_so_many_bytes():
    """To look at the flags of all workers costs more than to judge a small task."""
    house = House()
    house.budget.limit = 3 * FRAME_PLACED_BYTES
    released = house.place(FRAME_PLACED_BYTES)
    slot = house.grant(released, 0)
    house.sender.unpin([released])
    house.workers[0].control.released_by_worker[slot] = 1
    assert house.budget.fits(FRAME_PLACED_BYTES // 2)
    assert house.sender.lifecycle.live
    assert house.budget.fits(FRAME_PLACED_BYTES // 2)
    assert not house.sender.lifecycle.live, "as many bytes were judged as one may hold"
    again = house.place(FRAME_PLACED_BYTES)
    slot = house.grant(again, 0)
    house.sender.unpin([again])
    house.workers[0].control.released_by_worker[slot] = 1
    assert not house.budget.exceeds(FRAME_PLACED_BYTES - 1)
    assert not house.sender.lifecycle.live
