"""Results of one call as arguments of the next: their memory stays where it is, unless that could be seen."""

from __future__ import annotations

import functools
import gc
import os
import time

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool import WorkerLostError
from arrowpool.memory import platform
from tests.pool import tasks

SIZE = 100_000
LIMIT = 60


def can_tell_what_was_written():
    """Whether this kernel says which pages of a private map were written to (Linux 6.7)."""
    with arrowpool.get_context("fork").Pool(1) as pool:
        result = pool.apply(tasks.double, (np.ones(SIZE),))
        before = pool.stats().shared_bytes
        pool.apply(tasks.first, (result,))
        lent = pool.stats().shared_bytes == before
    pool.join()
    return lent


def moved(pool, call):
    before = pool.stats().shared_bytes
    value = call()
    return pool.stats().shared_bytes - before, value


@pytest.fixture(scope="module", autouse=True)
def _needs_the_kernel():
    if not can_tell_what_was_written():
        pytest.skip("this kernel cannot tell which pages were written to: everything is copied")


def test_results_that_are_passed_on_are_not_copied(our_pool):
    frames = our_pool.map(tasks.frame_of, range(8), 1)
    expected = [tasks.digest(frame) for frame in frames]
    ways = [
        lambda: our_pool.map(tasks.digest, frames, 1),
        lambda: our_pool.map(tasks.digest, frames, 3),
        lambda: list(our_pool.imap(tasks.digest, iter(frames))),
        lambda: our_pool.starmap(tasks.digest_of, [(frame, 0) for frame in frames], 1),
        lambda: [our_pool.apply(functools.partial(tasks.digest_of, frame), (0,)) for frame in frames],
        lambda: [our_pool.apply(tasks.digest_of_both, ({"deep": [1]}, [frame])) for frame in frames],
    ]
    for way in ways:
        assert moved(our_pool, way) == (0, expected)
    saved = our_pool.stats()
    assert saved.copies_saved >= 8 * len(ways)


def test_parts_of_results(our_pool):
    array = our_pool.apply(tasks.double, (np.arange(4.0 * SIZE),))
    parts = [array[:SIZE], array[SIZE : 3 * SIZE], array[2 * SIZE :].reshape(2, SIZE), array[SIZE:].reshape(3, SIZE).T]
    count, digests = moved(our_pool, lambda: [our_pool.apply(tasks.digest, (part,)) for part in parts])
    assert count == 0
    assert digests == [tasks.digest(part.copy(order="K")) for part in parts]
    # What is not contiguous, or small, is copied.
    for part in (array[::2], array[:1000]):
        assert our_pool.apply(tasks.digest, (part,)) == tasks.digest(part.copy())


def test_what_was_written_to_is_copied(our_pool):
    frames = our_pool.map(tasks.frame_of, range(4), 1)
    frames[1].iloc[5, 0] = -1.0
    frames[2] += 1
    arrays = our_pool.map(tasks.double, [np.ones(4 * SIZE)] * 2, 1)
    arrays[0][-1] = 7
    _, digests = moved(our_pool, lambda: our_pool.map(tasks.digest, frames, 1))
    assert digests == [tasks.digest(frame) for frame in frames]
    count, sums = moved(our_pool, lambda: our_pool.map(tasks.total_of_array, arrays, 1))
    assert sums == [8 * SIZE + 5, 8 * SIZE]
    assert count == arrays[0].nbytes
    # The part of it that was not written to need not be.
    assert moved(our_pool, lambda: our_pool.apply(tasks.total_of_array, (arrays[0][:SIZE],))) == (0, 2 * SIZE)


def test_what_a_task_writes_stays_with_it(our_pool):
    arrays = our_pool.map(tasks.double, [np.ones(SIZE)] * 4, 1)
    for _ in range(3):
        assert our_pool.map(tasks.write_and_sum, arrays, 1) == [3.0 * SIZE] * 4
        # In one message, beside others of the same memory.
        views = [array[:] for array in arrays * 3] + [array[SIZE // 2 :] for array in arrays]
        assert our_pool.map(tasks.write_and_sum, views, 16) == [3.0 * SIZE] * 12 + [1.5 * SIZE] * 4
    assert all((array == 2).all() for array in arrays)


def test_it_is_lent_for_as_long_as_a_task_needs_it(our_pool):
    arrays = our_pool.map(tasks.double, [np.full(SIZE, float(i)) for i in range(8)], 1)
    running = our_pool.map_async(functools.partial(tasks.first_after, 0.05), arrays, 1)
    del arrays
    gc.collect()
    # Their owners make more results meanwhile, and must not make them there.
    others = our_pool.map_async(tasks.double, [np.full(SIZE, -1.0)] * 16, 1)
    assert running.get(LIMIT) == [2.0 * i for i in range(8)]
    assert all((other == -2).all() for other in others.get(LIMIT))


def test_a_lent_object_has_the_state_that_was_sent(our_pool):
    array = our_pool.apply(tasks.double, (np.ones(SIZE),))
    results = [our_pool.apply_async(tasks.first_after, (0.1, array)) for _ in range(4)]
    results[-1].get(LIMIT)
    array[:] = 5
    assert [result.get(LIMIT) for result in results] == [2.0] * 4
    assert our_pool.apply(tasks.first, (array,)) == 5


@pytest.mark.own_pool
def test_the_owner_is_killed(our_pool):
    arrays = our_pool.map(tasks.double, [np.full(SIZE, float(i)) for i in range(6)], 1)
    for _ in range(2):
        with pytest.raises(WorkerLostError):
            our_pool.apply(tasks.die, ("sigkill",))
    count, firsts = moved(our_pool, lambda: our_pool.map(tasks.first, arrays, 1))
    assert firsts == [2.0 * i for i in range(6)]
    assert count == 0


@pytest.mark.own_pool
def test_generations_of_results(our_pool):
    arrays = our_pool.map(tasks.double, [np.full(SIZE, 1.0)] * 6, 1)
    before = None
    for generation in range(2, 40):
        arrays = our_pool.map(tasks.add_one, arrays, 1)
        if generation == 10:
            before = len(os.listdir("/proc/self/fd"))
    assert all((array == 40).all() for array in arrays)
    assert len(os.listdir("/proc/self/fd")) <= before + 6  # one worker's first result may have come after that
    stats = our_pool.stats()
    assert stats.live_results <= 24  # the last ones, and what has been released since somebody looked
    assert stats.shared_bytes == 40 * 6 * SIZE * 8 - 5 * SIZE * 8  # the first argument once, each result once
    del arrays
    deadline = time.monotonic() + LIMIT
    while our_pool.stats().live_segments or our_pool.stats().live_results:
        our_pool._task_handler.wake()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_lent_goes_back_while_the_pool_idles(monkeypatch):
    monkeypatch.setattr("arrowpool.engine.sending.IDLE_SECONDS", 0.05)
    with arrowpool.get_context("fork").Pool(1) as pool:
        array = pool.apply(tasks.double, (np.ones(SIZE),))
        assert pool.apply(tasks.first, (array,)) == 2
        del array
        deadline = time.monotonic() + LIMIT
        while pool.stats().live_segments or pool.stats().live_results:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    pool.join()


def test_results_of_one_pool_in_another(ours):
    with ours.pool(1) as one, ours.pool(1) as other:
        other.apply(tasks.square, (2,))  # nothing is lent to workers that have not said that they can read it
        array = one.apply(tasks.double, (np.ones(SIZE),))
        assert moved(other, lambda: other.apply(tasks.total_of_array, (array,))) == (0, 2 * SIZE)
        one.terminate()
        assert moved(other, lambda: other.apply(tasks.total_of_array, (array,))) == (0, 2 * SIZE)
    one.join()
    other.join()


def test_shared_results(our_pool):
    array = our_pool.apply(tasks.double, (np.ones(SIZE),))
    with our_pool.share(array):
        array += 1
        assert our_pool.map(functools.partial(tasks.pick, array), range(4), 1) == [2.0] * 4
    assert our_pool.apply(tasks.pick, (array, 0)) == 3


def test_workers_that_may_not_read_it_get_copies(monkeypatch):
    monkeypatch.setattr(platform, "may_open_of", lambda pid: False)
    with arrowpool.get_context("fork").Pool(2) as pool:
        arrays = pool.map(tasks.double, [np.full(SIZE, float(i)) for i in range(4)], 1)
        count, firsts = moved(pool, lambda: pool.map(tasks.first, arrays, 1))
        assert firsts == [0, 2, 4, 6]
        assert count == 4 * arrays[0].nbytes
    pool.join()


def refuse(*_):
    raise PermissionError("not this one")


@pytest.mark.parametrize("captured", [False, True])
def test_workers_that_find_they_may_not_read_it_get_copies(monkeypatch, captured):
    monkeypatch.setattr(platform, "open_of", refuse)
    with arrowpool.get_context("fork").Pool(2) as pool:
        arrays = pool.map(tasks.double, [np.full(SIZE, float(i)) for i in range(8)], 1)
        if captured:
            assert pool.map(functools.partial(tasks.pick, arrays[3]), range(8), 1) == [6.0] * 8
        else:
            assert pool.map(tasks.first, arrays, 1) == [2.0 * i for i in range(8)]
            # They say so once: what comes now is copied at once.
            count, _ = moved(pool, lambda: pool.map(tasks.first, arrays, 1))
            assert count == 8 * arrays[0].nbytes
        assert pool._task_handler.parts.budget.pinned == 0
    pool.join()


def test_frames_of_many_dtypes(our_pool):
    rows = np.arange(SIZE)
    frame = pd.DataFrame(
        {
            "x": rows.astype(float),
            "n": rows,
            "when": pd.date_range("2020", periods=SIZE, freq="s", tz="UTC"),
            "which": pd.Categorical.from_codes(rows % 3, ["a", "b", "c"]),
            "maybe": pd.array(rows, dtype="Int64"),
            "text": pd.Series([f"row {i}" for i in rows], dtype="string[pyarrow]"),
        },
        index=pd.Index(rows * 2, name="at"),
    )
    came = our_pool.apply(tasks.identity, (frame,))
    again = our_pool.apply(tasks.identity, (came,))
    pd.testing.assert_frame_equal(again, frame)
    assert our_pool.apply(tasks.digest, (again,)) == tasks.digest(frame)


def test_a_forked_child_passes_on_copies():
    """What it inherits is its parent's to lend."""
    with arrowpool.get_context("fork").Pool(1) as pool:
        array = pool.apply(tasks.double, (np.ones(SIZE),))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with arrowpool.get_context("fork").Pool(1) as own:
                    total = own.apply(tasks.total_of_array, (array,))
                    code = 0 if (total, own.stats().shared_bytes) == (2 * SIZE, array.nbytes) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pool.join()
