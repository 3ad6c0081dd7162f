"""What the operator of a pool sees: log records of workers that ended, counts, and the pool's health."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import TimeoutError

import numpy as np
import pytest

import arrowpool
from arrowpool import ArenaFullError, TaskTimeoutError, WorkerInitError, WorkerLostError
from arrowpool.engine.obituary import Reason, reason_of
from tests.conftest import needs
from tests.pool import tasks

LIMIT = 30


def eventually(is_so):
    until = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def records(caplog):
    caplog.set_level(logging.INFO, logger="arrowpool")

    def of(*reasons):
        return [record for record in caplog.records if getattr(record, "reason", None) in reasons]

    return of


@pytest.mark.own_pool
def test_a_lost_worker(our_pool, records):
    with pytest.raises(WorkerLostError) as caught:
        our_pool.apply(tasks.die, ("sigkill",))
    eventually(lambda: len(records("lost")) == 2)
    lost, replaced = sorted(records("lost"), key=lambda record: hasattr(record, "replaces"))
    assert (lost.levelno, lost.name.partition(".")[0]) == (logging.WARNING, "arrowpool")
    assert (lost.worker, lost.exitcode, lost.task) == (caught.value.pid, -signal.SIGKILL, "die")
    assert lost.getMessage() == f"worker {lost.worker} was lost: it was killed by SIGKILL while it ran die"
    assert (replaced.levelno, replaced.replaces, replaced.worker != lost.worker) == (logging.INFO, lost.worker, True)
    assert our_pool.apply(abs, (-1,)) == 1
    stats = our_pool.stats()
    assert (stats.lost, stats.replaced, stats.timeouts) == (1, 1, 0)
    assert "1 lost, 0 killed for time, 1 replaced" in repr(stats)


@pytest.mark.own_pool
def test_a_lost_worker_without_a_task(our_pool, records):
    pid = our_pool.apply(os.getpid)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: our_pool.stats().lost == our_pool.stats().replaced == 1)
    eventually(lambda: len(records("lost")) == 2)
    (lost,) = [record for record in records("lost") if not hasattr(record, "replaces")]
    assert (lost.worker, lost.task) == (pid, None)
    assert lost.getMessage().endswith("without a task")


def test_a_task_that_is_tried_again(records):
    with arrowpool.Pool(1, retries=1) as pool, pytest.raises(WorkerLostError):
        pool.apply(tasks.die, ("sigkill",))
    pool.join()
    assert len([record for record in records("lost") if record.levelno == logging.WARNING]) == 2
    assert pool.stats().lost == 2


def test_a_worker_that_is_killed_for_time(records):
    with arrowpool.Pool(1, task_timeout=0.1) as pool:
        with pytest.raises(TaskTimeoutError):
            pool.map(tasks.wait_for, [60.0])
        eventually(lambda: len(records("timeout")) == 2)
        stats = pool.stats()
    pool.join()
    (late,) = [record for record in records("timeout") if not hasattr(record, "replaces")]
    assert late.levelno == logging.WARNING
    assert "wait_for on item 0 of 1 ran for more than 0.1 s" in late.getMessage()
    assert (stats.timeouts, stats.lost) == (1, 0)


def test_workers_that_end_as_agreed(records):
    with arrowpool.Pool(1, maxtasksperchild=2) as pool:
        pool.map(abs, range(6), 1)
        eventually(lambda: pool.stats().replaced >= 2)
        assert pool.stats().lost == 0
    pool.join()
    assert {record.levelno for record in records("done", "lost", "unready")} == {logging.INFO}
    assert all("ended after its last task" in record.getMessage() for record in records("done"))


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_the_end_of_a_pool_is_no_loss(end, records):
    pool = arrowpool.Pool(2)
    pool.map(abs, range(4), 1)
    getattr(pool, end)()
    pool.join()
    assert pool.health() == arrowpool.Health(state="terminated", size=2)
    assert not records("lost", "done", "unready", "timeout")
    assert pool.stats().lost == pool.stats().replaced == 0


@pytest.mark.parametrize("end", ["kill_workers", "terminate_workers"])
def test_workers_that_the_user_ends(end, records, monkeypatch):
    executor = arrowpool.ProcessPoolExecutor(2)
    future = executor.submit(tasks.wait_for, 60.0)
    eventually(future.running)
    pool, workers = executor._closer.pool, list(executor._processes.values())
    close = pool.close

    def close_late():
        """The thread that closes the pool comes when all workers have been buried."""
        eventually(lambda: not pool._pool)
        close()

    monkeypatch.setattr(pool, "close", close_late)
    getattr(executor, end)()
    executor.shutdown()
    with pytest.raises(BrokenProcessPool, match="the workers of this executor were ended"):
        future.result(LIMIT)
    by = signal.SIGKILL if end == "kill_workers" else signal.SIGTERM
    assert [worker.exitcode for worker in workers] == [-by, -by]
    assert not records("lost")
    assert (executor.stats().lost, executor.stats().replaced) == (0, 0)


def test_a_failing_initializer(records):
    with arrowpool.Pool(2, tasks.fail_initializer) as pool:
        with pytest.raises(WorkerInitError):
            pool.apply(abs, (1,))
        health = pool.health()
    pool.join()
    assert "the initializer failed" in health.broken
    assert (health.ok, health.state) == (False, "running")
    assert not [record for record in records("lost", "unready") if record.levelno >= logging.WARNING]


class _FullHandler(logging.Handler):
    def emit(self, record):
        raise RuntimeError("the disk is full")


def test_a_handler_that_fails_ends_nothing():
    handler = _FullHandler()
    logger = logging.getLogger("arrowpool")
    logger.addHandler(handler)
    try:
        with arrowpool.Pool(1) as pool:
            for _ in range(2):
                with pytest.raises(WorkerLostError):
                    pool.apply(tasks.die, ("sigkill",))
            assert pool.apply(abs, (-1,)) == 1
        pool.join()
    finally:
        logger.removeHandler(handler)


@pytest.mark.own_pool
def test_calls_that_are_cancelled(our_pool):
    results = our_pool.imap(tasks.wait_for, [60.0] * 4)
    with pytest.raises(TimeoutError):
        results.next(0.05)
    results.close()
    eventually(lambda: our_pool.stats().cancelled == 1)
    eventually(lambda: our_pool.stats().open_calls == 0)
    assert "cancelled calls" in repr(our_pool.stats())


def test_refusals_for_want_of_memory(monkeypatch):
    def place(*_):
        raise ArenaFullError("no memory")

    with arrowpool.Pool(1) as pool:
        monkeypatch.setattr(pool._engine._sender, "place", place)
        with pytest.raises(ArenaFullError):
            pool.apply(tasks.first, (np.ones(100_000),))
        with pytest.raises(ArenaFullError), pool.share(np.ones(100_000)):
            pass
        assert pool.stats().refused == 2
        assert "no memory for" in repr(pool.stats())
    pool.join()


@pytest.mark.own_pool
def test_what_runs_and_what_waits(our_pool):
    assert our_pool.health() == arrowpool.Health(state="running", size=2, alive=2)
    result = our_pool.map_async(tasks.wait_for, [0.3] * 10, 1)
    eventually(lambda: our_pool.health().running == 2)
    health = our_pool.health()
    assert health.ok
    assert health.calls == 1
    assert 1 <= health.waiting <= 8
    assert 0 <= health.longest < LIMIT
    stats = our_pool.stats()
    assert (stats.open_calls, 1 <= stats.waiting_tasks <= 8) == (1, True)
    result.get()
    eventually(lambda: our_pool.health() == arrowpool.Health(state="running", size=2, alive=2))


@pytest.mark.own_pool
def test_memory_that_is_kept(our_pool):
    results = our_pool.map(tasks.double, [np.ones(1_000_000)] * 4, 1)
    del results
    stats = our_pool.stats()
    assert stats.warm_bytes >= 8_000_000
    our_pool.terminate()
    assert our_pool.stats().warm_bytes == 0


@needs("linux")  # elsewhere, its objects are files
def test_what_is_on_the_shelf(own_shelf):
    with arrowpool.Pool(1) as pool:
        before = pool.stats().shelf_bytes
        key = arrowpool.put(np.ones(100_000))
        assert 800_000 <= pool.stats().shelf_bytes - before < 900_000
        arrowpool.delete(key)
        assert pool.stats().shelf_bytes == before
    pool.join()


def test_the_states_of_a_pool():
    pool = arrowpool.Pool(1)
    pool.apply_async(tasks.wait_for, (0.2,))
    pool.close()
    assert (pool.health().state, pool.health().ok) == ("closed", False)
    pool.join()
    assert (pool.health().state, pool.health().alive) == ("terminated", 0)
    executor = arrowpool.ProcessPoolExecutor(3)
    assert executor.health() == arrowpool.Health(state="new", size=3)
    assert executor.health().ok
    executor.shutdown()
    assert executor.health() == arrowpool.Health(state="closed", size=3)


def test_in_a_forked_child():
    with arrowpool.Pool(1) as pool:
        pool.apply(abs, (1,))
        child = os.fork()
        if not child:
            health = pool.health()
            os._exit(0 if not health.ok and "Make a new pool here" in health.broken else 1)
        assert os.waitpid(child, 0)[1] == 0
    pool.join()


@pytest.mark.own_pool
def test_health_does_not_wait(our_pool):
    """Also while a thread of the pool is in the user's code."""
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def __reduce__(self):
            entered.set()
            leave.wait(LIMIT)
            return (int, ())

    def items():
        yield Slow()

    results = our_pool.imap(abs, items())
    assert entered.wait(LIMIT)
    assert our_pool.health().ok
    assert our_pool.stats().open_calls == 1
    leave.set()
    assert list(results) == [0]


@pytest.mark.parametrize(
    ("exitcode", "state", "reason"),
    [
        (-9, {"overdue": True}, Reason.TIMEOUT),
        (-9, {}, Reason.LOST),
        (1, {}, Reason.LOST),
        (None, {}, Reason.LOST),
        (0, {}, Reason.DONE),
        (0, {"lost": True}, Reason.LOST),
        (0, {"ready": False}, Reason.UNREADY),
        (1, {"ready": False}, Reason.UNREADY),
    ],
)
def test_why_a_worker_ended(exitcode, state, reason):
    assert reason_of(exitcode, **{"overdue": False, "ready": True, "lost": False, **state}) is reason


def _die_at_times(number):
    if number % 17 == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_figures_are_read_at_any_moment():
    """While calls begin, end and are cancelled, workers are lost and replaced, and the pool ends."""
    pool = arrowpool.Pool(2, maxtasksperchild=9)
    over, failures = threading.Event(), []

    def look():
        try:
            while not over.is_set():
                stats, health = pool.stats(), pool.health()
                repr(stats), stats._repr_html_(), arrowpool.explain(file=io.StringIO())
                assert min(stats.waiting_tasks, stats.warm_bytes, health.waiting, health.running, health.longest) >= 0
                assert stats.lost + stats.replaced >= 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with pytest.raises(WorkerLostError):
                pool.map(_die_at_times, range(40), 1)
            results = pool.imap(abs, iter(range(10**9)))
            assert next(results) == 0
            results.close()
            results = pool.imap(np.zeros, [200_000] * 8)
            assert len(next(results)) == 200_000
            del results
        pool.terminate()
        pool.join()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures
    after = pool.stats()
    assert after == pool.stats()  # no clock runs on
    assert after.lost == 9
    assert 3 <= after.cancelled <= 6  # the last results may all be there before they are dropped


def test_workers_that_ended_long_ago_still_count():
    with arrowpool.Pool(2, maxtasksperchild=1) as pool:
        pool.map(tasks.wait_for, [0.001] * 120, 1)
        stats = pool.stats()
    pool.join()
    assert (stats.tasks, stats.lost) == (120, 0)
    assert len(stats.workers) <= 102
    assert stats.run >= 0.12
