"""Results in an event loop: awaited, iterated over, cancelled; no thread waits for them."""

from __future__ import annotations

import asyncio
import multiprocessing.pool
import threading

import numpy as np
import pytest

from arrowpool import WorkerLostError
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
