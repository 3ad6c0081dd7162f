"""The feeder's mailbox: each order in which its threads can come to each other's steps. No process."""

from __future__ import annotations

import queue
import threading

import pytest

from arrowpool.engine.events import Answered, Hurry, Late
from arrowpool.engine.mailbox import Mailbox
from arrowpool.engine.sending import Sending
from arrowpool.memory.lifecycle import Segment
from arrowpool.transport.parcel import Parcel
from tests.workers import a_call, a_task

LIMIT = 30


class Steps:
    """A mailbox whose feeder goes to sleep in steps: what is to happen while it does happens between two of them."""

    def __init__(self):
        self.inbox = queue.SimpleQueue()
        self.mailbox = Mailbox(self.inbox)

    def events(self):
        """What woke the feeder."""
        found = []
        while not self.inbox.empty():
            found.append(self.inbox.get_nowait())
        return found


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def sleeper(steps):
    """Sleeps in a thread, as the feeder does, until an event comes; gives what came."""
    came = queue.SimpleQueue()
    threads = []

    def sleep():
        thread = threading.Thread(target=lambda: came.put(steps.mailbox.wait()))
        threads.append(thread)
        thread.start()
        while not steps.mailbox.asleep:
            assert thread.is_alive()
        return lambda: came.get(timeout=LIMIT)

    yield sleep
    steps.mailbox.put(Hurry())  # if it sleeps still
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_an_answer_before_the_feeder_wants_any_is_found(steps):
    steps.mailbox.begin()
    steps.mailbox.answered([a_task()], True)
    steps.mailbox.rest(True, None)
    assert steps.events() == [], "it is awake"
    assert steps.mailbox.wait() == Answered(), "it would have slept on an answer that it wants"


def test_an_answer_between_wanting_it_and_looking_is_found(steps):
    steps.mailbox.begin()
    steps.mailbox.rest(True, None)
    steps.mailbox.answered([a_task()], True)
    assert steps.mailbox.wait() == Answered()
    steps.mailbox.answers.clear()
    assert steps.events() == [Answered()], "once too often, which does no harm"


def test_an_answer_that_is_taken_while_tasks_are_encoded_is_noticed(steps):
    """Its worker became free after free workers were looked for."""
    task = a_task()
    steps.mailbox.begin()
    steps.mailbox.answered([task], True)
    assert steps.mailbox.take_early() is task
    assert steps.mailbox.take_early() is None
    steps.mailbox.rest(True, None)
    assert steps.mailbox.wait() == Answered()
    steps.mailbox.begin()
    steps.mailbox.rest(True, 0.0)
    assert steps.mailbox.wait() == Late(), "once"


def test_an_answer_that_is_taken_before_workers_are_looked_for_is_over(steps):
    steps.mailbox.answered([task := a_task()], True)
    steps.mailbox.begin()
    assert steps.mailbox.take() is task
    assert steps.mailbox.take() is None
    steps.mailbox.rest(True, 0.0)
    assert steps.mailbox.wait() == Late()


def test_a_stand_in_that_took_an_answer_early_wakes_the_feeder(steps, sleeper):
    woken_by = sleeper()
    steps.mailbox.answered([a_task()], True)
    assert steps.mailbox.stand_in()
    steps.mailbox.take_early()
    steps.mailbox.rest_as_stand_in(True, None)
    steps.mailbox.stand_down()
    assert woken_by() == Answered()


def test_an_answer_to_one_that_sleeps_wakes_it(steps, sleeper):
    steps.mailbox.rest(True, None)
    woken_by = sleeper()
    steps.mailbox.answered([a_task()], True)
    assert woken_by() == Answered()


def test_an_unwanted_answer_does_not_wake_the_feeder(steps, sleeper):
    steps.mailbox.rest(False, None)
    woken_by = sleeper()
    steps.mailbox.answered([a_task()], True)
    assert steps.events() == []
    steps.mailbox.put(Hurry())
    assert woken_by() == Hurry()
    assert len(steps.mailbox.answers) == 1


def test_answers_do_not_wake_the_feeder_while_there_is_work(steps):
    steps.mailbox.rest(True, None)
    steps.mailbox.begin()
    steps.mailbox.answered([a_task()], True)
    assert steps.events() == []


def test_an_answer_of_a_worker_that_has_enough_to_do_wakes_nobody(steps):
    steps.mailbox.rest(True, None)
    steps.mailbox.answered([a_task()], False)
    assert steps.events() == []
    steps.mailbox.answered([a_task()], True)
    assert steps.events() == [Answered()]
    assert len(steps.mailbox.answers) == 2


def test_an_answer_that_frees_memory_wakes_the_feeder_if_a_task_waits_for_that(steps):
    for waits, woken in ((False, []), (True, [Answered()])):
        steps.mailbox.rest(True, None, waits)
        assert not steps.mailbox.answered([task_that("gives memory back")], False)
        assert steps.events() == woken


def task_that(what):
    task = a_task(a_call())
    if what == "ends a call":
        task.call.exhausted = True
    elif what == "gives memory back":
        task.parcel = Parcel((b"", ()), (Segment(0, 1),), 1)
    return task


FREES = ["gives memory back", "ends a call"]


@pytest.mark.parametrize("what", FREES)
def test_some_answers_are_settled_though_nothing_is_to_be_sent(what, steps):
    steps.mailbox.rest(False, None)
    assert steps.mailbox.answered([a_task(), task_that(what)], True)
    assert not steps.mailbox.answered([a_task()], True)
    assert steps.events() == []


@pytest.mark.parametrize("what", FREES)
def test_some_answers_wake_the_feeder_if_a_task_waits_for_memory(what, steps):
    steps.mailbox.rest(False, None, True)
    assert not steps.mailbox.answered([task_that(what)], False)
    assert steps.events() == [Answered()]


class Settlement:
    """Takes the answers, as the real one does, and notes in which thread."""

    def __init__(self, mailbox, error=None):
        self.mailbox = mailbox
        self.error = error
        self.threads = []

    def settle_answered(self):
        self.threads.append(threading.current_thread())
        assert self.mailbox.working.locked()
        while self.mailbox.take() is not None:
            pass
        if self.error is not None:
            raise self.error


def sending_with(settlement):
    """Only what `Sending.settle` needs."""
    others = dict.fromkeys(("turns", "dispatcher", "backlog", "recall", "lifecycle", "sender", "metrics"))
    return Sending(mailbox=settlement.mailbox, settlement=settlement, **others)


def test_the_collector_settles_for_a_feeder_that_sleeps(steps, sleeper):
    settlement = Settlement(steps.mailbox)
    steps.mailbox.rest(False, None)
    woken_by = sleeper()
    assert steps.mailbox.answered([task_that("ends a call")], True)
    sending_with(settlement).settle()
    assert settlement.threads == [threading.current_thread()]
    assert not steps.mailbox.answers
    assert not steps.mailbox.working.locked()
    assert steps.events() == []
    steps.mailbox.put(Hurry())
    assert woken_by() == Hurry()


def test_a_feeder_that_is_awake_settles_itself(steps):
    settlement = Settlement(steps.mailbox)
    steps.mailbox.begin()
    assert steps.mailbox.answered([task_that("ends a call")], True)
    with steps.mailbox.working:
        sending_with(settlement).settle()
    assert settlement.threads == []
    assert steps.events() == [Answered()]
    assert len(steps.mailbox.answers) == 1


def test_an_error_of_settling_ends_the_feeder(steps, sleeper):
    settlement = Settlement(steps.mailbox, OSError("no such page"))
    woken_by = sleeper()
    steps.mailbox.answered([task_that("ends a call")], True)
    sending_with(settlement).settle()
    assert woken_by() == Answered()
    with pytest.raises(OSError, match="no such page"):
        steps.mailbox.begin()


def test_a_wait_without_an_event_ends_late(steps):
    steps.mailbox.rest(False, 0.0)
    assert steps.mailbox.wait() == Late()
    assert not steps.mailbox.asleep


def test_no_thread_stands_in_for_an_awake_feeder(steps):
    assert not steps.mailbox.stand_in()
    assert steps.mailbox.working.acquire(blocking=False), "it is held by nobody"
    steps.mailbox.working.release()


def test_one_stands_in_at_a_time_and_the_feeder_waits_for_it(steps, sleeper):
    woken_by = sleeper()
    assert steps.mailbox.stand_in()
    assert not steps.mailbox.stand_in()
    steps.mailbox.put(Hurry())
    assert woken_by() == Hurry()
    assert not steps.mailbox.working.acquire(blocking=False), "the feeder would work as well"
    steps.mailbox.stand_down()
    with steps.mailbox.working:
        steps.mailbox.begin()


def test_no_thread_stands_in_while_an_event_waits(steps, sleeper):
    woken_by = sleeper()
    with steps.mailbox.working:
        steps.mailbox.put(Hurry())
        assert woken_by() == Hurry()
    assert not steps.mailbox.stand_in(), "the feeder has left its sleep"


def test_a_stand_in_that_comes_as_the_feeder_wakes_up_leaves_the_work_to_it(steps):
    """It has seen the feeder asleep; by the time it has the lock the feeder is awake."""

    class Lock:
        def __init__(self, mailbox):
            self.mailbox = mailbox
            self.released = False

        def acquire(self, blocking):
            self.mailbox.asleep = False
            return True

        def release(self):
            self.released = True

    steps.mailbox.asleep = True
    steps.mailbox.working = lock = Lock(steps.mailbox)
    assert not steps.mailbox.stand_in()
    assert lock.released


@pytest.mark.parametrize(
    ("slept", "patience", "wakes"),
    [
        (None, None, False),
        (None, 5.0, True),
        (5.0, 1.0, True),
        (1.0, 5.0, False),
        (1.0, None, False),
        (1.0, 1.0, False),
    ],
)
def test_a_stand_in_wakes_a_feeder_that_would_sleep_too_long(steps, slept, patience, wakes):
    steps.mailbox.rest(False, slept)
    steps.mailbox.rest_as_stand_in(False, patience)
    assert steps.events() == ([Answered()] if wakes else [])


@pytest.mark.parametrize("wants", [True, False])
def test_a_stand_in_wakes_the_feeder_for_an_answer_that_came_before_it_was_wanted(steps, wants):
    steps.mailbox.rest(False, None)
    steps.mailbox.answered([a_task()], True)
    assert steps.events() == []
    steps.mailbox.rest_as_stand_in(wants, None)
    assert steps.events() == ([Answered()] if wants else [])
    steps.mailbox.answered([a_task()], True)
    assert steps.events() == ([Answered()] if wants else [])


def test_what_a_stand_in_raises_is_raised_by_the_feeder_and_no_other_stands_in(steps, sleeper):
    woken_by = sleeper()
    assert steps.mailbox.stand_in()
    steps.mailbox.fail(ZeroDivisionError("a defect"))
    steps.mailbox.stand_down()
    assert woken_by() == Answered()
    steps.mailbox.asleep = True  # as it may be for a moment after it has its event
    assert not steps.mailbox.stand_in()
    steps.mailbox.asleep = False
    with steps.mailbox.working, pytest.raises(ZeroDivisionError, match="a defect"):
        steps.mailbox.begin()


def test_repr_of_a_mailbox(steps):
    steps.mailbox.rest(True, 5.0)
    assert repr(steps.mailbox) == "<Mailbox awake | answers: 0 wanted | patience: 5.0>"
