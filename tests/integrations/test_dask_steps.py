"""Which tasks of a batch begin when, and when their outcomes are sent. No cluster."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.integrations.conftest import library

steps = library("arrowpool.integrations.dask.steps")
WAIT, CANCELLED = "wait", "cancelled"


class Results:
    """Of tasks in the local pool. `WAIT`: nothing comes for a moment."""

    def __init__(self, story):
        self._story = iter(story)

    def next(self, timeout):
        event = next(self._story)
        if event == WAIT:
            raise multiprocessing.TimeoutError
        if event == CANCELLED:
            raise StopIteration
        if isinstance(event, BaseException):
            raise event
        return True, event, "", steps.SOME_ITEM, event


class House:
    """The line and the local pool of a batch: what they are told, in order. `stories` has what happens in each step."""

    def __init__(self, stories, permitted=100):
        self.log = []
        self._stories = iter(stories)
        self._permitted = permitted
        self._failure = None

    def may_begin(self, batch, start, count):
        self._permitted -= 1
        self.log.append(("ask", start, count))
        return self._permitted >= 0

    def put(self, kind, batch, start, done):
        self.log.append((start, [outcome.value for outcome in done.outcomes]))
        self.seconds = done.seconds

    def begin(self, tasks):
        story = next(self._stories)
        if isinstance(story, BaseException):
            raise story
        self.log.append(("begin", len(tasks)))
        return Results(story)

    def run(self, count, pace=(None, 0), processes=1):
        subject = steps.Steps(self, 7, [None] * count, pace, processes, self.begin, lambda results: None)
        try:
            subject.run()
        finally:
            self.answered = subject.answered
        return self.log


def test_the_first_step_has_a_task_for_each_process_and_the_next_ones_are_larger():
    house = House([[0.0] * 2, [0.0] * 2, [0.0] * 4, [0.0]])
    asked = [event for event in house.run(9, processes=2) if event[0] == "ask"]
    assert asked == [("ask", 0, 2), ("ask", 2, 2), ("ask", 4, 4), ("ask", 8, 1)]
    assert house.answered == 9


def test_the_next_step_begins_when_half_of_a_short_one_is_done():
    house = House([[0.001] * 4, [0.001] * 2])
    assert house.run(6, pace=(0.001, 4)) == [
        ("ask", 0, 4),
        ("begin", 4),
        ("ask", 4, 2),
        ("begin", 2),
        (0, [0.001] * 4),
        (4, [0.001] * 2),
    ]


def test_after_a_long_step_the_next_one_begins_at_its_end():
    house = House([[5.0], [5.0]])
    assert house.run(2) == [("ask", 0, 1), ("begin", 1), (0, [5.0]), ("ask", 1, 1), ("begin", 1), (1, [5.0])]


def test_outcomes_are_sent_when_nothing_comes_for_a_moment():
    house = House([[0.001, WAIT, WAIT, 9.0, 8.0, WAIT, 7.0]])
    sent = [event for event in house.run(4, pace=(0.001, 4)) if event[0] != "ask"]
    assert sent == [("begin", 4), (0, [0.001]), (1, [9.0, 8.0]), (3, [7.0])]
    assert house.seconds == 7.0


def test_nothing_begins_that_the_client_does_not_permit():
    house = House([[0.001] * 4], permitted=1)
    assert house.run(40, pace=(0.001, 4))[-2:] == [("ask", 4, 8), (0, [0.001] * 4)]
    assert house.answered == 4
    assert House([], permitted=0).run(3) == [("ask", 0, 1)]


def test_what_has_begun_has_its_outcomes_when_the_local_pool_takes_no_more():
    house = House([[0.001] * 4, ValueError("Pool not running")])
    with pytest.raises(ValueError, match="not running"):
        house.run(8, pace=(0.001, 4))
    assert house.log[-1] == (0, [0.001] * 4)
    assert house.answered == 4


def test_a_lost_process_is_the_outcome_of_its_task_only():
    lost = OSError("lost")
    house = House([[0.001, lost, 0.001]])
    assert house.run(3, pace=(0.001, 3))[-1] == (0, [0.001, lost, 0.001])


def test_the_rest_of_a_cancelled_step_is_cancelled():
    house = House([[0.001, CANCELLED]])
    ((_, values),) = [event for event in house.run(3, pace=(0.001, 3)) if event[0] == 0]
    assert values[0] == 0.001
    assert [type(value).__name__ for value in values[1:]] == ["CancelledError"] * 2


def test_a_batch_that_takes_long_ends_early(monkeypatch):
    monkeypatch.setattr(steps, "LONG_BATCH_SECONDS", 0.0)
    house = House([])
    assert house.run(3) == []
    assert house.answered == 0
