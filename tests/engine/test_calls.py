"""Calls: in the form in which the standard library's pool queues them, and in words. No process."""

from __future__ import annotations

import gc
import weakref

import pytest

from arrowpool.engine.calls import PLAIN, Blob, Call, Task, queued_call
from arrowpool.engine.round_robin import Turns


def test_a_call_whose_job_is_known_only_from_its_first_task():
    drawn = []
    tasks = ((9, drawn.append(i) or i, abs, (i,), {}) for i in range(3))
    call = queued_call(tasks, None)
    assert call.job == 9
    assert drawn == [0], "the others are drawn when it is their turn"
    turns = Turns(lambda _: False)
    turns.add(call)
    assert turns.next() is call
    assert turns.find(9) is call
    assert [index for _, index, *_ in call.tasks] == [0, 1, 2]


def test_one_without_tasks():
    lengths = []
    call = queued_call([], lengths.append)
    assert list(call.tasks) == []
    call.set_length(0)
    assert lengths == [0]


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_one_that_raises_before_its_first_task(error):
    def tasks():
        raise error
        yield

    assert list(queued_call(tasks(), None).tasks) == []


def test_the_first_task_is_not_kept_alive():
    class Item:
        pass

    items = [None, Item()]
    gone = weakref.ref(items[1])
    call = queued_call(((0, i, abs, (items.pop(),), {}) for i in range(2)), None)
    next(call.tasks)
    next(call.tasks)
    gc.collect()
    assert gone() is None


def test_a_call_expects_its_function_to_take_as_long_as_the_last_time():
    function = Blob(0, True, PLAIN)

    def a_call(count, lazy=False):
        call = Call(iter(()), None, job=1, blobs=(function,), lazy=lazy)
        call.expect(count)
        return call

    first = a_call(5)
    assert first.mean_seconds is None
    first.took(1.0, 0)
    first.note_item_seconds()
    assert a_call(1).mean_seconds == pytest.approx(0.2)
    again = a_call(10)
    assert again.mean_seconds == pytest.approx(2.0)
    again.took(4.0, 0)
    again.note_item_seconds()
    assert a_call(1).mean_seconds == pytest.approx(0.25)
    assert a_call(1, lazy=True).mean_seconds is None, "an iterator is not read ahead for that"


def test_what_the_threads_hand_over_is_short_in_words():
    """It goes into debug messages and errors: without the user's objects, which may be large, or fail in their own `repr`."""
    call = Call(iter(()), None, items=[b"x" * 1000], job=3, function=b"x" * 1000)
    assert repr(call) == "<Call 3 pending: 0>"
    call.exhausted = call.cancelled = True
    assert repr(Task(call, 7, 0, PLAIN, ())) == "<Task 7 of <Call 3 pending: 0 | exhausted | cancelled>>"
