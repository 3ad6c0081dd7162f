"""What is sent where, and how much of it: as tables. No process."""

from __future__ import annotations

import pytest

from arrowpool.engine.scheduling import ahead_size, draw_size, frame_size, free_worker, gather_seconds
from arrowpool.tuning import FRAME_SECONDS, FRAME_TASKS, PREFETCH_SECONDS, SHORT_TASK_SECONDS
from tests.workers import a_call, a_task, a_worker

IDLE = {"outstanding": 0}


@pytest.mark.parametrize(
    ("workers", "queue_behind", "chosen"),
    [
        ([], True, None),
        ([IDLE], False, 0),
        ([{"outstanding": 1, "last_frame": 1}, IDLE, IDLE], True, 1),
        ([{"outstanding": 1, "last_frame": 1}], False, None),
        ([{"outstanding": 1, "last_frame": 1}], True, 0),
        # No more than a frame is left in it, and of these the one with the least.
        ([{"outstanding": 2, "last_frame": 1}], True, None),
        ([{"outstanding": 9, "last_frame": 9}, {"outstanding": 5, "last_frame": 9}], True, 1),
        # Not behind what is being taken back, nor where the last frame was taken back.
        ([{"outstanding": 1, "last_frame": 1, "recalled": (0, 1)}], True, None),
        ([{"outstanding": 1, "last_frame": 0}], True, None),
        # Nor to one about to be killed, or that has had its share.
        ([{"outstanding": 0, "doomed": True}], True, None),
        ([{"outstanding": 0, "quota": 3, "sent": 3}], True, None),
        ([{"outstanding": 0, "quota": 3, "sent": 2}], True, 0),
        ([{"outstanding": 0, "doomed": True}, IDLE], False, 1),
    ],
)
def test_the_worker_that_is_next(workers, queue_behind, chosen):
    workers = [a_worker(**state) for state in workers]
    assert free_worker(workers, queue_behind) is (None if chosen is None else workers[chosen])


@pytest.mark.parametrize(
    ("mean", "length", "index", "workers", "left", "size"),
    [
        (None, 1000, 0, 2, None, 1),  # nobody knows yet
        (SHORT_TASK_SECONDS, 1000, 0, 2, None, 1),
        (1.0, 1000, 0, 2, None, 1),
        (9e-5, 100_000, 0, 2, None, int(FRAME_SECONDS / 1e-4)),
        (0.0, 100_000, 0, 2, None, min(FRAME_TASKS, int(FRAME_SECONDS / 1e-5))),
        # Towards the end, so that all workers end together.
        (9e-5, 1000, 900, 2, None, 25),
        (9e-5, 1000, 999, 2, None, 1),
        # But not less than a message costs.
        (0.0, 8, 0, 2, None, 10),
        (5e-6, 8, 0, 2, None, 6),
        # Where the length is not known, by what there has been.
        (9e-5, None, 0, 2, None, 1),
        (9e-5, None, 100, 2, None, 25),
        (9e-5, None, 10**6, 2, None, 100),
        # Never beyond a worker's share.
        (9e-5, 100_000, 0, 2, 7, 7),
    ],
)
def test_how_many_go_in_a_frame(mean, length, index, workers, left, size):
    task = a_task(a_call(mean=mean, length=length), index)
    worker = a_worker(quota=None if left is None else 50 + left, sent=50)
    assert frame_size(task, worker, workers, 1000) == pytest.approx(size, abs=1 if size > 30 else 0)


@pytest.mark.parametrize(
    ("workers", "seconds"),
    [
        ([], 0),
        ([IDLE], 0),
        # Few, or not short: each reply is wanted at once.
        ([{"outstanding": 3, "pace": 1e-4}], 0),
        ([{"outstanding": 50, "pace": SHORT_TASK_SECONDS}], 0),
        # Half of what is left in the worker that has the most to do, but not for long.
        ([{"outstanding": 4, "pace": 9e-5}, IDLE], 2e-4),
        ([{"outstanding": 4, "pace": 9e-5}, {"outstanding": 10, "pace": 9e-5}], 5e-4),
        ([{"outstanding": 1000, "pace": 9e-5}], 2e-3),
    ],
)
def test_how_long_replies_gather(workers, seconds):
    assert gather_seconds([a_worker(**state) for state in workers]) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("mean", "replies", "result_bytes", "size"),
    [
        (None, 0, 0, 4),
        (SHORT_TASK_SECONDS, 5, 0, 4),
        (SHORT_TASK_SECONDS / 2, 5, 0, FRAME_TASKS // 2),
        # Their results must find room: 1000 bytes are the budget.
        (1e-5, 10, 1000, 10),
        (1e-5, 10, 10_000, 4),
        (1e-5, 10, 10, FRAME_TASKS // 2),
    ],
)
def test_how_many_are_encoded_ahead(mean, replies, result_bytes, size):
    call = a_call(mean=mean, replies=replies, result_bytes=result_bytes)
    assert ahead_size(call, 4, 1000) == size


@pytest.mark.parametrize(
    ("mean", "stateless", "workers", "size"),
    [
        (None, True, 2, 1),
        (SHORT_TASK_SECONDS, True, 2, 1),
        (9e-5, True, 2, 400),
        (9e-5, True, 0, 200),  # none is up yet, or any more
        (1e-6, True, 2, 4 * FRAME_TASKS),  # two frames for each worker
        (1e-6, True, 64, 4 * FRAME_TASKS),
        (9e-5, False, 2, 1),  # the iterator may change the function's data
    ],
)
def test_how_many_are_drawn_ahead(mean, stateless, workers, size):
    assert draw_size(a_call(mean=mean, stateless=stateless), workers, 1000) == pytest.approx(
        size, abs=5 if size > 1 else 0
    )


@pytest.mark.parametrize(
    ("replies", "result_bytes", "in_a_frame", "drawn"),
    [
        (10, 1000, 2, 10),  # 10 results in the budget of 1000 bytes: in two frames for each of two workers
        (10, 10_000, 1, 1),
        (10, 100_000, 1, 1),
        (10, 1, 100, 400),
    ],
)
def test_results_of_what_is_sent_or_drawn_are_within_the_budget(replies, result_bytes, in_a_frame, drawn):
    call = a_call(mean=9e-5, length=100_000, replies=replies, result_bytes=result_bytes, stateless=True)
    assert frame_size(a_task(call, 0), a_worker(), 2, 1000) == pytest.approx(
        in_a_frame, abs=1 if in_a_frame > 30 else 0
    )
    assert draw_size(call, 2, 1000) == pytest.approx(drawn, abs=5 if drawn > 30 else 0)


def test_nothing_is_drawn_ahead_of_a_function_that_is_not_known():
    call = a_call(mean=1e-5)
    call.blobs = ()
    assert draw_size(call, 2, 1000) == 1


def test_short_tasks_may_queue():
    assert SHORT_TASK_SECONDS <= PREFETCH_SECONDS
