"""Everything at once, at random, for a while: in a short form with the other tests, for as long as you like on demand.

    ARROWPOOL_SOAK_SECONDS=600 ARROWPOOL_SOAK_KILLS=1000 python -m pytest -m soak -s

A failure prints its seed; `ARROWPOOL_SOAK_SEED` repeats it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import signal
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

import arrowpool
from arrowpool import WorkerLostError
from arrowpool.memory import facilities
from tests.pool import tasks

SECONDS = float(os.environ.get("ARROWPOOL_SOAK_SECONDS", "6"))
KILLS = int(os.environ.get("ARROWPOOL_SOAK_KILLS", "30"))
SEED = int(os.environ.get("ARROWPOOL_SOAK_SEED", random.SystemRandom().randrange(1 << 32)))
LIMIT = 60
MIB = 1 << 20

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS * 3 + KILLS * 2 + 120)]


class Caller:
    """One thread of a user's program: random calls, whose answers are checked."""

    def __init__(self, pool, seed):
        self.pool = pool
        self.rng = random.Random(seed)
        self.calls = self.lost = 0
        self.kept = []

    def run(self, until):
        """Call until that moment; raise at the first answer that is wrong."""
        while time.monotonic() < until:
            call = self.rng.choice([self.frames, self.arrays, self.tables, self.tiny, self.errors, self.nested])
            try:
                call()
            except WorkerLostError:
                self.lost += 1
            self.calls += 1
            # Some results live on for a while, and must stay what they were.
            if self.kept and self.rng.random() < 0.3:
                value, frame = self.kept.pop(self.rng.randrange(len(self.kept)))
                assert (frame == value).all(axis=None)

    def frames(self):
        rows = self.rng.choice([10, 1_000, 30_000])
        values = [float(self.rng.randrange(1000)) for _ in range(self.rng.randrange(1, 12))]
        given = [tasks.frame_of(value, rows) for value in values]
        method = self.rng.choice(["map", "imap", "starmap"])
        if method == "starmap":
            doubled = self.pool.starmap(tasks.double, [(frame,) for frame in given], self.rng.choice([None, 1, 3]))
        else:
            doubled = list(getattr(self.pool, method)(tasks.double, given, self.rng.choice([1, 2])))
        for value, frame, result in zip(values, given, doubled, strict=True):
            assert (result == 2 * value).all(axis=None)
            result.iloc[:, 0] = -1.0  # the caller's own
            assert (frame == value).all(axis=None)
        if len(self.kept) < 10:
            self.kept.append((2 * values[-1], doubled[-1].iloc[:, 1:]))

    def arrays(self):
        array = np.zeros(self.rng.choice([100, 50_000, 300_000]))
        total = float(array.size)

        def states():
            for i in range(8):
                array[:] = i
                yield array

        answers = self.pool.imap_unordered(tasks.write_and_sum, states())
        seen = []
        for _ in range(8):
            with contextlib.suppress(WorkerLostError):
                seen.append(answers.next(LIMIT))
        assert set(seen) <= {total * (i + 1) for i in range(8)}
        assert len(set(seen)) == len(seen)
        self.lost += 8 - len(seen)

    def tables(self):
        table = pa.table({"x": np.arange(60_000, dtype=float), "s": [str(i % 7) for i in range(60_000)]})
        parts = [table.slice(at, 6_000) for at in range(0, 60_000, 6_000)]
        for sent, came in zip(parts, self.pool.map(tasks.identity, parts, 1), strict=True):
            assert came.equals(sent)

    def tiny(self):
        count = self.rng.randrange(1, 3000)
        assert self.pool.map(tasks.square, range(count), 1) == [x * x for x in range(count)]

    def errors(self):
        frame = tasks.frame_of(1)
        results = [self.pool.apply_async(tasks.fail, (f"on purpose {i}",)) for i in range(3)]
        results.append(self.pool.apply_async(tasks.total, (frame,)))
        for i, result in enumerate(results[:-1]):
            with pytest.raises((ValueError, WorkerLostError), match=rf"on purpose {i}|while it ran"):
                result.get(LIMIT)
        assert results[-1].get(LIMIT) == frame.size

    def nested(self):
        array = np.ones(self.rng.choice([10, 100_000]))
        held = {"list": [array, pd.Series(array)], "pair": (array, "text")}
        came = self.pool.apply(tasks.identity, (held,))
        assert came["list"][0] is came["pair"][0]
        assert came["list"][1].sum() == array.size


def settled(condition):
    """Whether it becomes true within some seconds."""
    deadline = time.monotonic() + 15
    while not condition():
        if time.monotonic() > deadline:
            return False
        gc.collect()
        time.sleep(0.05)
    return True


def test_random_calls_from_four_threads_while_workers_are_killed(ours):
    print(f"ARROWPOOL_SOAK_SEED={SEED}")
    rng = random.Random(SEED)
    process = psutil.Process()
    failures = []
    with ours.pool(3, max_bytes=100 * MIB) as pool:
        callers = [Caller(pool, rng.randrange(1 << 32)) for _ in range(4)]
        for caller in callers:
            caller.run(time.monotonic())  # imports, and what stays
        pool.map(tasks.double, [np.ones(300_000)] * 10, 1)
        memory = process.memory_info().rss
        until = time.monotonic() + SECONDS / 3  # this runs once for each start method

        def call(caller):
            try:
                caller.run(until)
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=call, args=(caller,)) for caller in callers]
        for thread in threads:
            thread.start()
        kills = 0
        while time.monotonic() < until and not failures:
            time.sleep(rng.uniform(0.05, 0.6))
            with contextlib.suppress(IndexError, ProcessLookupError):
                # One that is up: to end one after another before they are is to say that none will ever be.
                victim = rng.choice(list(pool._task_handler._workers))
                os.kill(victim.process.pid, rng.choice([signal.SIGKILL, signal.SIGTERM]))
                kills += 1
        for thread in threads:
            thread.join(LIMIT)
        assert not failures, failures
        assert not any(thread.is_alive() for thread in threads), "a call hangs"
        print(f"{sum(c.calls for c in callers)} calls, {kills} kills, {sum(c.lost for c in callers)} tasks lost")
        assert sum(c.calls for c in callers) > 0
        for caller in callers:
            for value, frame in caller.kept:
                assert (frame == value).all(axis=None)
        del callers, caller, threads
        # Back to where it was; descriptors are counted when the pool is gone, since a worker forked meanwhile keeps what it saw.
        assert settled(lambda: len(pool._pool) == 3 and len(pool._task_handler._workers) == 3)
        assert pool.map_async(tasks.first, [np.ones(100_000)] * 6, 1).get(LIMIT) == [1.0] * 6
        lifecycle = pool._task_handler.parts.sender.lifecycle

        def let_go():
            pool._task_handler.wake()
            return lifecycle.bytes_live == 0

        pool.map_async(tasks.collect_garbage, range(9), 1).get(LIMIT)
        assert settled(let_go), lifecycle
        assert process.memory_info().rss < memory + 300 * MIB
    pool.join()


def ours_in_shm():
    return {
        name for name in os.listdir("/dev/shm") if name.startswith("arrowpool") and name != f"arrowpool-{os.geteuid()}"
    }


def _adopt(yes):
    """Whether orphans of this process's children become its own children (PR_SET_CHILD_SUBREAPER)."""
    assert ctypes.CDLL(None).prctl(36, int(yes), 0, 0, 0) == 0


def _work_for_ever(seed):
    """What the process does that is to be killed."""
    os.setsid()
    rng = random.Random(seed)
    pool = arrowpool.get_context("fork").Pool(2)
    # Where the kernel ends also those of which no thread runs.
    by_kernel = facilities.has("sigio") and facilities.has("proc")
    if by_kernel and rng.random() < 0.3:
        pool.map_async(tasks.spin, [None], 1)
    if by_kernel and rng.random() < 0.3:
        # One that is up: what is stopped in the middle of its fork still has the parent's end of its lifeline.
        pool.map(tasks.square, range(2))
        os.kill(pool._task_handler._workers[0].process.pid, signal.SIGSTOP)
    Caller(pool, rng.randrange(1 << 32)).run(time.monotonic() + 60)


def test_nothing_is_left_of_what_is_killed():
    """The parent alone, or all processes at once, at random moments: no process, memory or file stays."""
    print(f"ARROWPOOL_SOAK_SEED={SEED}")
    rng = random.Random(SEED)
    shared = ours_in_shm()
    available = psutil.virtual_memory().available
    _adopt(True)
    try:
        for number in range(KILLS):
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    devnull = os.open(os.devnull, os.O_RDWR)
                    os.dup2(devnull, 1)
                    os.dup2(devnull, 2)
                    _work_for_ever(rng.randrange(1 << 32))
                os._exit(1)
            time.sleep(rng.choice([0.0, 0.01, 0.03, 0.1, 0.3]) * rng.random() + 0.005)
            if rng.random() < 0.3:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            died = time.monotonic()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-child, os.WNOHANG) is not None:
                    assert time.monotonic() - died < 5, f"a worker has outlived its parent (round {number})"
                    time.sleep(0.002)
    finally:
        _adopt(False)
    assert ours_in_shm() == shared
    assert settled(lambda: psutil.virtual_memory().available > available - 500 * MIB)
