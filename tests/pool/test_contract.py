"""One contract for the standard library's pool and for ours, under every start method."""

from __future__ import annotations

import copyreg
import functools
import gc
import multiprocessing
import pickle
import sys
import threading
import time
from collections import OrderedDict
from multiprocessing import pool as stdlib
from multiprocessing.pool import MaybeEncodingError
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest

from tests.pool import tasks

BIG = 100_000  # floats: well above what stays in the stream


def test_apply(pool):
    assert pool.apply(tasks.square, (5,)) == 25
    assert pool.apply(tasks.add, (1, 2), {"z": 3}) == 6
    assert pool.apply_async(tasks.add, args=[1], kwds={"y": 2}).get(30) == 3


def test_arguments_and_functions_of_unusual_types(pool):
    assert pool.apply(tasks.add, tasks.Point(1, 2)) == 3
    assert pool.apply(tasks.add, range(1, 3)) == 3
    assert pool.apply(tasks.add, (1, 2), OrderedDict()) == 3
    assert pool.apply(tasks.Unhashable(2), (3,)) == 6
    assert list(pool.imap(tasks.Unhashable(2), [3])) == [6]
    assert pool.apply(tasks.square, (5,)) == 25


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_iterator_that_waits_for_its_own_results(pool, name, chunksize):
    free = threading.Semaphore(8)

    def throttled():
        for i in range(300):
            assert free.acquire(timeout=30)
            yield i

    came = []
    for value in getattr(pool, name)(tasks.square, throttled(), chunksize):
        came.append(value)
        free.release()
    assert sorted(came) == [i * i for i in range(300)]


def test_an_iterator_that_waits_for_its_own_results_while_tasks_are_timed(ours):
    with ours.pool(2, task_timeout=60) as pool:
        free = threading.Semaphore(3)
        results = pool.imap(tasks.square, (i for i in range(50) if free.acquire(timeout=30)))
        for i in range(50):
            assert results.next(30) == i * i
            free.release()
    pool.join()


def istarmap(pool, function, iterable, chunksize=1):
    """The well-known recipe for the method that `multiprocessing.Pool` lacks; it reaches into the pool."""
    pool._check_running()
    batches = stdlib.Pool._get_tasks(function, iterable, chunksize)
    result = stdlib.IMapIterator(pool)
    pool._taskqueue.put((pool._guarded_task_generation(result._job, stdlib.starmapstar, batches), result._set_length))
    return (item for chunk in result for item in chunk)


@pytest.mark.parametrize("chunksize", [1, 4])
def test_calls_that_others_put_into_the_queue(pool, chunksize):
    values = istarmap(pool, tasks.add, zip(range(10), range(10), strict=True), chunksize)
    assert list(values) == [2 * i for i in range(10)]
    assert list(istarmap(pool, tasks.add, [])) == []
    arrays = [(np.full(BIG, float(i)), 1.0) for i in range(3)]
    assert [value[0] for value in istarmap(pool, tasks.add, iter(arrays))] == [1.0, 2.0, 3.0]

    def items():
        yield 1, 2
        raise KeyError("as it should")

    failing = istarmap(pool, tasks.add, items())
    assert next(failing) == 3
    with pytest.raises(KeyError, match="as it should"):
        next(failing)
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_list_that_changes_after_the_call(our_pool):
    items = [1.0] * 5000
    result = our_pool.map_async(tasks.identity, items, 1)
    items[:] = [2.0] * 5000
    assert result.get(30) == [1.0] * 5000


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_map_keeps_the_order(pool, chunksize):
    assert pool.map(tasks.square, range(50), chunksize) == [x * x for x in range(50)]
    assert pool.map_async(tasks.square, iter(range(50)), chunksize).get(30) == [x * x for x in range(50)]
    assert pool.starmap(tasks.add, [(x, 1) for x in range(20)], chunksize) == list(range(1, 21))
    assert pool.starmap_async(tasks.add, zip(range(20), range(20), strict=True), chunksize).get(30) == [
        2 * x for x in range(20)
    ]


@pytest.mark.parametrize("chunksize", [1, 7])
def test_imap(pool, chunksize):
    assert list(pool.imap(tasks.square, range(40), chunksize)) == [x * x for x in range(40)]
    assert sorted(pool.imap_unordered(tasks.square, iter(range(40)), chunksize)) == [x * x for x in range(40)]


def test_nothing_to_do(pool):
    assert pool.map(tasks.square, []) == []
    assert list(pool.imap(tasks.square, ())) == []
    assert list(pool.imap_unordered(tasks.square, iter(()))) == []
    assert pool.starmap(tasks.add, []) == []


def test_many_tiny_tasks(pool):
    assert pool.map(tasks.square, range(5000), chunksize=1) == [x * x for x in range(5000)]
    assert list(pool.imap(tasks.square, range(3000))) == [x * x for x in range(3000)]


def test_something_that_only_has_a_length_and_items(pool):
    class Lazy:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index >= 6:
                raise IndexError(index)
            return index

    assert pool.map(tasks.square, Lazy()) == [0, 1, 4, 9, 16, 25]


def test_callbacks_run_once_each_in_the_pools_thread(pool):
    called = []
    done = threading.Event()

    def callback(value):
        called.append((value, threading.current_thread() is threading.main_thread()))
        done.set()

    pool.apply_async(tasks.square, (3,), callback=callback, error_callback=called.append).wait(30)
    assert done.wait(30)
    assert called == [(9, False)]
    called.clear()
    done.clear()
    pool.map_async(tasks.square, range(3), callback=callback).wait(30)
    assert done.wait(30)
    assert called == [([0, 1, 4], False)]


def test_error_callback(pool):
    errors = []
    done = threading.Event()

    def callback(error):
        errors.append(str(error))
        done.set()

    result = pool.apply_async(tasks.fail, ("bad",), callback=errors.append, error_callback=callback)
    with pytest.raises(ValueError, match="bad"):
        result.get(30)
    assert done.wait(30)
    assert errors == ["bad"]
    assert not result.successful()


def test_errors_keep_the_remote_traceback(pool):
    with pytest.raises(ValueError, match="oh") as caught:
        pool.apply(tasks.fail, ("oh",))
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="odd"):
        pool.map(tasks.fail_if_odd, range(10), 1)
    with pytest.raises(tasks.Custom) as caught:
        pool.apply(tasks.raise_custom, ("a", 2))
    assert caught.value.args == ("a", 2)


def test_an_iterable_that_raises_midway(pool):
    def items():
        yield 1
        yield 2
        raise RuntimeError("midway")

    results = pool.imap(tasks.square, items())
    assert next(results) == 1
    assert next(results) == 4
    with pytest.raises(RuntimeError, match="midway"):
        next(results)
    with pytest.raises(RuntimeError, match="midway"):
        pool.map(tasks.square, items())
    with pytest.raises(RuntimeError, match="midway"):
        list(pool.imap_unordered(functools.partial(tasks.add, 1), items(), 2))
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


def test_what_cannot_be_pickled_is_an_error_of_its_call(pool):
    with pytest.raises((TypeError, pickle.PicklingError)):
        pool.apply(tasks.identity, (threading.Lock(),))
    with pytest.raises((TypeError, pickle.PicklingError)):
        pool.map(tasks.identity, [1, threading.Lock()], 1)
    with pytest.raises(MaybeEncodingError, match="lambda"):
        pool.apply(tasks.unpicklable)
    assert pool.apply(tasks.square, (4,)) == 16


def test_timeouts_and_states(pool):
    result = pool.apply_async(tasks.wait_for, (0.4,))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    results = pool.imap(tasks.wait_for, [0.4])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    assert result.get(30) == 0.4
    assert result.ready()
    assert result.successful()


def test_bad_arguments(implementation):
    with pytest.raises(ValueError, match="at least 1"):
        implementation.pool(0)
    with pytest.raises(TypeError, match="callable"):
        implementation.pool(1, initializer=1)
    for wrong in (0, -1, 1.5, "1"):
        with pytest.raises(ValueError, match="positive int"):
            implementation.pool(1, maxtasksperchild=wrong)
    with pytest.raises(TypeError, match="unexpected keyword"):
        implementation.pool(1, workers=2)
    if implementation.ours:  # the standard library finds out when it has started its threads
        with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
            implementation.pool(2.0)


def test_an_error_is_the_last_of_an_imap_with_chunks(pool):
    for imap in (pool.imap, pool.imap_unordered):
        results = imap(tasks.fail_if_odd, range(1, 9), 2)
        with pytest.raises(ValueError, match="odd"):
            next(results)
        assert list(results) == []
    results = pool.imap(tasks.fail_if_odd, range(1, 3))
    with pytest.raises(ValueError, match="odd"):
        next(results)
    assert list(results) == [2]


def test_bad_chunksize(pool):
    with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
        pool.imap(tasks.square, [1], 0)


def test_after_close(implementation):
    pool = implementation.pool(2)
    running = pool.map_async(tasks.square, range(100), 1)
    unread = pool.imap(tasks.square, range(10))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    for method in (pool.map, pool.imap, pool.imap_unordered, pool.starmap, pool.map_async):
        with pytest.raises(ValueError, match="not running"):
            method(tasks.square, [1])
    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.square, (1,))
    with pytest.raises(ValueError, match="not running"), pool:
        pass
    pool.join()
    assert running.get(30) == [x * x for x in range(100)]
    assert list(unread) == [x * x for x in range(10)]


def test_terminate_does_not_wait(implementation):
    pool = implementation.pool(2)
    pool.map_async(tasks.wait_for, [60] * 4, 1)
    pool.terminate()
    pool.join()
    assert all(not process.is_alive() for process in pool._pool)
    pool.terminate()


def test_it_warns_when_it_was_not_closed(implementation):
    pool = implementation.pool(1)
    pool.apply(tasks.square, (1,))
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool") as caught:  # noqa: PT031
        del pool
        # The thread that set the result may hold the pool for a moment longer.
        deadline = time.monotonic() + 10
        while not caught.list and time.monotonic() < deadline:
            gc.collect()


def test_a_pool_cannot_be_pickled(pool):
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)


def test_attributes_others_rely_on(pool):
    assert pool._processes == 2
    assert len(pool._pool) == 2
    assert all(process.is_alive() and process.daemon for process in pool._pool)
    assert pool._cache == {}
    assert {process.pid for process in pool._pool} >= set(pool.map(tasks.pid, range(20), 1))
    pool._repopulate_pool()
    assert len(pool._pool) == 2
    assert "RUN" in repr(pool)


def test_initializer_and_state(implementation):
    lock = implementation.context.Lock()
    array = np.arange(BIG, dtype=float)
    with implementation.pool(2, tasks.initialize, (array, lock)) as pool:
        assert pool.map(tasks.state_sum, range(8), 1) == [array.sum()] * 8
    pool.join()


def test_maxtasksperchild(implementation):
    with implementation.pool(2, maxtasksperchild=3) as pool:
        pids = pool.map(tasks.pid, range(18), 1)
        assert max(pids.count(pid) for pid in pids) <= 3
        assert len(set(pids)) >= 6
    pool.join()


def test_results_of_workers_that_have_exited(implementation):
    with implementation.pool(1, maxtasksperchild=1) as pool:
        frames = pool.map(tasks.frame_of, range(4), 1)
    pool.join()
    del pool
    gc.collect()
    for i, frame in enumerate(frames):
        pd.testing.assert_frame_equal(frame, tasks.frame_of(i))
        frame.iloc[0, 0] = 5  # and they are the caller's own


def test_from_many_threads(pool):
    answers = {}

    def work(number):
        array = np.full(BIG, float(number))
        answers[number] = [
            pool.map(tasks.square, range(number, number + 30), 1),
            pool.apply(tasks.first, (array,)),
            [float(x[0]) for x in pool.imap(tasks.double, [array] * 5)],
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        assert answers[number] == [
            [x * x for x in range(number, number + 30)],
            float(number),
            [2.0 * number] * 5,
        ]


def test_an_apply_from_a_callback(pool):
    results = []
    done = threading.Event()

    def again(value):
        results.append(pool.apply_async(tasks.square, (value,), callback=lambda _: done.set()))

    pool.apply_async(tasks.square, (2,), callback=again).wait(30)
    assert done.wait(30)
    assert results[0].get(30) == 16


# What a task is given is its own.


def test_frames_wherever_they_sit(pool):
    frame = pd.DataFrame(np.random.default_rng(0).random((BIG // 10, 10)))
    total = frame.to_numpy().sum()
    array = np.ones(BIG)
    assert pool.apply(tasks.total, (frame,)) == total
    assert pool.apply(tasks.total, (), {"frame": frame}) == total
    assert pool.map(tasks.unpack, [tasks.Holder(frame, {"array": array})] * 3) == [total + BIG] * 3
    assert pool.map(functools.partial(tasks.add, frame), [1])[0].equals(frame + 1)
    assert pool.map(functools.partial(tasks.add, y=array), [array])[0].sum() == 2 * BIG
    pd.testing.assert_series_equal(pool.apply(tasks.summed, (frame,)), frame.sum())


def test_a_callable_that_carries_an_array_is_new_for_every_task(pool):
    results = pool.map(tasks.Scaled(np.ones(BIG)), range(8), 1)
    assert results == [float(BIG * x) for x in range(8)]


def test_writes_of_a_task_stay_with_it(pool):
    array = np.zeros(BIG)
    assert pool.map(tasks.write_and_sum, [array] * 6, 1) == [float(BIG)] * 6
    assert pool.starmap(tasks.write_and_sum, [(array,)] * 6, 1) == [float(BIG)] * 6
    assert not array.any()
    frame = pd.DataFrame({"a": np.zeros(BIG), "b": np.ones(BIG)})
    written = pool.apply(tasks.write_frame, (frame,))
    assert written.iloc[0, 0] == -1
    assert frame.iloc[0, 0] == 0
    for _ in range(10):
        assert pool.apply(tasks.first, (array,)) == 0


def test_two_references_in_one_argument_are_one_object(pool):
    array = np.zeros(BIG)
    assert pool.apply(tasks.same_object, ((array, array),))
    a, b = pool.apply(tasks.identity, ((array, array),))
    assert a is b


def test_read_only_arrays_arrive_writeable(pool, implementation):
    # The standard library's pool pickles with protocol 5 from Python 3.14 on: there they arrive as they were.
    writeable = implementation.ours or sys.version_info < (3, 14)
    for size in (10, BIG):
        array = np.zeros(size)
        array.flags.writeable = False
        assert pool.apply(tasks.is_writeable, (array,)) is writeable
        assert pool.apply(tasks.identity, (array,)).flags.writeable is writeable


@pytest.mark.parametrize("size", [100, BIG])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_buffer_that_is_filled_again_is_seen_in_every_state(pool, method, size):
    def states():
        buffer = np.zeros(size)
        for i in range(30):
            buffer[:] = i
            yield buffer

    assert sorted(getattr(pool, method)(tasks.first, states())) == [float(i) for i in range(30)]


def test_a_sequence_that_fills_one_buffer_again(pool):
    class Loads:
        def __init__(self):
            self.buffer = np.zeros(BIG)

        def __len__(self):
            return 12

        def __getitem__(self, index):
            if index >= 12:
                raise IndexError(index)
            self.buffer[:] = index
            return self.buffer

    assert pool.map(tasks.first, Loads(), 1) == [float(i) for i in range(12)]


def test_changed_between_calls(pool):
    array = np.zeros(BIG)
    frame = pd.DataFrame({"a": array.copy(), "b": 1.0})
    for i in range(5):
        array[:] = i
        frame.loc[:, "a"] = float(i)
        assert pool.map(tasks.first, [array, array]) == [float(i)] * 2
        assert pool.map(tasks.total, [frame] * 2) == [float(i * BIG + BIG)] * 2


def test_what_a_worker_keeps_stays_as_it_was(implementation):
    with implementation.pool(1) as pool:
        pool.apply(tasks.keep, (np.arange(BIG, dtype=float),))
        expected = np.arange(BIG, dtype=float)
        expected[0] = 123.0
        for i in range(40):
            pool.map(tasks.write_and_sum, [np.full(BIG, float(i))] * 3)
            assert np.array_equal(pool.apply(tasks.kept), expected)
    pool.join()


def test_results_stay_as_they_were(implementation):
    pool = implementation.pool(2)
    held = pool.map(tasks.frame_of, range(6))
    held[0].iloc[:, :] = -5.0
    column = held[3]["a"]
    part = held[4].iloc[10:20]
    for i in range(20):
        later = pool.map(tasks.frame_of, range(100 + i, 104 + i))
        assert float(later[1].iloc[7, 2]) == 101 + i
    pool.close()
    pool.join()
    del pool
    gc.collect()
    assert (held[0] == -5).all(axis=None)
    for i in (1, 2, 5):
        pd.testing.assert_frame_equal(held[i], tasks.frame_of(i))
    del held
    gc.collect()
    assert (column == 3).all()
    assert (part == 4).all(axis=None)


def test_large_bytes(pool):
    data = bytes(range(256)) * 4000
    assert pool.apply(tasks.identity, (data,)) == data
    assert pool.map(len, [data] * 5) == [len(data)] * 5


@pytest.fixture
def registering():
    """Register reducers; gone afterwards."""
    registered = []

    def register(kind, reduce, table):
        table[kind] = reduce
        registered.append((kind, table))

    yield register
    for kind, table in registered:
        table.pop(kind, None)


def test_reducers_that_are_registered_late(pool, registering):
    """With types that the pool has sent before, and with classes of a metaclass."""
    array = np.ones(20_000)
    text = pd.Series(["a"])
    assert pool.map(tasks.type_name, [array, text]) == ["ndarray", "Series"]
    registering(np.ndarray, tasks.reduce_to_list, ForkingPickler._extra_reducers)
    assert pool.map(tasks.type_name, [array]) == ["list"]
    registering(pd.Series, tasks.reduce_to_list, copyreg.dispatch_table)
    assert pool.map(tasks.type_name, [array, text]) == ["list", "list"]
    del ForkingPickler._extra_reducers[np.ndarray], copyreg.dispatch_table[pd.Series]
    assert pool.map(tasks.type_name, [array, text]) == ["ndarray", "Series"]
    other = tasks.Meta("Other", (tasks.Known,), {})
    registering(tasks.Meta, tasks.reduce_to_known, copyreg.dispatch_table)
    assert pool.map(tasks.is_known, [other]) == [True]


def test_reducers_that_a_worker_registers(implementation):
    with implementation.pool(1) as pool:
        assert pool.apply(tasks.first, (np.ones(20_000),)) == 1.0
        assert pool.apply(tasks.identity, (np.ones(3),)).tolist() == [1.0] * 3
        assert pool.apply(tasks.register_arrays, (20_000,)) == [20_000]
    pool.join()
