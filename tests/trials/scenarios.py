"""What programs do all day, one step after the other; each must be able to go on for ever. See `growth`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
from dataclasses import dataclass, field
from functools import partial

import numpy as np

import arrowpool
import arrowpool.shelf
from arrowpool import ProcessPoolExecutor
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


SCENARIOS: dict[str, Entry] = {}


def scenario(name, *, steps, **allowed):
    """Enter a scenario in the table."""

    def enter(run):
        SCENARIOS[name] = Entry(run, steps, {key.replace("_", " "): value for key, value in allowed.items()})
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
