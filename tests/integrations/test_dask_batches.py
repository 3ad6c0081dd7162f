"""How large batches and their steps are. No cluster."""

from __future__ import annotations

import pytest

from tests.integrations.conftest import library

batches = library("arrowpool.integrations.dask.batches")


def test_the_first_batches_carry_a_task_for_each_process():
    assert batches.batch_size(None, 4, 1000, 2) == batches.step_size(None, 4) == 4


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("processes", [1, 4])
def test_they_take_some_time_and_no_longer(seconds, processes):
    size, step = batches.batch_size(seconds, processes, None, 2), batches.step_size(seconds, processes)
    assert processes <= step <= size <= batches.LARGEST
    for count, most in ((size, batches.BATCH_SECONDS), (step, batches.STEP_SECONDS)):
        assert count == processes or count * seconds / processes <= most


def test_few_tasks_say_little_about_many():
    """The first tasks of a call may be short, and the others long: they would all have to wait for one node."""
    assert [batches.step_size(0.0, 2, measured) for measured in (1, 2, 5, 30, 1000)] == [2, 2, 5, 30, 128]


@pytest.mark.parametrize(("left", "size"), [(10_000, 1000), (1000, 250), (400, 100), (1, 64)])
def test_the_last_ones_are_shared_out_in_whole_steps(left, size):
    """Two slots. A batch of less than a step would take longer on its way than the others wait."""
    assert batches.step_size(0.0, 1) == 64
    assert batches.batch_size(0.0, 1, left, 2) == size


@pytest.mark.parametrize("processes", [1, 4])
def test_a_step_follows_a_short_one_at_once(processes):
    assert not batches.may_overlap(None, processes, processes)
    assert batches.may_overlap(0.02, processes, processes)
    assert batches.may_overlap(0.001, 20 * processes, processes)
    assert not batches.may_overlap(0.06, processes, processes)


def test_the_last_long_tasks_are_shared_out_one_by_one():
    assert batches.batch_size(0.02, 1, 3, 2) == 1
