"""Results in an event loop: awaited, iterated over, cancelled; no thread waits for them."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing.pool
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pandas as pd
import pytest

from arrowpool import WorkerLostError
from tests.conftest import across_methods
from tests.pool import tasks

LIMIT = 30


def run(main):
    return asyncio.run(asyncio.wait_for(main, LIMIT))


def test_results_are_awaited(our_pool):
    async def main():
        array = np.ones(100_000)
        one = our_pool.apply_async(tasks.first, (array,))
        assert isinstance(one, multiprocessing.pool.AsyncResult)
        several = our_pool.map_async(tasks.double, [array] * 3, 1)
        starred = our_pool.starmap_async(tasks.add, [(1, 2), (3, 4)])
        assert await one == 1.0
        assert await one == 1.0, "as often as you like"
        assert [float(x[0]) for x in await several] == [2.0] * 3
        assert await starred == [3, 7]
        # Many at once, on one loop, with the threads there are.
        threads = threading.active_count()
        results = [our_pool.apply_async(tasks.wait_for, (0.01,)) for _ in range(100)]
        waiting = asyncio.gather(*map(awaiting, results))
        await asyncio.sleep(0)
        assert threading.active_count() == threads
        assert await waiting == [0.01] * 100

    run(main())


async def awaiting(result):
    return await result


@pytest.mark.own_pool
def test_errors_are_raised(our_pool):
    async def main():
        with pytest.raises(ValueError, match="on purpose"):
            await our_pool.apply_async(tasks.fail, ("on purpose",))
        with pytest.raises(WorkerLostError):
            await our_pool.apply_async(tasks.die, ("sigkill",))
        with pytest.raises(ValueError, match="odd"):
            await our_pool.map_async(tasks.fail_if_odd, range(4))

    run(main())


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterating(our_pool, method, chunksize):
    async def main():
        results = getattr(our_pool, method)(tasks.square, range(50), chunksize)
        seen = [value async for value in results]
        assert sorted(seen) == sorted(x * x for x in range(50))
        assert [value async for value in getattr(our_pool, method)(tasks.square, [], chunksize)] == []
        failing = our_pool.imap(tasks.fail_if_odd, [0, 2, 3, 4], 1)
        assert [await anext(failing), await anext(failing)] == [0, 2]
        with pytest.raises(ValueError, match="odd: 3"):
            await anext(failing)
        assert [value async for value in failing] == [4]

    run(main())


GROUPS = pd.DataFrame({"key": np.repeat(np.arange(20), 3)})


def fail_at_13(group):
    if group.name == 13:
        raise ValueError(13)
    return len(group)


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_iterating_over_groups(our_pool, chunksize):
    async def take(pairs, taken):
        async for key, _ in pairs:
            taken.append(key)

    async def main():
        assert [pair async for pair in our_pool.imap_groups(len, GROUPS, "key", chunksize)] == [
            (key, 3) for key in range(20)
        ]
        pairs, taken = our_pool.imap_groups(fail_at_13, GROUPS, "key", chunksize), []
        with pytest.raises(ValueError, match="13"):
            await take(pairs, taken)
        assert taken == list(range(len(taken)))
        assert [pair async for pair in pairs] == []
        async for key, _ in our_pool.imap_groups(len, GROUPS, "key", chunksize):
            assert key == 0
            break

    asyncio.run(main())
    pairs = our_pool.imap_groups(len, GROUPS, "key", chunksize)
    assert next(pairs) == (0, 3)
    pairs.close()
    assert list(pairs) == []


def test_a_cancelled_await_ends_the_call(our_pool, tmp_path):
    async def main():
        path = str(tmp_path / "begun")
        for call in (
            lambda: awaiting(our_pool.apply_async(tasks.note_pid_and_block, (path,))),
            lambda: awaiting(our_pool.map_async(tasks.note_pid_and_block, [path] * 50, 1)),
            lambda: anext(aiter(our_pool.imap(tasks.note_pid_and_block, [path] * 50))),
        ):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call(), 0.3)
            assert await our_pool.map_async(tasks.square, range(4), 1) == [0, 1, 4, 9]

    run(main())


def test_a_loop_that_is_gone(our_pool):
    """Whoever sets the result must not mind."""

    async def main():
        asyncio.ensure_future(awaiting(result))  # noqa: RUF006 (cancelled with its loop)
        await asyncio.sleep(0)

    result = our_pool.apply_async(tasks.square, (3,))
    asyncio.run(main())
    assert our_pool.apply_async(tasks.square, (4,)).get(LIMIT) == 16


@pytest.mark.parametrize("chunksize", [1, 10])
def test_a_timeout_ends_a_loop_over_results_that_have_arrived(our_pool, chunksize):
    async def main():
        results = our_pool.imap(tasks.square, range(30_000), chunksize)
        read = 0

        async def spend():
            nonlocal read
            async for _ in results:
                read += 1
                busy_until = time.perf_counter() + 2e-4
                while time.perf_counter() < busy_until:
                    pass

        while our_pool._cache:
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(spend(), 0.2)
        assert 0 < read < 15_000
        # All is here already: nothing was lost of it.
        assert await anext(results) == read * read

    run(main())


@pytest.mark.parametrize("call", ["apply", "map", "imap"])
def test_a_cancelled_coroutine_takes_no_result_from_others(our_pool, tmp_path, call):
    async def main():
        path = str(tmp_path / "go")
        os.mkfifo(path)
        if call == "apply":
            result = our_pool.apply_async(tasks.read_file, (path,))
        elif call == "map":
            result = our_pool.map_async(tasks.read_file, [path], 1)
        else:
            result = our_pool.imap(tasks.read_file, [path])
        one, other = (asyncio.ensure_future(anext(result) if call == "imap" else awaiting(result)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        thread = None
        if call != "imap":
            # Nor from a thread that waits, also once no coroutine does.
            got = []
            thread = threading.Thread(target=lambda: got.append(result.get(LIMIT)))
            thread.start()
            while len(result._watchers) < 2:
                await asyncio.sleep(0.005)
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other
            other = asyncio.ensure_future(awaiting(result))
            await asyncio.sleep(0)
        with open(os.open(path, os.O_RDWR), "w") as file:
            file.write("here\n")
            file.flush()
            assert await other == ([b"here\n"] if call == "map" else b"here\n")
        if thread is not None:
            thread.join()
            assert got == [other.result()]

    run(main())


def test_the_last_one_that_is_cancelled_ends_the_call(our_pool, tmp_path):
    async def main():
        result = our_pool.apply_async(tasks.note_pid_and_block, (str(tmp_path / "begun"),))
        waiting = [asyncio.ensure_future(awaiting(result)) for _ in range(3)]
        await asyncio.sleep(0)
        for one in waiting:
            assert our_pool._cache
            one.cancel()
            await asyncio.wait([one])
        while our_pool._cache:
            await asyncio.sleep(0.005)
        with pytest.raises(CancelledError):
            result.get(LIMIT)

    run(main())


def test_an_await_that_is_abandoned_leaves_nothing(our_pool, tmp_path):
    async def main():
        path = str(tmp_path / "begun")
        result = our_pool.apply_async(tasks.note_pid_and_block, (path,))
        results = our_pool.imap(tasks.note_pid_and_block, [path])
        for _ in range(20):
            for waiting in (result.__await__(), anext(results).__await__()):
                while next(waiting) is None:  # the loop may run first
                    pass
                waiting.close()
        assert not result._watchers
        assert not results.results._watchers
        # Abandoned is not cancelled.
        assert len(our_pool._cache) == 2
        our_pool._cancel(result._job)
        results.close()

    run(main())


def test_leaving_the_loop_over_results_ends_the_call(our_pool):
    async def main():
        async for value in our_pool.imap(tasks.square, itertools.count()):
            if value > 100:
                break
        while our_pool._cache:
            await asyncio.sleep(0.005)

    run(main())


SERVICE = """
import asyncio, os, signal, sys, time
import arrowpool
from arrowpool.engine import judge
from tests.pool import tasks

judge.be_silent()  # of tasks that are cancelled a busy machine makes slow calls

def block_in_python(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)

async def main():
    handled = []
    HANDLERS
    pool = arrowpool.get_context(sys.argv[1]).Pool(2)
    workers = {process.pid for process in pool._pool}
    await pool.apply_async(abs, (-1,))
    for number in range(300):
        # So long that the signal comes before, in, and after the task.
        try:
            await asyncio.wait_for(pool.apply_async(block_in_python, (0.003,)), 0.002 + 0.0007 * (number % 5))
        except asyncio.TimeoutError:
            pass
    for _ in range(4):
        try:
            await asyncio.wait_for(pool.apply_async(block_in_python, (600,)), 0.05)
        except asyncio.TimeoutError:
            pass
    assert await asyncio.wait_for(pool.apply_async(abs, (-1,)), 20) == 1, "a task that was cancelled still runs"
    assert {process.pid for process in pool._pool} == workers, "a worker was lost"
    began = time.monotonic()
    pool.map_async(block_in_python, [600] * 2, 1)
    await asyncio.sleep(0.1)
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < 4
    await asyncio.sleep(0.01)
    assert not handled, handled

if __name__ == "__main__":
    asyncio.run(main())
    print("done")
"""
HANDLERS = {
    "asyncio's own": "pass",
    "of the loop": "for one in (signal.SIGINT, signal.SIGTERM): "
    "asyncio.get_running_loop().add_signal_handler(one, handled.append, one)",
    "a server's": "for one in (signal.SIGINT, signal.SIGTERM): signal.signal(one, lambda *_: handled.append(1))",
}


@across_methods("one, handlers", HANDLERS, few=2)
def test_signals_in_a_program_that_handles_them(one, handlers, tmp_path):
    """The pool is made while the loop handles signals: cancelled calls end, workers do not, and no worker handles a signal."""
    script = tmp_path / "script.py"
    script.write_text(SERVICE.replace("HANDLERS", HANDLERS[handlers]))
    done = subprocess.run(
        [sys.executable, str(script), one.method],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stderr == ""
    assert done.stdout == "done\n"
