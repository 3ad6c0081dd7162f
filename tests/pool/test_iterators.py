"""The user's iterators: slow, blocked, endless, wrong; and the pool's, read to the end or not."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import arrowpool
from arrowpool.engine import ending
from tests.conftest import forked_only, is_arena
from tests.pool import tasks
from tests.pool.test_interrupts import run

LIMIT = 30
MIB = 1 << 20
FRAME = 5 * MIB // 8


class Blocked:
    """Gives some items, then blocks until it is released; says how often it was asked, and whether it was let go of."""

    def __init__(self, items=()):
        self.items = list(items)
        self.blocks = threading.Event()
        self.released = threading.Event()
        self.asked = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.asked += 1
        if self.items:
            return self.items.pop(0)
        self.blocks.set()
        assert self.released.wait(LIMIT)
        return 1000


class BlockedSequence(Blocked):
    """The same with a length."""

    def __len__(self):
        return 4


@pytest.fixture
def blocked():
    """Makes iterators that block, and releases them in the end."""
    made = []

    def make(kind=Blocked, items=()):
        made.append(kind(items))
        return made[-1]

    yield make
    for one in made:
        one.released.set()


def arenas():
    with open("/proc/self/maps") as maps:
        return {line.split()[0] for line in maps if is_arena(line)}


def eventually(is_so):
    deadline = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)
        gc.collect()


# Given to the pool


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "map_async", "starmap_async"])
def test_an_iterator_that_blocks_costs_its_own_call_only(our_pool, blocked, method):
    kind = BlockedSequence if method.endswith("async") else Blocked
    holding = blocked(kind, [(5,), (6,)] if method == "starmap_async" else [5, 6])
    held = getattr(our_pool, method)(tasks.square, holding, 1)
    assert holding.blocks.wait(LIMIT)
    # Others go on, also those that have an iterator.
    array = np.ones(100_000)
    assert our_pool.apply_async(tasks.first, (array,)).get(LIMIT) == 1.0
    assert our_pool.map_async(tasks.square, range(100), 1).get(LIMIT) == [x * x for x in range(100)]
    others = our_pool.imap(tasks.square, iter(range(100)))
    assert [others.next(LIMIT) for _ in range(100)] == [x * x for x in range(100)]
    with our_pool.share(array):
        assert our_pool.apply_async(tasks.first, (array,)).get(LIMIT) == 1.0
    # What it gave before is answered.
    if not method.endswith("async"):
        assert sorted([held.next(LIMIT), held.next(LIMIT)]) == [25, 36]


@forked_only
def test_tasks_are_retried_while_an_iterator_blocks(ours, blocked, tmp_path):
    with ours.pool(1, retries=1) as pool:
        holding = blocked()
        results = pool.imap(tasks.square, holding)
        assert holding.blocks.wait(LIMIT)
        lost = pool.apply_async(tasks.die_until, (str(tmp_path / "runs"), 2))
        assert lost.get(LIMIT) is not None
        holding.released.set()
        assert results.next(LIMIT) == 1000**2
    pool.join()


@forked_only
def test_ends_do_not_wait_for_an_iterator_that_blocks(ours, blocked, caplog, monkeypatch):
    monkeypatch.setattr(ending, "_TERMINATE_SECONDS", 2.0 * LIMIT)
    before = arenas()
    pool = ours.pool(2)
    array = np.ones(FRAME)
    holding = blocked(items=[array, array])
    results = pool.imap(tasks.first, holding)
    assert [results.next(LIMIT), results.next(LIMIT)] == [1.0, 1.0]
    assert holding.blocks.wait(LIMIT)
    gone = weakref.ref(array)
    del array
    began = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < LIMIT
    assert not caplog.records
    with pytest.raises(arrowpool.PoolTerminatedError):
        results.next(LIMIT)
    asked = holding.asked
    pool = weakref.ref(pool)
    del results
    # It blocks still, and neither memory nor data is held for it.
    eventually(lambda: gone() is None and pool() is None and arenas() <= before)
    assert holding.asked == asked
    holding.released.set()
    eventually(lambda: not sources())
    assert holding.asked == asked, "asked for more after the end"


@forked_only
def test_nothing_is_asked_of_an_iterator_after_the_end(ours, monkeypatch):
    monkeypatch.setattr(ending, "_TERMINATE_SECONDS", 2.0 * LIMIT)
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield asked

    for _ in range(3):
        pool = ours.pool(2)
        results = pool.imap_unordered(abs, endless())
        for _ in range(500):
            results.next(LIMIT)
        began = time.monotonic()
        pool.terminate()
        assert time.monotonic() - began < LIMIT
        until = asked
        pool.join()
        assert asked == until


@pytest.mark.parametrize("way", ["close", "cancel", "let go"])
def test_a_call_that_is_ended_lets_go_of_its_generator(our_pool, way):
    closed = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    results = our_pool.imap(tasks.square, endless())
    assert [results.next(LIMIT) for _ in range(20)] == [i * i for i in range(20)]
    if way == "close":
        results.close()
    elif way == "cancel":
        our_pool._cancel(results._job)
    else:
        del results
    assert closed.wait(LIMIT)
    eventually(lambda: not our_pool._cache)


def test_an_endless_iterator_does_not_keep_others_waiting(our_pool):
    results = our_pool.imap_unordered(tasks.square, itertools.count())
    threading.Thread(target=lambda: [None for _ in results], daemon=True, name="reads").start()
    try:
        for _ in range(5):
            assert our_pool.map_async(tasks.square, range(200), 1).get(LIMIT) == [x * x for x in range(200)]
            others = our_pool.imap(tasks.square, iter(range(50)))
            assert [others.next(LIMIT) for _ in range(50)] == [x * x for x in range(50)]
    finally:
        results.close()


@pytest.mark.parametrize("kind", ["list", "array", "mixed"])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_what_is_filled_again_among_short_tasks(pool, method, kind):
    """Plain items may be drawn ahead, which must not go past one that changes."""

    def items():
        yield from range(300)  # tasks are known to be short
        buffer = np.zeros(3) if kind == "array" else [0]
        for i in range(300):
            if kind == "mixed" and i % 3:
                yield i
            else:
                buffer[0] = i
                yield buffer

    expected = [*range(300), *range(300)]
    values = [float(v) if np.isscalar(v) else float(v[0]) for v in getattr(pool, method)(tasks.identity, items())]
    assert sorted(values) == sorted(map(float, expected))
    if method == "imap":
        assert values == list(map(float, expected))


@pytest.mark.parametrize("size", [1, 2])
def test_an_iterator_that_waits_for_each_result(pool, size):
    free = threading.Semaphore(size)
    numbers = itertools.takewhile(lambda _: free.acquire(timeout=LIMIT), range(500))
    for i, value in enumerate(pool.imap(tasks.square, numbers)):
        assert value == i * i
        free.release()


@pytest.mark.parametrize("method", ["map", "starmap"])
def test_a_sequence_that_does_not_hold_what_its_length_says(our_pool, method):
    class Sequence:
        def __init__(self, last, error):
            self.last, self.error = last, error

        def __len__(self):
            return 10

        def __getitem__(self, index):
            if index == self.last:
                raise self.error
            return (index,) if method == "starmap" else index

    call = getattr(our_pool, f"{method}_async")
    for chunksize in (None, 1, 4):
        with pytest.raises(RuntimeError, match="midway"):
            call(tasks.square, Sequence(5, RuntimeError("midway")), chunksize).get(LIMIT)
        with pytest.raises(ValueError, match="fewer items than"):
            call(tasks.square, Sequence(3, IndexError()), chunksize).get(LIMIT)
        assert call(tasks.square, Sequence(10, IndexError()), chunksize).get(LIMIT) == [x * x for x in range(10)]


def test_a_slow_iterator_is_drawn_while_its_tasks_run(our_pool):
    """Not one after the other: while a task runs, the next item is made."""
    made = threading.Semaphore(0)

    def items():
        for i in range(5):
            made.release()
            yield i
        made.release()

    results = our_pool.imap(tasks.wait_for, (0.2 if i == 0 else 0.0 for i in items()))
    for _ in range(3):
        assert made.acquire(timeout=LIMIT)
    assert [results.next(LIMIT) for _ in range(5)] == [0.2, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_in_the_thread_of_a_source_ends_the_calls():
    """It sends for the feeder, which has to learn of it."""
    goes_on = threading.Event()

    def items():
        yield [1]
        assert goes_on.wait(LIMIT)
        yield [2]

    def fails():
        raise ZeroDivisionError("a defect")

    with arrowpool.get_context("fork").Pool(2) as pool:
        results = pool.imap(len, items())
        assert results.next(LIMIT) == 1
        feeder = pool._task_handler
        eventually(lambda: feeder._mailbox.asleep)
        feeder.parts.dispatcher.run = fails
        goes_on.set()
        with pytest.raises(arrowpool.PoolTerminatedError, match="a defect"):
            results.next(LIMIT)
        assert feeder.join(LIMIT)
    pool.join()


@forked_only
def test_a_pool_that_cannot_run_tasks_asks_for_none(ours):
    def items():
        while True:
            yield []

    with ours.pool(1, tasks.fail, ("in the initializer",)) as pool:
        try:
            results = pool.imap(len, items())
        except arrowpool.WorkerInitError:
            return  # it was known before
        with pytest.raises(arrowpool.WorkerInitError):
            results.next(LIMIT)
        eventually(lambda: not sources())
        assert not len(pool._task_handler._turns)
    pool.join()


def sources():
    return [thread for thread in threading.enumerate() if thread.name == "arrowpool-source"]


SCRIPT = """
import os, sys, threading, time
import arrowpool
from tests.pool import tasks

def endless():
    while True:
        yield 1
        if over.is_set():
            print("asked for more", flush=True)

over = threading.Event()
pool = arrowpool.get_context(sys.argv[1]).Pool(2)
results = pool.imap_unordered(tasks.square, endless())
next(results)
print("ready", flush=True)
try:
    for result in results:
        pass
except KeyboardInterrupt:
    pool.terminate()
    over.set()
    raise
"""


def test_ctrl_c_ends_a_script_that_reads_an_endless_generator(tmp_path):
    for _ in range(2):
        with run(tmp_path, SCRIPT, "fork") as program:
            assert program.stdout.readline() == "ready\n"
            began = time.monotonic()
            os.killpg(program.pid, signal.SIGINT)
            out, errors = program.communicate(timeout=LIMIT)
            assert time.monotonic() - began < 4
            assert out == ""
            assert errors.rstrip().endswith("KeyboardInterrupt")


# Got from the pool


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_letting_go_of_results_ends_the_call(our_pool, method, chunksize):
    lifecycle = our_pool._task_handler.parts.sender.lifecycle
    arrays = [np.full(FRAME, float(i)) for i in range(4)]
    for _ in range(10):
        for value in getattr(our_pool, method)(tasks.double, itertools.cycle(arrays), chunksize):
            assert value[1] in (0, 2, 4, 6)
            break
        del value
    eventually(lambda: not our_pool._cache and not len(our_pool._task_handler._turns))
    eventually(lambda: our_pool.stats().live_results == 0)
    assert our_pool.map_async(tasks.square, range(10), 1).get(LIMIT) == [x * x for x in range(10)]
    eventually(lambda: our_pool._task_handler.wake() or lifecycle.bytes_live <= 2 * arrays[0].nbytes)


def test_results_that_were_never_asked_for(implementation, tmp_path):
    """As with the standard library, the tasks are run for what they do; here their results are not kept."""
    path = str(tmp_path / "runs")
    pool = implementation.pool(2)
    pool.imap(tasks.note, [path] * 30)
    pool.imap_unordered(tasks.note, iter([path] * 30), 4)
    if implementation.ours:
        big = pool.imap(functools.partial(tasks.frame_of, rows=FRAME), iter(range(10)))
        del big
        eventually(lambda: not pool._cache)
        eventually(lambda: pool.stats().live_results == 0)
    pool.close()
    pool.join()
    with open(path) as file:
        assert len(file.readlines()) == 60


@forked_only
@pytest.mark.parametrize("kind", [list, iter])
def test_reading_is_noticed_without_looking_again_and_again(ours, monkeypatch, kind):
    monkeypatch.setattr("arrowpool.engine.sending._LOOK_AGAIN_SECONDS", 1000.0)
    with ours.pool(2, max_bytes=8 * MIB) as pool:
        feeder = pool._task_handler
        results = pool.imap(functools.partial(tasks.frame_of, rows=MIB // 32), kind(range(40)))
        # Unread ones pile up: all that were begun are here, and no more are.
        eventually(lambda: results.results.unread() >= 8 and not any(worker.outstanding for worker in feeder.workers))
        assert results.results.unread() < 30
        assert [float(results.next(LIMIT).iloc[0, 0]) for _ in range(40)] == [float(i) for i in range(40)]
    pool.join()


@forked_only
def test_unread_results_of_a_call_that_is_let_go_of_do_not_hold_it_back(ours, tmp_path):
    with ours.pool(2, max_bytes=4 * MIB) as pool:
        results = pool.imap(functools.partial(tasks.frame_of, rows=MIB // 32), range(50))
        other = pool.imap(tasks.square, range(3))
        assert [other.next(LIMIT) for _ in range(3)] == [0, 1, 4]
        del results  # never asked
        eventually(lambda: not pool._cache)
    pool.join()


@forked_only
def test_a_closed_pool_ends_although_the_iterator_of_a_closed_call_blocks(ours, blocked):
    pool = ours.pool(2)
    holding = blocked(items=[1, 2])
    results = pool.imap(tasks.square, holding)
    assert [results.next(LIMIT), results.next(LIMIT)] == [1, 4]
    assert holding.blocks.wait(LIMIT)
    pool.close()
    results.close()
    pool.join()


@forked_only
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_every_iterator_of_results_can_do_the_same(our_pool, method, chunksize):
    kind = {"imap": "IMapIterator", "imap_unordered": "IMapUnorderedIterator"}[method]
    results = getattr(our_pool, method)(tasks.wait_for, [0.0, 0.0, 0.0, 0.5], chunksize)
    assert isinstance(results, getattr(multiprocessing.pool, kind))
    assert isinstance(results, multiprocessing.pool.IMapIterator)
    assert iter(results) is results
    assert aiter(results) is results
    assert [results.next(LIMIT) for _ in range(3)] == [0.0] * 3
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.01)
    assert results.next(LIMIT) == 0.5
    for _ in range(2):
        with pytest.raises(StopIteration):
            results.next(LIMIT)
    results.close()
    results = getattr(our_pool, method)(tasks.square, range(30), chunksize)
    assert results.next(LIMIT) in [x * x for x in range(30)]
    results.close()
    results.close()
    assert list(results) == []
    eventually(lambda: not our_pool._cache)


def test_closing_results_that_are_all_there_frees_them(our_pool):
    results = our_pool.imap(functools.partial(tasks.frame_of, rows=FRAME // 4), range(6))
    eventually(lambda: not our_pool._cache)
    assert our_pool.stats().live_results == 6
    results.close()
    assert our_pool.stats().live_results == 0
    with pytest.raises(StopIteration):
        next(results)


def test_cancelling_all_that_waits_is_quick(ours, tmp_path):
    """Each in the same time, however many wait."""

    def seconds(count):
        path = str(tmp_path / f"begun {count}")
        running = pool.apply_async(tasks.note_pid_and_block, (path,))
        eventually(lambda: os.path.exists(path))
        calls = [pool.apply_async(tasks.square, (i,)) for i in range(count)]
        pool.apply_async(tasks.square, (1,))  # behind all of them
        began = time.monotonic()
        for call in calls:
            pool._cancel(call._job)
        pool._cancel(running._job)
        assert pool.apply_async(tasks.square, (3,)).get(LIMIT) == 9
        return time.monotonic() - began

    with ours.pool(1) as pool:
        seconds(1000)
        assert seconds(16_000) < 1.5
    pool.join()
