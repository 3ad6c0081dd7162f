"""Errors of the pool that shares no memory: they name their items, and are returned, as those of the pool that does."""

from __future__ import annotations

import inspect
from multiprocessing import pool as stdlib

import numpy as np
import pytest

from arrowpool import WorkerLostError
from arrowpool.portable.executor import ProcessPoolExecutor
from tests.conftest import Implementation
from tests.pool import tasks, test_failures, test_returned_errors
from tests.portable.test_contract import portable

#: Tests of workers that are lost, late, or interrupted: here, the first ends the pool, and there are no others.
_NOT_HERE = {
    "test_a_lost_worker_in_the_places_of_results",
    "test_an_interrupted_call_does_not_go_on",
    "test_a_lost_worker_names_the_item",
    "test_a_lost_worker_names_the_item_of_a_chunk",
}


@pytest.fixture(params=[Implementation(portable, "fork")], ids=repr)
def ours(request):
    return request.param


@pytest.fixture
def implementation(ours):
    return ours


def _tests_of(module):
    return {
        name: one
        for name, one in vars(module).items()
        if name.startswith("test_") and name not in _NOT_HERE and inspect.isfunction(one)
        if inspect.signature(one).parameters.keys() & {"pool", "our_pool"}
    }


OF_ERRORS = _tests_of(test_failures)
#: Both modules have one of the first, whose end is a lost worker. The second is below, without its last case.
OTHERS = {"test_groups", "test_the_path_to_what_cannot_be_pickled"}
globals().update({name: one for name, one in OF_ERRORS.items() if name not in OTHERS})
globals().update({name: one for name, one in _tests_of(test_returned_errors).items() if name not in OTHERS})

[OF_PATHS] = [mark for mark in OF_ERRORS["test_the_path_to_what_cannot_be_pickled"].pytestmark if mark.args]


@pytest.mark.parametrize(
    OF_PATHS.args[0], OF_PATHS.args[1][:-1]
)  # the last one shares an object: here, it is not pickled then
def test_the_path_to_what_cannot_be_pickled(our_pool, call, noted, advice):
    test_failures.test_the_path_to_what_cannot_be_pickled(our_pool, call, noted, advice)


@pytest.mark.parametrize("chunksize", [None, 1])
def test_returned_errors_of_groups(our_pool, chunksize):
    call = our_pool.imap_groups
    pairs = dict(
        call(test_returned_errors.fail_of_group, test_returned_errors.PRICES, "ticker", chunksize, on_error="return")
    )
    first, second = pairs.pop("T07"), pairs.pop("T17")
    assert (type(first), first.__notes__, first.index) == (ValueError, ["in the group 'T07' (3 rows)"], 7)
    assert "on the group 'T17' could" in str(second)
    assert set(pairs.values()) == {3}


def test_raised_errors_of_groups(our_pool):
    for call in (our_pool.map_groups, lambda *args, **kwds: list(our_pool.imap_groups(*args, **kwds))):
        with pytest.raises(test_failures.Trouble) as raised:
            call(test_failures.fail_at_t17, test_failures.PRICES, by="ticker")
        assert test_failures.notes_of(raised.value) == ["in the group 'T17' (3 rows)"]
        assert raised.value.index == 17


@pytest.mark.own_pool
def test_a_lost_worker_is_not_returned(our_pool):
    with pytest.raises(WorkerLostError):
        our_pool.map(test_returned_errors.end_at, range(20), 5, on_error="return")


@pytest.mark.parametrize("chunksize", [1, 10])
@pytest.mark.parametrize("buffersize", [None, 4])
def test_errors_of_the_executor(ours, chunksize, buffersize):
    items = [*range(6), test_returned_errors.DiesWhenSent(), 7]
    with ProcessPoolExecutor(2, ours.context) as executor:
        for function, given, at in (
            (test_returned_errors.fail, range(5), 3),
            (test_failures.give_a_generator, range(5), 3),
            (tasks.identity, items, 6),
        ):
            with pytest.raises((ValueError, stdlib.MaybeEncodingError)) as raised:
                list(executor.map(function, given, chunksize=chunksize, buffersize=buffersize))
            known = "" if buffersize else f" of {len(given)}"
            assert f"item {at}{known}" in test_failures.notes_of(raised.value)
            assert raised.value.index == at
        error = executor.submit(tasks.identity, {"db": test_returned_errors.DiesWhenSent()}).exception(60)
        assert test_failures.notes_of(error)[0].startswith("argument 0, key 'db': a ")
        assert list(executor.map(np.sum, [np.ones(3)] * 2, chunksize=2)) == [3.0, 3.0]


@pytest.mark.own_pool
def test_refused_and_answered_tasks_are_counted_in_one_thread(our_pool):
    """Every call ends, and none before its last answer."""
    unsent = test_returned_errors.DiesWhenSent()
    for _ in range(20):
        outcomes = our_pool.map_async(tasks.identity, [1, unsent] * 100, 1, on_error="return").get(60)
        assert outcomes[::2] == [1] * 100
        assert {type(outcome) for outcome in outcomes[1::2]} == {ValueError}
