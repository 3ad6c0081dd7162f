"""What `explain` prints."""

from __future__ import annotations

import gc
import io
import os
import time
import warnings
import weakref

import numpy as np
import pytest

import arrowpool
from arrowpool import explaining
from arrowpool.stats import Stats
from tests.pool import tasks

NOTHING = "No pool has run a task since the last explanation.\n"


def explained():
    text = io.StringIO()
    arrowpool.explain(file=text)
    return text.getvalue()


@pytest.fixture(autouse=True)
def _nothing_before():
    explained()
    yield
    explained()


def test_the_calls_since_the_last_time():
    assert explained() == NOTHING
    with arrowpool.Pool(2) as pool:
        assert explained() == NOTHING
        pool.map(abs, range(4), 1)
        text = explained()
        assert text.startswith("A pool of 2 workers: In ")
        assert text.count("\n") == 1
        assert explained() == NOTHING
        pool.map(abs, range(4), 1)
        with arrowpool.ProcessPoolExecutor(1) as executor:
            executor.submit(abs, -1).result()
            assert sorted(line[:18] for line in explained().splitlines()) == [
                "A pool of 1 worker",
                "A pool of 2 worker",
            ]
    pool.join()
    assert explained() == NOTHING


def test_pools_that_have_ended_and_were_dropped():
    def work():
        with arrowpool.Pool(2) as pool:
            pool.map(abs, range(4), 1)
        return weakref.ref(pool), weakref.ref(pool._engine)

    pool, engine = work()
    gc.collect()
    assert pool() is None
    assert engine() is None
    assert explained().startswith("A pool of 2 workers: In ")
    assert explained() == NOTHING


def test_an_open_pool_is_not_kept_alive():
    pool = arrowpool.Pool(1)
    pool.apply(abs, (1,))
    explained()
    dropped, engine = weakref.ref(pool), pool._engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        until = time.monotonic() + 30
        while dropped() is not None:  # the collector may still have the last result, which refers to it
            gc.collect()
            if time.monotonic() > until:
                pytest.fail("it is still there")
    engine.wait()


def test_not_without_end():
    class Engine:
        def stats(self):
            return Stats(tasks=1, size=2, seconds=1.0, run=1.0)

    before = len(explaining._open)
    for _ in range(3 * explaining._KEPT):
        engine = Engine()
        explaining.opened(engine)()
    assert explained().count("A pool of") == explaining._KEPT
    assert len(explaining._open) == before


def test_what_was_pickled():
    with arrowpool.Pool(1) as pool:
        pool.apply(tasks.length, (list(range(100_000)),))
        pool.apply(tasks.length, ((np.ones(3000), np.ones(3000)),))
        text = explained()
    pool.join()
    assert text.count("Pickled, not shared: ") == 1
    assert "in 1 objects: list of int: nothing in it offers its memory." in text


def test_a_pool_whose_only_task_was_lost():
    with arrowpool.Pool(1) as pool, pytest.raises(arrowpool.WorkerLostError):
        pool.apply(tasks.die, ("sigkill",))
    pool.join()
    assert "1 task ended with its worker" in explained()


def test_a_forked_child_has_no_calls():
    with arrowpool.Pool(1) as pool:
        pool.apply(abs, (1,))
        child = os.fork()
        if not child:
            os._exit(0 if explained() == NOTHING else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert explained() != NOTHING
    pool.join()


def test_on_standard_output(capsys):
    arrowpool.explain()
    assert capsys.readouterr().out == NOTHING
