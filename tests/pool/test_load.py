"""Memory: what is in flight stays within the budget, repeated maps stay flat, nothing is copied more than once."""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool.memory.limits import limits
from tests.conftest import across_methods, forked_only, is_arena, needs
from tests.pool import tasks

MIB = 1 << 20

# Memory is counted from the beginning of a pool.
pytestmark = pytest.mark.own_pool
FRAME = 5 * MIB // 8


def sender_of(pool):
    return pool._task_handler.parts.sender


@across_methods(("ours", "method"), ["imap", "imap_unordered"])
def test_a_generator_of_frames_stays_within_the_budget(ours, method):
    budget = 40 * MIB
    peak = 0
    with ours.pool(2, max_bytes=budget) as pool:
        lifecycle = sender_of(pool).lifecycle
        array = np.zeros(FRAME)

        def frames():
            nonlocal peak
            for i in range(400):
                array[:] = i
                peak = max(peak, lifecycle.bytes_live)
                yield array

        assert sorted(getattr(pool, method)(tasks.first, frames())) == [float(i) for i in range(400)]
        assert 0 < peak <= budget
        assert sender_of(pool).arena.resident <= budget
    pool.join()


@forked_only
def test_unread_results_hold_the_feeder_back_until_the_pool_is_closed(ours):
    budget = 20 * MIB
    made = 0

    def numbers():
        nonlocal made
        for i in range(60):
            made = i + 1
            yield i

    with ours.pool(2, max_bytes=budget) as pool:
        results = pool.imap(functools.partial(tasks.frame_of, rows=FRAME // 4), numbers())
        first = next(results)
        # Another call goes past the one that is held back.
        assert pool.map(tasks.square, range(100)) == [x * x for x in range(100)]
        assert made < 40
        pool.close()
        pool.join()
        assert float(first.iloc[0, 0]) == 0
        assert [float(frame.iloc[0, 0]) for frame in results] == [float(i) for i in range(1, 60)]


def test_an_object_larger_than_the_budget_travels_alone(ours):
    with ours.pool(2, max_bytes=MIB) as pool:
        arrays = [np.full(FRAME, float(i)) for i in range(6)]
        assert pool.map(tasks.first, arrays, 1) == [float(i) for i in range(6)]
    pool.join()


def test_repeated_maps_stay_flat(our_pool):
    arrays = [np.full(FRAME, float(i)) for i in range(10)]

    def round_trip():
        assert [float(a[0]) for a in our_pool.map(tasks.double, arrays)] == [2.0 * i for i in range(10)]
        gc.collect()
        return len(os.listdir("/proc/self/fd")), sender_of(our_pool).arena.resident

    for _ in range(3):
        round_trip()
    warm = round_trip()
    for _ in range(15):
        descriptors, resident = round_trip()
        # A worker that came to no task before now may have its arena mapped now.
        assert descriptors <= warm[0] + len(our_pool._pool)
        assert resident <= 2 * 10 * 5 * MIB


def memory_of(process):
    """Bytes of the arenas that a process has open, its own and the parent's."""
    opened = Path(f"/proc/{process.pid}/fd")
    return {
        held.st_ino: held.st_blocks * 512
        for fd in opened.iterdir()
        if is_arena(os.readlink(fd))
        for held in [os.stat(fd)]
    }


@pytest.mark.parametrize("warm", [pytest.param(0.1, marks=needs("fallocate")), 1000.0])
def test_an_idle_pool_keeps_its_pages_for_a_while(monkeypatch, warm):
    for parent, name, seconds in (("sending", "IDLE_SECONDS", 0.05), ("feeder_events", "WARM_SECONDS", warm)):
        monkeypatch.setattr(f"arrowpool.engine.{parent}.{name}", seconds)
        monkeypatch.setattr(f"arrowpool.worker.loop.{name}", seconds)
    with arrowpool.get_context("fork").Pool(1) as pool:
        pool.apply(tasks.double, (np.ones(FRAME),))
        sender = sender_of(pool)
        deadline = time.monotonic() + 30
        while sender.lifecycle.bytes_live or (warm < 1 and sum(memory_of(pool._pool[0]).values())):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(memory_of(pool._pool[0])) == 2
        assert sum(memory_of(pool._pool[0]).values()) == (0 if warm < 1 else pytest.approx(2 * FRAME * 8, rel=0.1))
    pool.join()


def test_what_is_garbage_in_an_idle_worker_is_given_back(monkeypatch):
    monkeypatch.setattr("arrowpool.worker.loop.IDLE_SECONDS", 0.05)
    with arrowpool.get_context("fork").Pool(1) as pool:
        pool.apply(tasks.leave_in_a_cycle, (np.ones(FRAME),))
        lifecycle = sender_of(pool).lifecycle
        assert lifecycle.bytes_live > 0
        deadline = time.monotonic() + 30
        while lifecycle.bytes_live:
            pool._task_handler.wake()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    pool.join()


def test_one_copy_of_what_all_tasks_need(our_pool):
    big = np.ones(FRAME)
    for call in (
        lambda: our_pool.map(tasks.first, [big] * 20, 1),
        lambda: our_pool.starmap(tasks.first, [(big,)] * 20, 1),
    ):
        before = our_pool.stats()
        call()
        after = our_pool.stats()
        assert after.copies - before.copies == 1
        assert after.shared_bytes - before.shared_bytes == big.nbytes


@forked_only
def test_what_a_function_captured_is_copied_once(our_pool):
    big = np.ones(FRAME)
    before = our_pool.stats()
    assert our_pool.map(functools.partial(tasks.pick, big), range(20), 1) == [1.0] * 20
    assert our_pool.map(lambda i: float(big[i]), range(20), 1) == [1.0] * 20
    after = our_pool.stats()
    assert after.copies - before.copies == 2


@forked_only
def test_a_view_does_not_take_its_base_along(our_pool):
    base = np.ones((1000, 10_000))
    before = our_pool.stats()
    our_pool.map(tasks.first, [base[:, i : i + 10] for i in range(5)])
    after = our_pool.stats()
    assert after.shared_bytes - before.shared_bytes == 5 * 1000 * 10 * 8


def test_frames_do_not_go_through_the_pipe(our_pool):
    frame = tasks.frame_of(1, rows=200_000)
    before = our_pool.stats()
    our_pool.map(tasks.identity, [frame.iloc[i : i + 20_000] for i in range(0, 200_000, 20_000)], 1)
    after = our_pool.stats()
    assert after.tasks - before.tasks == 10
    assert after.piped_bytes - before.piped_bytes < 10 * 4000
    # Each chunk once on its way there and once on its way back.
    assert after.shared_bytes - before.shared_bytes == 2 * frame.to_numpy().nbytes


@forked_only
def test_what_fails_to_be_encoded_holds_nothing(our_pool):
    array = np.ones(FRAME)
    for _ in range(3):
        with pytest.raises(TypeError):
            our_pool.apply(tasks.identity, ((array, threading.Lock()),))
        with pytest.raises(TypeError):
            our_pool.map(functools.partial(tasks.add, threading.Lock()), [array] * 4)
    our_pool.apply(tasks.first, (array,))
    sender = sender_of(our_pool)
    deadline = threading.Event()
    for _ in range(500):
        our_pool._task_handler.hurry()  # wakes it, and it looks at what has been released
        if sender.lifecycle.bytes_live <= 2 * array.nbytes:
            break
        deadline.wait(0.01)
    assert sender.lifecycle.bytes_live <= 2 * array.nbytes


def test_the_default_budget_is_within_the_memory():
    given = limits()
    assert 0 < given.budget <= given.capacity
    assert limits(5 * MIB).budget == 5 * MIB


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "1 GB"])
def test_a_wrong_budget(wrong):
    with pytest.raises(ValueError, match="max_bytes"):
        arrowpool.Pool(1, max_bytes=wrong)


def test_without_shared_memory_everything_is_pickled(monkeypatch, caplog):
    from arrowpool.engine import engine as module
    from arrowpool.memory import arena

    def refuse(capacity, spill_dir, **_):
        raise OSError("none to be had")

    monkeypatch.setattr(arena, "_create", refuse)
    monkeypatch.setattr(module, "_said_fallback", False)
    for _ in range(2):
        with arrowpool.Pool(2) as pool:
            array = np.arange(FRAME, dtype=float)
            for result in pool.map(tasks.double, [array] * 3):
                assert np.array_equal(result, array * 2)
            assert pool.stats().shared_bytes == 0
        pool.join()
    assert caplog.text.count("no shared memory") == 1
    assert sys.getrefcount(array) < 10


def test_answers_that_come_while_tasks_are_encoded_are_noticed():
    """Their workers are free by then, and nothing else would wake the thread that sends. It takes many calls to meet that."""
    frame = pd.DataFrame(np.arange(130_000.0).reshape(13_000, 10))
    parts = [frame.iloc[at : at + 325] for at in range(0, 13_000, 325)]
    with arrowpool.get_context("fork").Pool(2) as pool:
        for _ in range(500):
            doubled = pool.map_async(tasks.double, parts, 1).get(4)
        assert doubled[-1].equals(parts[-1] * 2)
    pool.join()
