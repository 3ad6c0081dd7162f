"""`on_error="return"`: exceptions in the places of their results, whatever fails, and all other items are computed."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from concurrent.futures import CancelledError
from multiprocessing import pool as stdlib

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool import PoolTerminatedError, TaskExitError, TaskTimeoutError, TransferError, WorkerLostError
from tests.conftest import across_methods, forked_only
from tests.pool import tasks

LIMIT = 60


class NeedsTwo(Exception):
    def __init__(self, first, second):
        super().__init__(first)


class Base(BaseException):
    pass


class Large(Exception):
    pass


class NotCopied(Exception):
    def __copy__(self):
        raise RuntimeError("not copied")


class DiesWhenSent:
    def __reduce__(self):
        raise ValueError("not sent")


class NotRebuilt:
    def __reduce__(self):
        return int, ("not here",)


def fail(number):
    if number == 3:
        raise ValueError("no price")
    if number == 5:
        sys.exit(3)
    if number == 7:
        raise StopIteration("the end")
    if number == 8:
        raise NeedsTwo(1, 2)
    if number == 9:
        return DiesWhenSent()
    if number == 10:
        raise Base(10)
    if number == 11:
        raise ValueError(DiesWhenSent())
    return np.full(10_000, number)


#: What becomes of the items that fail.
FAILED = {
    3: (ValueError, "no price"),
    5: (TaskExitError, "SystemExit"),
    7: (StopIteration, "the end"),
    8: (TransferError, "exception of fail on item 8"),
    9: (stdlib.MaybeEncodingError, "not sent"),
    10: (Base, "10"),
    11: (stdlib.MaybeEncodingError, "not sent"),
    12: (ValueError, "not sent"),
}
ITEMS = [*range(12), DiesWhenSent(), 13]

METHODS = {
    "map": lambda pool, chunksize: pool.map(fail, ITEMS, chunksize, on_error="return"),
    "map, a generator": lambda pool, chunksize: pool.map(fail, iter(ITEMS), chunksize, on_error="return"),
    "map_async": lambda pool, chunksize: pool.map_async(fail, ITEMS, chunksize, on_error="return").get(LIMIT),
    "starmap": lambda pool, chunksize: pool.starmap(fail, zip(ITEMS, strict=True), chunksize, on_error="return"),
    "starmap_async": lambda pool, chunksize: pool.starmap_async(
        fail, [(item,) for item in ITEMS], chunksize, on_error="return"
    ).get(LIMIT),
    "imap": lambda pool, chunksize: list(pool.imap(fail, ITEMS, chunksize or 1, on_error="return")),
    "imap, a generator": lambda pool, chunksize: list(
        pool.imap(fail, (item for item in ITEMS), chunksize or 1, on_error="return")
    ),
}


@pytest.mark.parametrize("chunksize", [None, 1, 5, 100])
@pytest.mark.parametrize("method", METHODS)
def test_errors_in_the_places_of_results(our_pool, method, chunksize):
    outcomes = METHODS[method](our_pool, chunksize)
    assert len(outcomes) == len(ITEMS)
    for number, outcome in enumerate(outcomes):
        if number in FAILED:
            kind, text = FAILED[number]
            assert type(outcome) is kind
            assert text in str(outcome)
            assert outcome.index == number
            if kind is not TransferError:
                assert outcome.__notes__[-1].startswith(f"item {number}")
        else:
            assert np.array_equal(outcome, np.full(10_000, number))
    assert "in fail" in str(outcomes[3].__cause__)


@pytest.mark.parametrize("chunksize", [1, 5])
def test_in_any_order(our_pool, chunksize):
    outcomes = list(our_pool.imap_unordered(fail, ITEMS, chunksize, on_error="return"))
    assert len(outcomes) == len(ITEMS)
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert {error.index: type(error) for error in failed} == {number: kind for number, (kind, _) in FAILED.items()}


def test_values_are_as_always(pool, our_pool):
    for chunksize in (None, 1, 7):
        expected = pool.map(tasks.square, range(100), chunksize)
        assert our_pool.map(tasks.square, range(100), chunksize, on_error="return") == expected
        assert our_pool.map(tasks.square, range(100), chunksize, on_error="raise") == expected
    assert our_pool.map(tasks.identity, [], on_error="return") == []
    assert list(our_pool.imap(tasks.identity, [], 3, on_error="return")) == []
    error = ValueError("a value")
    (value,) = our_pool.map(tasks.identity, [error], on_error="return")
    assert (type(value), value.args) == (ValueError, ("a value",))
    assert not hasattr(value, "index"), "it was not raised"


@pytest.mark.parametrize("wrong", ["ignore", "", None, True, b"return", ["return"], "Return"])
def test_what_on_error_cannot_be(our_pool, wrong):
    calls = [
        our_pool.map,
        our_pool.starmap,
        our_pool.map_async,
        our_pool.starmap_async,
        our_pool.imap,
        our_pool.imap_unordered,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="on_error must be 'raise' or 'return', not"):
            call(tasks.identity, [1], on_error=wrong)
    with pytest.raises(ValueError, match="on_error must be"):
        our_pool.imap_groups(len, PRICES, by="ticker", on_error=wrong)
    with pytest.raises(TypeError, match="use imap_groups"):
        our_pool.map_groups(len, PRICES, by="ticker", on_error="return")
    assert our_pool.map(abs, [-1]) == [1]


def end_at(number):
    if number == 6:
        os._exit(7)
    return number


@pytest.mark.own_pool
@across_methods(("ours", "chunksize"), [5, 1])
def test_a_lost_worker_in_the_places_of_results(our_pool, chunksize):
    for outcomes in (
        our_pool.map(end_at, range(20), chunksize, on_error="return"),
        list(our_pool.imap(end_at, iter(range(20)), chunksize, on_error="return")),
    ):
        lost = [6] if chunksize == 1 else [5, 6, 7, 8, 9]
        assert [at for at, outcome in enumerate(outcomes) if isinstance(outcome, WorkerLostError)] == lost
        assert [outcomes[at].index for at in lost] == lost
        assert [outcome for at, outcome in enumerate(outcomes) if at not in lost] == [
            at for at in range(20) if at not in lost
        ]


def test_a_late_worker_in_the_places_of_results():
    with arrowpool.get_context("fork").Pool(2, task_timeout=0.7) as pool:
        outcomes = pool.map(tasks.wait_for, [0, LIMIT, 0.01, 0], 2, on_error="return")
        assert [type(outcome) for outcome in outcomes] == [TaskTimeoutError, TaskTimeoutError, float, int]
        assert [outcome.index for outcome in outcomes[:2]] == [0, 1]
    pool.join()


def goes_wrong():
    yield from range(5)
    raise ValueError("of the iterable")


@forked_only
@pytest.mark.own_pool
def test_errors_of_the_whole_call_are_raised(our_pool):
    with pytest.raises(ValueError, match="of the iterable"):
        our_pool.map(abs, goes_wrong(), on_error="return")
    for chunksize in (1, 3):
        results = our_pool.imap(abs, goes_wrong(), chunksize, on_error="return")
        taken = []
        with pytest.raises(ValueError, match="of the iterable"):
            taken.extend(iter(results.next, None))
        assert taken == [0, 1, 2, 3, 4][: 5 // chunksize * chunksize]
    lock = threading.Lock()

    def captures(number):
        return lock

    for chunksize in (1, 3):
        with pytest.raises(TypeError, match="cannot pickle"):
            our_pool.map(captures, range(9), chunksize, on_error="return")
        with pytest.raises(TypeError, match="cannot pickle"):
            next(our_pool.imap(captures, range(9), chunksize, on_error="return"))
        with pytest.raises(TypeError, match="cannot pickle"):
            next(our_pool.imap(captures, goes_wrong(), chunksize, on_error="return"))
    result = our_pool.map_async(tasks.wait_for, [LIMIT] * 4, 1, on_error="return")
    our_pool.terminate()
    with pytest.raises(PoolTerminatedError):
        result.get(LIMIT)


def test_callbacks(our_pool):
    got, failed = [], []
    result = our_pool.map_async(fail, range(6), 2, got.append, failed.append, on_error="return")
    outcomes = result.get(LIMIT)
    assert result.successful()
    assert got == [outcomes]
    assert not failed


def interrupt_or_wait(path):
    if path is None:
        return 1
    with open(path, "w") as file:
        file.write("begun")
    try:
        threading.Event().wait(LIMIT)
    except BaseException:
        raise ValueError("interrupted") from None


@pytest.mark.own_pool
def test_an_interrupted_call_does_not_go_on(our_pool, tmp_path):
    """Whatever the task makes of the interrupt, the other items of its chunk are not run."""
    begun = [tmp_path / str(number) for number in range(2)]
    result = our_pool.map_async(interrupt_or_wait, map(str, begun), 2, on_error="return")
    while not begun[0].exists():
        result.wait(0.01)
    our_pool._cancel(result._job)
    with pytest.raises(CancelledError):
        result.get(LIMIT)
    assert our_pool.map(interrupt_or_wait, [None] * 8, 1) == [1] * 8
    assert not begun[1].exists()


PRICES = pd.DataFrame({"ticker": np.repeat([f"T{number:02}" for number in range(40)], 3), "x": range(120)})


def fail_of_group(group):
    if group.name == "T07":
        raise ValueError("no price")
    if group.name == "T17":
        raise NeedsTwo(1, 2)
    return len(group)


def end_of_group(group):
    if group.name == "T07":
        os._exit(3)
    return len(group)


@pytest.mark.own_pool
@across_methods(("ours", "chunksize"), [None, 1])
def test_groups(our_pool, chunksize):
    pairs = dict(our_pool.imap_groups(fail_of_group, PRICES, by="ticker", chunksize=chunksize, on_error="return"))
    assert list(pairs) == sorted(PRICES["ticker"].unique())
    first, second = pairs.pop("T07"), pairs.pop("T17")
    assert (type(first), first.__notes__, first.index) == (ValueError, ["in the group 'T07' (3 rows)"], 7)
    assert type(second) is TransferError
    assert "on the group 'T17' could" in str(second)
    assert set(pairs.values()) == {3}
    pairs = dict(our_pool.imap_groups(end_of_group, PRICES, by="ticker", chunksize=chunksize, on_error="return"))
    lost = {key: value for key, value in pairs.items() if isinstance(value, WorkerLostError)}
    assert "T07" in lost
    assert len(lost) == 1 if chunksize == 1 else 1 < len(lost) < 10
    assert [error.index for error in lost.values()] == [int(key[1:]) for key in lost]
    assert all("on the group 'T07';" in str(error) for error in lost.values())


def test_keywords_of_groupby_still_arrive(our_pool):
    pairs = list(our_pool.imap_groups(len, PRICES, by="ticker", sort=False, on_error="return"))
    assert pairs == [(key, 3) for key in PRICES["ticker"].unique()]


#: What an item does; the type of its outcome, and how often it occurs.
MIX = {
    "value": (int, 10),
    "array": (np.ndarray, 3),
    "raise": (ValueError, 2),
    "cause": (KeyError, 1),
    "not rebuilt": (TransferError, 1),
    "not sent": (stdlib.MaybeEncodingError, 1),
    "no argument": (ValueError, 1),
    "large": (Large, 1),
    "exit": (TaskExitError, 1),
    "stop": (StopIteration, 1),
    "base": (Base, 1),
    "not copied": (NotCopied, 1),
}


def act(item):
    number, kind, _ = item
    raised = {
        "raise": ValueError(number),
        "not rebuilt": NeedsTwo(number, 1),
        "large": Large(np.full(50_000, number)),
        "exit": SystemExit(number),
        "stop": StopIteration(number),
        "base": Base(number),
        "not copied": NotCopied(number),
    }
    if kind in raised:
        raise raised[kind]
    if kind == "cause":
        raise KeyError(number) from ValueError(number)
    if kind == "kill":
        os._exit(9)
    if kind == "not sent":
        return DiesWhenSent()
    return np.full(20_000, number) if kind == "array" else number


def apply_in(pool, way, items, chunksize):
    if way == "starmap":
        return pool.starmap(act, [(item,) for item in items], chunksize, on_error="return")
    if way == "imap":
        return list(pool.imap(act, (item for item in items), chunksize or 1, on_error="return"))
    return pool.map(act, items, chunksize, on_error="return")


@forked_only
@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_failures(ours, seed):
    """Each outcome is in the place of its item. Nothing stays in flight."""
    rng = random.Random(seed)
    with ours.pool(2) as pool:
        for _ in range(15):
            kinds = rng.choices(list(MIX), [weight for _, weight in MIX.values()], k=rng.choice([1, 17, 60]))
            if rng.random() < 0.3:
                kinds[rng.randrange(len(kinds))] = "kill"
            items = [(at, kind, DiesWhenSent() if kind == "no argument" else None) for at, kind in enumerate(kinds)]
            outcomes = apply_in(pool, rng.choice(["map", "starmap", "imap"]), items, rng.choice([None, 1, 3, 50]))
            assert len(outcomes) == len(items)
            for at, (kind, outcome) in enumerate(zip(kinds, outcomes, strict=True)):
                if isinstance(outcome, WorkerLostError):
                    assert "kill" in kinds
                else:
                    assert type(outcome) is MIX[kind][0]
                if isinstance(outcome, BaseException):
                    assert outcome.index == at
                else:
                    assert (outcome == at).all() if kind == "array" else outcome == at
        del outcomes, outcome
        deadline = time.monotonic() + LIMIT
        while pool.stats().live_segments or pool.stats().live_results:
            gc.collect()
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
    pool.join()
