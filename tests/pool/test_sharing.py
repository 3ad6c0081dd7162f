"""What is copied once for many tasks: shared for many calls by the user, or windows over the same memory in one call."""

from __future__ import annotations

import contextlib
import functools
import threading

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import arrowpool
from arrowpool import Pool, PoolTerminatedError, WorkerLostError
from tests.codecs.harness import as_the_stdlib_does
from tests.codecs.sameness import facts
from tests.conftest import across_methods, forked_only
from tests.pool import tasks

SIZE = 100_000
LIMIT = 60


def frame_of_columns(rows=SIZE):
    """One block in column order: a slice of its rows is not contiguous."""
    return pd.DataFrame({name: np.arange(rows) + shift for shift, name in enumerate("abcd")}, dtype=float).copy()


def mixed_frame(rows=SIZE):
    numbers = np.arange(rows)
    return pd.DataFrame(
        {
            "x": numbers.astype(float),
            "y": numbers * 2.0,
            "whole": numbers,
            "when": pd.date_range("2020-01-01", periods=rows, freq="min", tz="UTC"),
            "which": pd.Categorical.from_codes(numbers % 3, ["a", "b", "c"]),
            "maybe": pd.array(np.where(numbers % 7, numbers, 0), dtype="Int64"),
            "text": pd.Series([f"row {i}" for i in range(rows)], dtype="string[pyarrow]"),
        },
        index=pd.date_range("2000-01-01", periods=rows, freq="s", name="at"),
    )


def moved(pool, call):
    """Bytes that a call copied into shared memory, and its value."""
    before = pool.stats().shared_bytes
    value = call()
    return pool.stats().shared_bytes - before, value


# ------------------------------------------------------------------------------------------------------------- share


SHARED = {
    "array": lambda: np.arange(SIZE, dtype=float),
    "frame": frame_of_columns,
    "mixed": mixed_frame,
    "series": lambda: pd.Series(np.arange(SIZE, dtype=float), name="s"),
    "table": lambda: pa.table({"x": np.arange(SIZE, dtype=float)}),
    "polars": lambda: pl.DataFrame({"x": np.arange(SIZE, dtype=float)}),
    "object": lambda: tasks.Scaled(np.arange(SIZE, dtype=float)),
}


@pytest.fixture
def pool_of():
    """A pool of two under the implementation that is asked for."""
    with contextlib.ExitStack() as pools:

        def make(implementation):
            pool = implementation.pool(2)
            pools.callback(pool.join)
            return pools.enter_context(pool)

        yield make


@across_methods(("ours", "kind"), SHARED, few=2)
def test_what_is_shared_is_copied_once_for_all_calls(pool_of, ours, kind):
    our_pool = pool_of(ours)
    obj = SHARED[kind]()
    expected = tasks.digest(as_the_stdlib_does(obj))
    once, _ = moved(our_pool, lambda: our_pool.apply(tasks.digest, (obj,)))
    assert once > SIZE
    with our_pool.share(obj) as shared:
        assert shared is obj
        count, answers = moved(
            our_pool,
            lambda: [
                our_pool.apply(tasks.digest, (obj,)),
                *our_pool.map(functools.partial(tasks.digest_of, obj), range(6), 1),
                *our_pool.starmap(tasks.digest_of, [(obj, i) for i in range(6)], 3),
                our_pool.apply_async(tasks.digest_of, (), {"obj": obj, "i": 1}).get(LIMIT),
                our_pool.apply(tasks.digest_of_both, ({"deep": [obj]}, (obj,))),
                *our_pool.imap(lambda i: tasks.digest_of(obj, i), range(3)),
            ],
        )
        assert answers == [expected] * len(answers)
        assert count == 0
    again, answer = moved(our_pool, lambda: our_pool.apply(tasks.digest, (obj,)))
    assert (again, answer) == (once, expected)


def test_a_task_may_write_to_what_is_shared(our_pool):
    array = np.zeros(SIZE)
    with our_pool.share(array):
        assert our_pool.map(functools.partial(tasks.write_at, array), range(12), 1) == [1.0] * 12
    assert array.sum() == 0


def test_a_shared_object_has_the_state_it_was_shared_in(our_pool):
    array = np.zeros(SIZE)
    with our_pool.share(array):
        array[:] = 1
        assert our_pool.apply(tasks.first, (array,)) == 0
        with our_pool.share(array):
            assert our_pool.apply(tasks.first, (array,)) == 1
        assert our_pool.apply(tasks.first, (array,)) == 0
    assert our_pool.apply(tasks.first, (array,)) == 1


def test_a_call_that_is_running_when_the_sharing_ends_is_not_disturbed(our_pool):
    array = np.arange(SIZE, dtype=float)
    with our_pool.share(array):
        results = our_pool.map_async(functools.partial(tasks.pick, array), range(200), 1)
    other = np.full(SIZE, -1.0)
    assert our_pool.map(tasks.first, [other + i for i in range(20)], 1) == [i - 1.0 for i in range(20)]
    assert results.get(LIMIT) == [float(i) for i in range(200)]


SMALL = {
    "array": lambda: np.full(4, 1.0),
    "no dimension": lambda: np.array(1.0),
    "frame": lambda: pd.DataFrame({"a": [1.0, 2.0]}),
    "series": lambda: pd.Series([1.0, 2.0]),
    "object": lambda: tasks.Counter({"i": 1.0}),
}


def first_of(obj):
    return obj.state["i"] if isinstance(obj, tasks.Counter) else float(np.asarray(obj).flat[0])


def change(obj):
    if isinstance(obj, tasks.Counter):
        obj.state["i"] = 2.0
    elif isinstance(obj, np.ndarray):
        obj[...] = 2.0
    else:
        obj.iloc[:] = 2.0


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_small_is_taken_when_it_is_shared_too(kind):
    obj = SMALL[kind]()
    with Pool(2) as our_pool:
        with our_pool.share(obj):
            change(obj)
            assert our_pool.apply(first_of, (obj,)) == 1.0
            assert our_pool.map(first_of, [obj] * 3, 1) == [1.0] * 3
            assert our_pool.apply(first_of, ([obj][0],), {}) == 1.0
            assert our_pool.map(functools.partial(tasks.call_on, first_of), [{"deep": obj}], 1) == [1.0]
            assert our_pool.apply(functools.partial(tasks.is_same, obj), (obj,))
        assert our_pool.apply(first_of, (obj,)) == 2.0
    our_pool.join()


@forked_only
@pytest.mark.parametrize("size", [4, SIZE])
@pytest.mark.parametrize("method", ["map_async", "imap", "apply_async"])
def test_a_call_refers_to_what_was_shared_when_it_was_made(our_pool, method, size):
    array = np.zeros(size)
    release = threading.Event()

    def items():
        for i in range(40):
            assert release.wait(LIMIT)
            yield i

    function = functools.partial(tasks.state_and, array)
    before = our_pool.imap(function, items())
    with our_pool.share(array):
        if method == "map_async":
            results = our_pool.map_async(function, range(500), 1)
        elif method == "imap":
            results = our_pool.imap(function, (i for i in range(500)))
        else:
            results = [our_pool.apply_async(function, (i,)) for i in range(500)]
        array[:] = 1
    array[:] = 2
    release.set()
    assert list(before) == [(2.0, i) for i in range(40)]  # taken when its items are drawn
    if method == "map_async":
        came = results.get(LIMIT)
    elif method == "imap":
        came = list(results)
    else:
        came = [result.get(LIMIT) for result in results]
    assert came == [(0.0, i) for i in range(500)]
    assert our_pool._task_handler.parts.budget.pinned == 0 or our_pool.apply(tasks.square, (1,)) == 1


def test_the_block_ends_in_another_thread(our_pool):
    """While a call is being pickled that refers to what is shared: the call is made as if that was over."""
    array = np.zeros(SIZE)

    class EndsTheBlock:
        def __reduce__(self):
            if block:
                block.pop().close()
                our_pool.apply(tasks.square, (2,))  # the feeder has seen it by now
            return int, ()

    def share():
        with our_pool.share(array):
            yield

    block = [share()]
    next(block[0])
    array[:] = 1
    assert our_pool.apply(tasks.state_and, (array, EndsTheBlock())) == (1.0, 0)


@pytest.mark.own_pool
def test_new_workers_see_it_too(our_pool):
    array = np.arange(SIZE, dtype=float)
    with our_pool.share(array):
        for _ in range(3):
            with pytest.raises(WorkerLostError):
                our_pool.apply(tasks.die, ("sigkill",))
        assert our_pool.map(functools.partial(tasks.pick, array), range(6), 1) == [0, 1, 2, 3, 4, 5]


def test_nothing_is_kept_when_the_sharing_is_over(our_pool):
    array = np.ones(SIZE)
    lifecycle = our_pool._task_handler.parts.sender.lifecycle
    with our_pool.share(array):
        assert lifecycle.bytes_live >= array.nbytes
        assert our_pool.apply(tasks.first, (array,)) == 1
    before = lifecycle.bytes_live
    for _ in range(20):
        with our_pool.share(array):
            our_pool.apply(tasks.first, (array,))
    our_pool.apply(tasks.square, (2,))
    our_pool._task_handler.wake()
    our_pool.apply(tasks.square, (2,))
    assert lifecycle.bytes_live <= before
    assert our_pool._task_handler.parts.budget.pinned == 0


@forked_only
def test_what_is_shared_is_not_in_flight(ours, tmp_path):
    array = np.ones(SIZE)
    with ours.pool(2, max_bytes=array.nbytes) as pool, pool.share(array):
        given = [(array[: SIZE // 4].copy(), str(tmp_path), 2) for _ in range(2)]
        assert pool.starmap_async(tasks.meet, given, 1).get(LIMIT) == [True, True]
    pool.join()


@forked_only
@pytest.mark.own_pool
def test_what_cannot_be_shared(our_pool):
    for obj in ([np.ones(9)], {"a": 1}, (1,), "text", 5, None, len, lambda: 1, np.ndarray):
        with pytest.raises(TypeError, match="cannot be shared: calls would not recognize it"), our_pool.share(obj):
            pass
    with pytest.raises(TypeError, match="pickle"), our_pool.share(tasks.Scaled(threading.Lock())):
        pass
    assert our_pool.apply(tasks.square, (3,)) == 9
    our_pool.close()
    with pytest.raises(ValueError, match="not running"), our_pool.share(np.ones(9)):
        pass


@forked_only
def test_a_pool_that_ends_while_something_is_shared(ours):
    array = np.ones(SIZE)
    pool = ours.pool(1)
    with pool.share(array):
        pool.terminate()
    pool.join()
    pool = ours.pool(1)
    pool._task_handler.end()  # its feeder ends, and the pool does not know yet
    pool._task_handler.join()
    with pytest.raises(PoolTerminatedError), pool.share(array):
        pass
    pool.terminate()
    pool.join()


# ----------------------------------------------------------------------------------------------------------- windows


def rolling(obj, length, step):
    cut = obj.iloc.__getitem__ if hasattr(obj, "iloc") else obj.__getitem__
    return [cut(slice(at, at + length)) for at in range(0, SIZE - length, step)]


WINDOWED = {
    "array": lambda: np.arange(SIZE, dtype=float),
    "rows": lambda: np.arange(SIZE * 3).reshape(SIZE, 3),
    "frame": frame_of_columns,
    "frame of rows": lambda: pd.DataFrame(np.random.default_rng(1).random((SIZE, 4))),
    "mixed": mixed_frame,
    "series": lambda: pd.Series(np.arange(SIZE, dtype=float), index=np.arange(SIZE) * 3, name="s"),
    "index": lambda: pd.Index(np.arange(SIZE) * 2),
    "table": lambda: pa.table({"x": np.arange(SIZE, dtype=float), "s": [str(i) for i in range(SIZE)]}),
    "table with nulls": lambda: pa.table({"x": pa.array([None if i % 5 == 0 else i for i in range(SIZE)])}),
    "batch": lambda: pa.record_batch({"x": np.arange(SIZE, dtype=float), "b": np.arange(SIZE) % 2 == 0}),
    "chunked": lambda: pa.chunked_array([np.arange(SIZE // 2), np.arange(SIZE // 2)]),
    "arrow array": lambda: pa.array(np.arange(SIZE)),
}


def same(one, other):
    """Equal in all that users can see; the blocks that a frame is made of may lie differently."""
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
        assert facts(one.index) == facts(other.index)
        return all(facts(one[name].array) == facts(other[name].array) for name in one)
    if isinstance(one, (pa.ChunkedArray, pa.Array, pa.Table, pa.RecordBatch)):
        return one.equals(other) and type(one) is type(other)
    return facts(one) == facts(other)


@across_methods(("ours", "kind"), WINDOWED, few=3)
def test_windows_that_overlap_are_copied_once(pool_of, ours, kind):
    our_pool = pool_of(ours)
    obj = WINDOWED[kind]()
    windows = rolling(obj, SIZE // 4, SIZE // 16)
    expected = [tasks.digest(as_the_stdlib_does(window)) for window in windows]
    one, _ = moved(our_pool, lambda: our_pool.apply(tasks.digest, (windows[0],)))
    for chunksize in (1, 5):
        count, digests = moved(our_pool, lambda size=chunksize: our_pool.map(tasks.digest, windows, size))
        assert digests == expected
        assert count < 6 * one  # there are 12, which cover four times one
    came = our_pool.map(tasks.identity, windows[:6] * 2, 3)
    assert all(same(back, as_the_stdlib_does(window)) for back, window in zip(came, windows[:6] * 2, strict=True))


def test_tables_of_small_buffers_are_no_windows(our_pool):
    tables = [pa.table({f"c{i}": np.arange(100) + shift for i in range(200)}) for shift in range(4)]
    assert all(a.equals(b) for a, b in zip(our_pool.map(tasks.identity, tables, 2), tables, strict=True))


def test_writes_to_a_window_stay_private(our_pool):
    array = np.zeros(SIZE)
    frame = frame_of_columns()
    before = frame.copy()
    for chunksize in (1, 5):
        windows = [array[at : at + SIZE // 2] for at in range(0, SIZE // 2, 2000)]
        assert our_pool.map(tasks.write_and_sum, windows, chunksize) == [SIZE // 2] * len(windows)
        # In one message, beside the memory they are cut from.
        pairs = [(window, array) for window in windows]
        assert our_pool.starmap(tasks.write_first_sum_second, pairs, chunksize) == [0.0] * len(pairs)
        rows = rolling(frame, SIZE // 2, 5000)
        assert our_pool.map(tasks.overwrite, rows, chunksize) == [(-2.0 * (SIZE // 2)) * 2] * len(rows)
    assert array.sum() == 0
    pd.testing.assert_frame_equal(frame, before)


OVERLAPPING = {
    "columns": lambda numbers: pd.DataFrame(np.broadcast_to(numbers, (4, SIZE)).T, copy=False),
    "rows": lambda numbers: pd.DataFrame(np.broadcast_to(numbers[:4], (SIZE, 4)), copy=False),
    "sliding": lambda numbers: pd.DataFrame(sliding_window_view(numbers, 8), copy=False),
    "sliding columns": lambda numbers: pd.DataFrame(sliding_window_view(numbers, SIZE - 8).T, copy=False),
    "series": lambda numbers: pd.Series(np.broadcast_to(numbers[5], SIZE), copy=False),
}


@pytest.mark.parametrize("kind", OVERLAPPING)
def test_windows_of_memory_that_overlaps_itself(kind):
    """One cell is written to, and one is changed."""
    obj = OVERLAPPING[kind](np.arange(float(SIZE)))
    windows = rolling(obj, SIZE // 2, SIZE // 16)[:4]
    with Pool(1) as pool:
        assert pool.map(tasks.write_one_cell, windows, 2) == [1] * len(windows)
        came = pool.map(tasks.identity, windows, 2)
        expected = [as_the_stdlib_does(as_the_stdlib_does(window)) for window in windows]
        assert [facts(back) for back in came] == [facts(window) for window in expected]
        assert pool.map(tasks.write_one_cell, came, 2) == [1] * len(windows)
    pool.join()


def test_columns_of_windows_are_contiguous(our_pool):
    """As after pickle: what takes no strides (a typed memoryview, say) works."""
    frame = pd.DataFrame(np.arange(SIZE * 4.0).reshape(SIZE, 4), copy=False)
    for cut in (slice(None, None, 2), slice(None, None, -1)):
        windows = [window[cut] for window in rolling(frame, SIZE // 2, SIZE // 16)]
        laid_out = our_pool.map(tasks.contiguous_columns, windows, 2)
        assert laid_out == [tasks.contiguous_columns(as_the_stdlib_does(window)) for window in windows]
        assert all(map(all, laid_out))


def test_each_call_sees_the_state_of_its_time(our_pool):
    array = np.zeros(SIZE)
    windows = [array[at : at + SIZE // 2] for at in range(0, SIZE // 2, 5000)]
    for state in range(4):
        array[:] = state
        assert our_pool.map(tasks.first, windows, 1) == [float(state)] * len(windows)


def test_windows_over_more_than_the_budget_go_one_by_one(ours):
    array = np.arange(SIZE, dtype=float)
    with ours.pool(2, max_bytes=array.nbytes) as pool:
        windows = rolling(array, SIZE // 8, SIZE // 40)
        count, firsts = moved(pool, lambda: pool.map(tasks.first, windows, 1))
        assert firsts == [float(window[0]) for window in windows]
        assert count == sum(window.nbytes for window in windows)
    pool.join()


def test_chunks_that_do_not_overlap_have_memory_of_their_own(our_pool):
    """A task that keeps one of them keeps no more than that."""
    for obj in (frame_of_columns(), pa.table({"x": np.arange(SIZE)}), np.ones(SIZE)):
        parts = rolling(obj, SIZE // 8, SIZE // 8)
        count, _ = moved(our_pool, lambda parts=parts: our_pool.map(tasks.digest, parts, 1))
        assert count <= 1.01 * sum(
            part.nbytes if not hasattr(part, "iloc") else part.memory_usage().sum() for part in parts
        )


def test_arrays_that_are_read_backwards_or_across(our_pool):
    grid = np.arange(400 * 500.0).reshape(400, 500)
    views = [grid[::-1], grid.T, grid[:, 100:], grid[50:], grid[::2], grid[::-1, ::-1], grid[10:, 5:].T] * 3
    came = our_pool.map(tasks.identity, views, 2)
    assert all(facts(back) == facts(as_the_stdlib_does(view)) for back, view in zip(came, views, strict=True))


def first_and_write(array):
    seen = float(array[0]), float(array[-1])
    array += 1000.0
    return seen


@pytest.mark.parametrize("most", [0, 5])
def test_more_that_overlaps_than_can_be_mapped(monkeypatch, most):
    """Each is private to its task still: what exceeds the maps that a process may have is copied."""
    monkeypatch.setattr("arrowpool.memory.mapping.OWN_MAPS", most)
    with arrowpool.get_context("fork").Pool(1) as pool:
        length = 40_000
        ours = np.arange(length + 40.0)
        lent = pool.apply(np.arange, (length + 40.0,))
        for array in (ours, lent):
            before = pool.stats().shared_bytes
            windows = [array[at : at + length] for at in range(40)]
            expected = [(float(at), at + length - 1.0) for at in range(40)]
            assert pool.map(first_and_write, windows, 20) == expected
            assert pool.stats().shared_bytes - before < 2 * array.nbytes, "they were not sent one by one"
            assert array[-1] == length + 39
    pool.join()
