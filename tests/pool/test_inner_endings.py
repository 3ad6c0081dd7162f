"""The end of a pool that begins in a thread of its own: there, a callback or whatever pickling calls terminates it, or lets it go."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures.process import BrokenProcessPool

import pytest

import arrowpool
from arrowpool import PoolTerminatedError, WorkerLostError
from arrowpool import pool as pool_module
from arrowpool.engine import ending
from arrowpool.engine.events import LookAgain
from arrowpool.executor.executor import ProcessPoolExecutor
from tests.pool import tasks

LIMIT = 30


def in_callback(pool, act):
    pool.apply_async(abs, (-1,), callback=lambda _: act())


def in_error_callback(pool, act):
    pool.apply_async(tasks.fail, ("as it should",), error_callback=lambda _: act())


def in_feeder(pool, act):
    pool.map_async(abs, [tasks.CallsWhenPickled(act)])


def in_iterator(pool, act):
    def items():
        yield 1
        act()
        yield 2

    pool.imap(abs, items())


def in_item_of_iterator(pool, act):
    pool.imap(abs, (tasks.CallsWhenPickled(act) for _ in range(1)))


def in_copier(pool, act):
    copiers = pool._task_handler.parts.sender._copiers
    both = threading.Barrier(2)

    def copy():
        both.wait(LIMIT)
        if threading.current_thread().name == "arrowpool-copy":
            act()

    in_feeder(pool, lambda: copiers.run([copy, copy]))


def in_supervisor(pool, act):
    launcher = pool._worker_handler._launcher
    process = launcher.process

    def make(*args, **kwargs):
        act()
        return process(*args, **kwargs)

    object.__setattr__(launcher, "process", make)  # it is frozen
    os.kill(pool._pool[0].pid, signal.SIGKILL)


PLACES = [
    in_callback,
    in_error_callback,
    in_feeder,
    in_iterator,
    in_item_of_iterator,
    in_copier,
    in_supervisor,
]


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A pool that waits for itself takes longer than any test waits."""
    monkeypatch.setattr(ending, "_TERMINATE_SECONDS", 2.0 * LIMIT)


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(pool_module, "default_size", lambda: 2)  # or there are no threads that copy
    return arrowpool.get_context("fork").Pool(2)


def assert_ended(pool, caplog):
    ended = threading.Thread(target=pool.join, daemon=True)
    ended.start()
    ended.join(LIMIT)
    assert not ended.is_alive()
    assert all(process.exitcode is not None for process in pool._pool)
    assert not [record for record in caplog.records if not record.name.endswith("obituary")]  # some workers are killed


@pytest.mark.parametrize("no_threads", [False, True], ids=["", "no-more-threads"])
@pytest.mark.parametrize("place", PLACES)
def test_terminated_in_a_thread_of_its_own(pool, place, no_threads, caplog, monkeypatch):
    if no_threads:

        def refuse(self):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(ending._Elsewhere, "start", refuse)
    waiting = pool.apply_async(tasks.wait_for, (60,))
    assert pool.apply(abs, (-1,)) == 1
    returned = threading.Event()

    def act():
        pool.terminate()
        returned.set()

    began = time.monotonic()
    place(pool, act)
    assert returned.wait(LIMIT)
    assert_ended(pool, caplog)
    assert time.monotonic() - began < ending._TERMINATE_SECONDS, "it waited for itself"
    with pytest.raises((PoolTerminatedError, WorkerLostError)):
        waiting.get(0)


THREADS = {"supervisor": "_worker_handler", "feeder": "_task_handler", "collector": "_result_handler"}
#: For each thread, an object and the name of a method that it calls when it works.
STEPS = {
    "supervisor": lambda supervisor: (supervisor, "_bury"),
    "feeder": lambda feeder: (feeder.parts.events, "handle"),
    "collector": lambda collector: (collector, "_handle"),
}


@pytest.mark.filterwarnings("ignore:unclosed running")
@pytest.mark.parametrize("which", THREADS)
def test_collected_in_a_thread_of_its_own(which, caplog):
    """By the garbage collector, which any allocation in that thread may start."""
    pool = arrowpool.get_context("fork").Pool(2)
    assert pool.apply(abs, (-1,)) == 1
    known, workers, end = weakref.ref(pool), list(pool._pool), pool._engine.state
    threads = {name: getattr(pool, attribute) for name, attribute in THREADS.items()}
    part, name = STEPS[which](threads[which])
    step = getattr(part, name)
    dropped = threading.Event()
    found = []

    def collect(*args):
        dropped.wait(LIMIT)
        until = time.monotonic() + LIMIT
        while known() is not None and time.monotonic() < until:  # another thread is just done with the call
            gc.collect()
        found.append(known() is None)
        return step(*args)

    setattr(part, name, collect)
    pool.itself = pool
    began = time.monotonic()
    gc.disable()
    try:
        del pool
        if which == "supervisor":
            threads[which].wake()
        else:
            {"feeder": threads["feeder"]._mailbox.put, "collector": threads["collector"].tell}[which](LookAgain())
        dropped.set()
        assert end._ended.wait(LIMIT)
    finally:
        gc.enable()
    assert found[0]
    assert time.monotonic() - began < ending._TERMINATE_SECONDS, "it waited for itself"
    assert all(thread.join(LIMIT) for thread in threads.values())
    assert all(process.exitcode is not None for process in workers)
    assert not caplog.records


def test_no_callback_after_one_has_terminated_the_pool(pool):
    called = []
    all_made = threading.Event()

    def stop(value):
        all_made.wait(LIMIT)
        called.append(value)
        pool.terminate()

    results = [pool.apply_async(abs, (-1,), callback=stop) for _ in range(300)]
    all_made.set()
    results[-1].wait(LIMIT)
    pool.join()
    assert called == [1]


@pytest.mark.parametrize("place", [place for place in PLACES if place is not in_supervisor])
def test_joined_in_a_thread_of_its_own(pool, place):
    """`join` raises an error instead of waiting indefinitely, after `close` and after `terminate`."""
    raised = []
    returned = threading.Event()

    def act():
        for end in (pool.close, pool.terminate):
            end()
            try:
                pool.join()
            except RuntimeError as error:
                raised.append(str(error))
        returned.set()

    assert pool.apply(abs, (-1,)) == 1
    place(pool, act)
    assert returned.wait(LIMIT)
    pool.join()
    assert len(raised) == 2
    assert all("cannot be joined" in words for words in raised)


def test_an_executor_is_shut_in_its_pools_threads():
    """As a done callback does, whatever pickling calls waits for nothing."""
    executor = ProcessPoolExecutor(2)
    results = executor.map(abs, [tasks.CallsWhenPickled(executor.shutdown), -4], timeout=LIMIT)
    assert list(results) == [3, 4]
    executor.shutdown()


@pytest.mark.parametrize("place", [in_callback, in_feeder])
def test_an_executor_is_terminated_in_its_pools_threads(place):
    executor = ProcessPoolExecutor(2)
    waiting = executor.submit(tasks.wait_for, 60)
    if place is in_callback:
        executor.submit(abs, -1).add_done_callback(lambda _: executor.terminate_workers())
    else:
        executor.map(abs, [tasks.CallsWhenPickled(executor.terminate_workers), -4])
    assert isinstance(waiting.exception(LIMIT), BrokenProcessPool)
    executor.shutdown()
