"""How a pool ends: at once where nothing runs, within one time limit where something does, and when a thread of it has failed."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

import arrowpool
from arrowpool import PoolTerminatedError
from arrowpool import pool as pool_module
from arrowpool.engine import ending
from arrowpool.engine.calls import Call
from tests.conftest import across_methods, forked_only
from tests.pool import tasks

LIMIT = 30


@pytest.fixture
def terminated():
    """A program with its own SIGTERM handler, as every service has it: it takes note. The list is what it noted."""
    noted = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(os.getpid()))
    yield noted
    signal.signal(signal.SIGTERM, before)


def wait_for_lines(path, count):
    while not os.path.exists(path) or Path(path).read_text().count("\n") < count:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A pool that has to kill a worker takes longer than any test waits."""
    monkeypatch.setattr(ending, "_TERMINATE_SECONDS", 2.0 * LIMIT)


def seconds_to_end(pool):
    began = time.monotonic()
    pool.terminate()
    pool.join()
    return time.monotonic() - began


@pytest.mark.parametrize("handler", ["notes it", "ignored"])
def test_idle_workers_end_at_once_whatever_is_done_about_sigterm(ours, terminated, handler):
    if handler == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pool = ours.pool(4)
    assert pool.map_async(abs, range(-8, 0), 1).get(LIMIT) == list(range(8, 0, -1))
    assert seconds_to_end(pool) < LIMIT
    assert not terminated


def test_busy_workers_end_on_the_pools_word(ours, terminated, tmp_path):
    path = str(tmp_path / "begun")
    pool = ours.pool(2)
    pool.map_async(tasks.note_pid_and_block, [path] * 2, 1)
    wait_for_lines(path, 2)
    assert seconds_to_end(pool) < LIMIT
    assert not terminated


def test_workers_that_no_signal_reaches_are_killed_together(ours, terminated, tmp_path, monkeypatch):
    monkeypatch.setattr(ending, "_TERMINATE_SECONDS", 2.0)
    path = str(tmp_path / "begun")
    with ours.pool(3) as pool:
        pool.map_async(tasks.note_and_spin, [path] * 3, 1)
        wait_for_lines(path, 3)
        assert seconds_to_end(pool) < 5.9, "one after the other"


def do_in_a_thread_of(pool, where, what):
    """Have a pool's own thread do this, once the pool works: the collector, the feeder, or the source that stands in for it."""
    if where == "callback":
        return pool.apply_async(tasks.wait_for, (0.05,), callback=lambda value: what())
    if where == "error callback":
        return pool.apply_async(tasks.fail, ("at once",), error_callback=lambda error: what())
    if where == "done callback of a map":
        return pool.map_async(tasks.wait_for, [0.05] * 4, 1, lambda values: what())
    if where == "argument":
        return pool.map_async(tasks.identity, [0, tasks.CallsWhenPickled(what)], 1)
    return pool.imap(tasks.identity, (tasks.CallsWhenPickled(what) for _ in range(2)))


IN_ITS_OWN_THREAD = ["callback", "error callback", "done callback of a map", "argument", "argument drawn"]


@across_methods(("ours", "where"), IN_ITS_OWN_THREAD)
def test_a_pool_that_is_terminated_in_a_thread_of_its_own(ours, where):
    pool = ours.pool(2)
    pool.map(abs, [1, 2])
    done = threading.Event()

    def terminate():
        pool.terminate()
        done.set()

    began = time.monotonic()
    result = do_in_a_thread_of(pool, where, terminate)
    assert done.wait(LIMIT)
    end = threading.Thread(target=pool.join, daemon=True)
    end.start()
    end.join(LIMIT)
    assert not end.is_alive()
    assert time.monotonic() - began < ending._TERMINATE_SECONDS
    assert not pool._result_handler._thread.is_alive()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(abs, (1,))
    del result


@pytest.mark.filterwarnings("ignore:unclosed running")
@across_methods(("ours", "where"), IN_ITS_OWN_THREAD)
def test_a_pool_that_is_collected_in_a_thread_of_its_own(ours, where, caplog):
    pool = ours.pool(2)
    pool.map(abs, [1, 2])
    pool.itself = pool
    gone, finished = threading.Event(), threading.Event()
    weakref.finalize(pool, gone.set)

    def collect():
        while gc.collect() and not gone.is_set():
            pass
        finished.set()

    threads = [handler._thread for handler in (pool._worker_handler, pool._task_handler, pool._result_handler)]
    gate = threading.Event()
    result = do_in_a_thread_of(pool, where, lambda: gate.wait(LIMIT) and collect())
    getattr(result, "results", result)._pool = None  # of a call that waits
    del result, pool
    gate.set()
    assert finished.wait(LIMIT)
    assert gone.is_set()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert not caplog.records


def test_a_sigterm_of_others_is_as_in_the_standard_library(terminated, tmp_path):
    """The parent's handler runs in the forked worker, too: a signal to the whole group ends no task of a program that will."""
    gate = tmp_path / "go on"
    with arrowpool.get_context("fork").Pool(1) as pool:
        worker = pool.apply(os.getpid)
        result = pool.apply_async(tasks.wait_for_file, (np.ones(3), str(gate)))
        os.kill(worker, signal.SIGTERM)
        gate.touch()
        assert result.get(LIMIT) == 1.0
        assert pool.apply(os.getpid) == worker
    pool.join()
    assert not terminated


def clean_up_at_the_end(path):
    try:
        tasks.note_pid_and_block(path)
    finally:
        os.rename(path, path + " cleaned up")


def test_a_handler_that_raises_has_the_task_clean_up(tmp_path):
    def leave(number, frame):
        raise SystemExit

    before = signal.signal(signal.SIGTERM, leave)
    try:
        pool = arrowpool.get_context("fork").Pool(1)
    finally:
        signal.signal(signal.SIGTERM, before)
    path = str(tmp_path / "begun")
    pool.apply_async(clean_up_at_the_end, (path,))
    wait_for_lines(path, 1)
    assert seconds_to_end(pool) < LIMIT
    assert os.path.exists(path + " cleaned up")


@pytest.mark.parametrize("ending", ["terminate", "close"])
def test_what_a_task_leaves_running_delays_no_end(ours, ending):
    """A forked child has all descriptors of its worker; that the worker has ended is seen all the same."""
    with ours.pool(2) as pool:
        children = pool.map_async(tasks.leave_a_child, [60, 60], 1).get(LIMIT)
        workers = list(pool._pool)
        began = time.monotonic()
        if ending == "close":
            pool.close()
            pool.join()
        pool.terminate()
        for worker in workers:
            worker.join(LIMIT)
        pool.join()
        try:
            assert time.monotonic() - began < LIMIT
            assert all(worker.exitcode is not None for worker in workers)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


@forked_only
def test_a_time_limit_of_a_month(ours):
    with ours.pool(1, task_timeout=31 * 86_400) as pool:
        victim = pool.apply_async(os.getpid).get(LIMIT)
        os.kill(victim, signal.SIGKILL)
        assert pool.apply_async(abs, (-1,)).get(LIMIT) == 1
        pool.close()
        pool.join()


def test_a_relative_spill_directory_and_another_current_directory(ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spilled").mkdir()
    (tmp_path / "elsewhere").mkdir()
    with ours.pool(1, spill_dir="spilled", maxtasksperchild=1) as pool:
        for _ in range(5):  # the second worker may have been started before the directory was left
            assert pool.apply_async(tasks.double, (np.ones(100_000),)).get(LIMIT)[5] == 2.0
            os.chdir(tmp_path / "elsewhere")
    pool.join()


THREADS = {"supervisor": "_worker_handler", "feeder": "_task_handler", "collector": "_result_handler"}
FAILS = {"supervisor": "_bury", "feeder": "_go_on", "collector": "_read"}


@pytest.mark.parametrize("ending", ["terminate", "close"])
@pytest.mark.parametrize("which", THREADS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_of_the_pool_fails(which, ending, tmp_path):
    """Every call ends, also those that are made after that, and so does the pool."""

    def fails(*args):
        raise ZeroDivisionError("a defect")

    pool = arrowpool.get_context("fork").Pool(2)
    assert pool.apply_async(abs, (-1,)).get(LIMIT) == 1
    waiting = pool.apply_async(tasks.wait_for_file, (np.ones(3), str(tmp_path / "never")))
    thread = getattr(pool, THREADS[which])
    setattr(thread, FAILS[which], fails)
    if which == "supervisor":
        thread.wake()
    else:
        pool.apply_async(abs, (-2,))
    with pytest.raises(PoolTerminatedError, match="a defect"):
        waiting.get(LIMIT)
    with pytest.raises(PoolTerminatedError, match="a defect"):
        pool.apply(abs, (-3,))
    if which == "collector":
        assert thread.join(LIMIT)
    late = pool_module.AsyncResult(pool, None, None)  # of a call that was checked before that
    pool._submit(Call(iter([(late._job, 0, abs, (-4,), {})]), None, job=late._job, length=1))
    with contextlib.suppress(PoolTerminatedError):
        assert late.get(LIMIT) == 4  # or it is answered, by those that go on
    getattr(pool, ending)()
    ended = threading.Thread(target=pool.join)
    ended.start()
    ended.join(LIMIT)
    assert not ended.is_alive()


@forked_only
def test_an_ended_pool_refers_to_none_of_its_items(ours):
    """A program keeps its pool in a variable; its frames are large."""

    class Item:
        def __reduce__(self):
            return int, ()

    for _ in range(5):  # whether the feeder has noticed that there are no more tasks is a matter of timing
        items = [Item() for _ in range(6)]
        seen = [weakref.ref(item) for item in items]
        with ours.pool(2) as pool:
            assert pool.map(abs, items, 1) == [0] * 6
            pool.terminate()
            pool.join()
        del items
        gc.collect()
        assert [reference() for reference in seen] == [None] * 6
