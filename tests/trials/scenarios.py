"""Typical programs, one step after another. Each must be able to run indefinitely. See `growth`."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import signal
import sys
import tempfile
import types
from dataclasses import dataclass, field
from functools import partial

import numpy as np

import arrowpool
import arrowpool.shelf
from arrowpool import ProcessPoolExecutor, WorkerLostError
from tests.pool import tasks
from tests.trials.growth import Scenario

#: Floats of an array that has a segment of its own.
LARGE = 60_000


@dataclass(frozen=True)
class Entry:
    """A scenario, how many steps of it the suite runs, and what it may use more of, within a bound."""

    run: Scenario
    steps: int
    allowed: dict[str, float] = field(default_factory=dict)


#: Workers keep so many maps of others' memory for the next time.
MAPS_KEPT = dict.fromkeys(("worker descriptors", "worker maps", "weakref.finalize"), 70)
#: What is over here waits for children that can see it, as many as are held at most.
WAITING = dict.fromkeys(("arrowpool.memory.forks._deferred", "_Children.waiting"), 50)
#: Of a scenario that keeps one more result with every step, for 40 steps.
ONE_A_STEP = {"descriptors": 60, "maps": 90, "shared MB": 30, "weakref.finalize": 150, "Releases._inbox": 60}
ONE_A_STEP |= dict.fromkeys(
    ("arrowpool.memory.forks._live", "arrowpool.memory.orphans._with_file", "Releases._amounts"), 60
)
SCENARIOS: dict[str, Entry] = {}


def scenario(name, *, steps, allowed=None):
    """Enter a scenario in the table."""

    def enter(run):
        SCENARIOS[name] = Entry(run, steps, allowed or {})
        return run

    return enter


@contextlib.contextmanager
def pool(processes=2, **extras):
    with arrowpool.get_context("fork").Pool(processes, **extras) as made:
        yield made
    made.join()


def array(i, size=LARGE):
    return np.full(size, float(i))


@scenario("calls of all kinds", steps=300)
def calls():
    with pool() as made:
        for i in itertools.count():
            assert made.apply(tasks.first, (array(i),)) == i
            assert made.map(tasks.first, [array(i), array(i + 1)], 1) == [i, i + 1]
            assert sum(1 for _ in made.imap(tasks.double, [array(i)] * 3)) == 3
            assert sum(made.imap_unordered(tasks.square, range(50), 10)) == 40_425
            assert made.starmap(tasks.pick, [(array(i), 5), (array(i, 10), 5)]) == [i, i]
            yield [made]


@scenario("errors", steps=200)
def errors():
    with pool() as made:
        for i in itertools.count():
            for function, argument in (
                (tasks.fail, array(i)),
                (tasks.unpicklable, array(i)),
                (tasks.cannot_be_rebuilt, 1),
            ):
                with contextlib.suppress(Exception):
                    made.apply(function, (argument,))
            with contextlib.suppress(ValueError):
                made.map(tasks.fail_if_odd, range(20))
            with contextlib.suppress(TypeError):
                made.apply(tasks.first, (open_file,))
            yield [made]


open_file = (i for i in ())  # a generator: nobody can pickle it


@scenario("awaits cancelled", steps=200)
def cancelled():
    async def give_up(made, i):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(made.apply_async(tasks.first_after, (5.0, array(i))), 0.003)

    with pool() as made, asyncio.Runner() if hasattr(asyncio, "Runner") else _Runner() as runner:
        for i in itertools.count():
            runner.run(give_up(made, i))
            assert made.apply(tasks.first, (array(i),)) == i
            yield [made]


@scenario("awaits cancelled, the call goes on", steps=300)
def watched():
    async def look(result):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(_awaiting(result)), 0.001)

    with pool() as made, asyncio.Runner() if hasattr(asyncio, "Runner") else _Runner() as runner:
        for i in itertools.count():
            result = made.apply_async(tasks.first_after, (0.004, array(i, 10)))
            runner.run(look(result))
            yield [made]


async def _awaiting(result):
    return await result


class _Runner:
    """`asyncio.Runner`, as far as needed here, for Python 3.10."""

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        return self

    def run(self, coroutine):
        return self._loop.run_until_complete(coroutine)

    def __exit__(self, *_):
        self._loop.close()


@scenario("objects shared", steps=300)
def shared():
    with pool() as made:
        for i in itertools.count():
            state = array(i)
            with made.share(state), made.share(array(i, 10)):
                assert made.map(partial(tasks.pick, state), range(4), 1) == [i] * 4
                pending = made.map_async(tasks.first, [state] * 2, 1)
            assert pending.get(30) == [i, i]
            yield [made]


@scenario("new pools", steps=40)
def new_pools():
    for i in itertools.count():
        with pool() as made:
            kept = made.map(tasks.double, [array(i)] * 4, 1)
        assert kept[0][0] == 2 * i
        yield []


@scenario("put on the shelf and deleted", steps=300)
def shelf():
    with tempfile.TemporaryDirectory() as directory:
        os.environ["ARROWPOOL_SHELF_DIR"] = os.path.join(directory, "root")
        for i in itertools.count():
            key = arrowpool.put(array(i))
            got = arrowpool.get(key)
            assert got[0] == i
            arrowpool.shelf.delete(key)
            arrowpool.put(array(i), persist=True, key="again")
            assert arrowpool.get("again")[0] == i
            yield []


@scenario("large objects put on the shelf and deleted", steps=40)
def large_shelf():
    for i in itertools.count():
        keys = [arrowpool.put(array(i, 1_000_000)) for _ in range(3)]
        assert [arrowpool.get(key)[0] for key in keys] == [i] * 3
        arrowpool.shelf.delete(*keys)
        yield []


@scenario("results go into the next call", steps=200)
def lent():
    with pool() as made:
        for i in itertools.count():
            results = made.map(tasks.double, [array(i)] * 4, 1)
            for _ in range(2):
                results = made.map(tasks.double, results, 1)
            assert [result[0] for result in results] == [8.0 * i] * 4
            yield [made]


@scenario("an executor's futures, some of them cancelled", steps=200)
def executor():
    with ProcessPoolExecutor(2, mp_context=arrowpool.get_context("fork")) as made:
        for i in itertools.count():
            futures = [made.submit(tasks.double, array(i)) for _ in range(10)]
            for future in futures[5:]:
                future.cancel()
            assert [future.result(30)[0] for future in futures[:5]] == [2 * i] * 5
            assert list(made.map(tasks.first, [array(i)] * 4, chunksize=2)) == [i] * 4
            yield []


@scenario("task time is up", steps=8)
def overdue():
    with pool(task_timeout=0.1) as made:
        for i in itertools.count():
            with contextlib.suppress(arrowpool.TaskTimeoutError):
                made.apply(tasks.first_after, (5.0, array(i)))
            with contextlib.suppress(arrowpool.TaskTimeoutError):  # on a busy machine
                assert made.map_async(tasks.first, [array(i)] * 4, 1).get(30) == [i] * 4
            yield [made]


@scenario("workers that keep their last argument", steps=300)
def kept_there():
    with pool() as made:
        for i in itertools.count():
            made.map(tasks.keep, [array(i)] * 4, 1)
            yield [made]


@scenario("one result held, workers replaced", steps=200)
def replaced():
    with pool(maxtasksperchild=5) as made:
        for i in itertools.count():
            held = made.apply(tasks.double, (array(i),))
            assert held[0] == 2 * i
            yield [made]


@scenario("50 results held, workers replaced", steps=240, allowed=WAITING)
def many_held():
    held = collections.deque(maxlen=50)
    with pool(maxtasksperchild=20) as made:
        for i in itertools.count():
            held.append((i, made.apply(tasks.double, (array(i, 5_000),))))
            assert all(result[0] == 2 * number for number, result in held)
            yield [made]


@scenario("results held for long, workers replaced", steps=150)
def long_held():
    with pool(maxtasksperchild=4) as made:
        kept = [made.apply(tasks.double, (array(i),)) for i in range(20)]
        for i in itertools.count():
            assert made.map(tasks.first, [array(i)] * 2, 1) == [i, i]
            assert [result[0] for result in kept] == [2.0 * number for number in range(20)]
            yield [made]


@scenario("workers killed", steps=150)
def killed():
    with pool() as made:
        held = collections.deque(maxlen=3)
        for i in itertools.count():
            if i % 3 == 0 and len(made._task_handler.workers) == 2:
                os.kill(made._task_handler.workers[0].process.pid, signal.SIGKILL)
            with contextlib.suppress(WorkerLostError):
                held.append(made.map_async(tasks.double, [array(i)] * 2, 1).get(30))
            yield [made]


@scenario("workers killed in their task", steps=100)
def lost():
    with pool() as made:
        for i in itertools.count():
            with contextlib.suppress(WorkerLostError):
                made.apply(tasks.die, ("sigkill" if i % 2 else "_exit",))
            held = made.map_async(tasks.double, [array(i)] * 2, 1)
            with contextlib.suppress(WorkerLostError):
                held.get(30)
            yield [made]


@scenario("iterators abandoned", steps=60)
def abandoned():
    with pool(max_bytes=10 << 20) as made:
        for i in itertools.count():
            for result in made.imap(
                tasks.double, (array(k) for k in itertools.count(i)) if i % 2 else [array(i)] * 100
            ):
                assert result[0] == 2 * i
                break
            yield [made]


@scenario("iterators in chunks abandoned", steps=60)
def abandoned_in_chunks():
    with pool(max_bytes=10 << 20) as made:
        for i in itertools.count():
            for result in made.imap_unordered(tasks.double, [array(i)] * 100, chunksize=2):
                assert result[0] == 2 * i
                break
            yield [made]


CELL = """
class Model:
    scale = {i}
    def run(self, x):
        return float(x[0]) * self.scale

def score(x, weights=weights):
    return float(weights[0]) + float(x[0])

def plain(x):
    return float(x[0]) + {i}
"""


@scenario(
    "cells of a notebook run again",
    steps=150,
    allowed={"Encoder._known_functions": 1000, "WorkerHandle.known_blobs": 1000},
)
def cells():
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    with pool() as made:
        for i in itertools.count():
            main.weights = array(i)
            exec(CELL.format(i=i), vars(main))
            x = array(1, 100)
            assert made.apply(main.score, (x,)) == i + 1
            assert made.apply(main.plain, (x,)) == i + 1
            assert made.apply(main.Model().run, (x,)) == i
            assert made.map(lambda y, i=i: y[0] * i, [x, x]) == [i, i]
            yield [made]


@scenario("temporaries of many sizes", steps=300)
def temporaries():
    """What tasks free is used by the next tasks, although each task leaves something small between."""
    rng = np.random.default_rng(0)
    with pool() as made:
        while True:
            made.map(tasks.make_temporaries, [rng.integers(10_000, 6_000_000, 20).tolist() for _ in range(4)], 1)
            yield [made]


@scenario("new pools next to an idle one", steps=40, allowed=MAPS_KEPT)
def pools():
    with pool() as idle:
        for i in itertools.count():
            with pool() as made:
                results = made.map(tasks.double, [array(i)] * 4, 1)
            assert idle.map(tasks.first, results, 1) == [2.0 * i] * 4
            del results
            yield [idle]


@scenario("a small result of each pool is kept", steps=30, allowed=ONE_A_STEP)
def small_results():
    """Half a megabyte each, and not what else its worker had."""
    kept = collections.deque(maxlen=40)
    for i in itertools.count():
        with pool() as made:
            made.map(tasks.double, [array(i, 500_000)] * 4, 1)
            kept.append((i, made.apply(tasks.double, (array(i),))))
        assert all(result[0] == 2 * number for number, result in kept)
        yield []


@scenario("forks while results are held", steps=100)
def forks():
    """A preforking server, whose children end after a while."""
    children = collections.deque()
    with pool() as made:
        kept = [made.apply(tasks.double, (array(i),)) for i in range(5)]
        for i in itertools.count():
            children.append(_child(kept))
            if len(children) > 3:
                _end(*children.popleft())
            assert made.apply(tasks.first, (array(i),)) == i
            yield [made]


@scenario("forks while results are held and the pool is closed", steps=100)
def late_forks():
    with pool() as made:
        kept = [made.apply(tasks.double, (array(i),)) for i in range(5)]
    while True:
        _end(*_child(kept))
        yield []


def _child(kept):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0 if [result[0] for result in kept] == [2 * i for i in range(5)] else 1)
    os.close(reader)
    return pid, writer


def _end(pid, writer):
    os.write(writer, b"!")
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
