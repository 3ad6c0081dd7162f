"""Several of everything: threads, pools, processes, forks at any moment; and results that outlive all of them."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import arrowpool
from arrowpool import WorkerLostError
from arrowpool.memory.lease import live_leases
from tests.conftest import across_methods
from tests.pool import tasks

LIMIT = 60
BIG = 100_000

# Polars and pyarrow start threads of their own with their first work, which stay.
pl.DataFrame({"x": [1]}).select(pl.col("x").sum())
pc.sum(pa.array([1]))


def in_threads(count, work):
    """Run `work(number)` in so many threads at once; raise what any of them raised."""
    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        return list(executor.map(work, range(count)))


def test_one_pool_from_many_threads(our_pool):
    def work(number):
        array = np.full(BIG, float(number))
        for _ in range(5):
            assert our_pool.map_async(tasks.first, [array] * 5, 1).get(LIMIT) == [float(number)] * 5
            assert our_pool.apply_async(tasks.square, (number,)).get(LIMIT) == number**2
            assert [float(x[0]) for x in our_pool.imap(tasks.double, [array] * 3)] == [2.0 * number] * 3
            with pytest.raises(ValueError, match=f"thread {number}"):
                our_pool.apply_async(tasks.fail, (f"thread {number}",)).get(LIMIT)

    in_threads(8, work)


def test_several_pools_each_made_in_a_thread(ours):
    def work(number):
        with ours.pool(2) as pool:
            array = np.full(BIG, float(number))
            doubled = pool.map_async(tasks.double, [array] * 4, 1).get(LIMIT)
            # From one pool's shared memory into the other's.
            with ours.pool(1) as other:
                assert other.map_async(tasks.first, doubled, 1).get(LIMIT) == [2.0 * number] * 4
            other.join()
        pool.join()

    in_threads(3, work)


def _pool_in_here(queue, method):
    with arrowpool.get_context(method).Pool(2) as pool:
        queue.put(float(pool.map(tasks.double, [np.ones(BIG)] * 4)[3][5]))
    pool.join()


def test_a_pool_in_a_child_process(ours):
    context = multiprocessing.get_context(ours.method)
    queue = context.SimpleQueue()
    child = context.Process(target=_pool_in_here, args=(queue, ours.method))
    child.start()
    assert queue.get() == 2.0
    child.join()
    assert child.exitcode == 0
    child.close()
    queue.close()


def make_a_pool(_):
    arrowpool.Pool(1)


def test_a_pool_in_a_worker_is_refused_as_in_the_standard_library(our_pool):
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        our_pool.apply_async(make_a_pool, (1,)).get(LIMIT)


def test_forks_at_any_moment_while_results_live(our_pool):
    """What is forked by others sees all that lived then; meanwhile the memory behind it is not used again."""
    arrow = pa.table({"x": np.arange(BIG, dtype=float)})
    polars = pl.DataFrame({"x": np.arange(BIG, dtype=float)})
    held = our_pool.map(tasks.frame_of, range(4), 1)
    table, frame = our_pool.map(tasks.identity, [arrow, polars], 1)
    over = threading.Event()

    def traffic(number):
        array = np.full(BIG, float(number))
        while not over.is_set():
            assert our_pool.map_async(tasks.first, [array] * 4, 1).get(LIMIT) == [float(number)] * 4
            pc.sum(arrow["x"])  # threads of pyarrow and polars run while the forks happen
            polars.select(pl.col("x").sum())

    threads = [threading.Thread(target=traffic, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            child = os.fork()
            if child == 0:
                good = all((one == i).all(axis=None) for i, one in enumerate(held))
                good = good and table["x"].to_numpy()[-1] == BIG - 1 and frame["x"].to_numpy()[-1] == BIG - 1
                os._exit(0 if good else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    for i, one in enumerate(held):
        pd.testing.assert_frame_equal(one, tasks.frame_of(i))


def test_a_forked_child_may_not_end_the_pool_it_inherited(our_pool):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            inherited = our_pool
            del inherited
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert our_pool.map_async(tasks.square, range(5), 1).get(LIMIT) == [0, 1, 4, 9, 16]


def test_a_task_that_leaves_a_child_behind(ours):
    """The child has the worker's pipes; the parent learns of the worker's death all the same."""
    with ours.pool(1) as pool:
        with pytest.raises(arrowpool.WorkerLostError, match="code 9"):
            pool.apply_async(tasks.fork_and_exit, (2.0,)).get(LIMIT)
        assert pool.apply_async(tasks.square, (3,)).get(LIMIT) == 9
    pool.join()


# The pool ends in its own process. The start method only decides how memory was reached: inherited, or by a descriptor.
@across_methods("ours, ending", ["terminate", "collect", "maxtasksperchild"])
def test_results_outlive_what_they_came_from(ours, ending):
    argument = np.arange(BIG, dtype=float)
    pool = ours.pool(2, maxtasksperchild=1 if ending == "maxtasksperchild" else None)
    frames = pool.map(tasks.frame_of, range(4), 1)
    # One that refers to its argument's memory, which is the parent's own arena.
    halves = [pool.apply(tasks.half, (argument,)) for _ in range(3)]
    table = pool.apply(tasks.identity, (pa.table({"x": argument}),))
    if ending == "terminate":
        pool.terminate()
        pool.join()
    elif ending == "collect":
        pool.terminate()
        del pool
        gc.collect()
    else:
        for _ in range(3):
            pool.map(tasks.double, [np.full(BIG, -1.0)] * 4, 1)  # written to whatever is free
        pool.close()
        pool.join()
    for i, frame in enumerate(frames):
        pd.testing.assert_frame_equal(frame, tasks.frame_of(i))
        frame += 1
    assert all(np.array_equal(half, argument[: BIG // 2]) for half in halves)
    assert table["x"].to_numpy()[-1] == BIG - 1
    assert live_leases() > 0
    del frames, frame, halves, table
    gc.collect()
    assert live_leases() == 0


def test_what_newer_workers_could_see_is_given_back_with_the_pool(ours):
    pool = ours.pool(1)
    frames = pool.map(tasks.frame_of, range(3), 1)
    with pytest.raises(WorkerLostError):
        pool.apply(tasks.die, ("sigkill",))
    assert pool.apply(tasks.square, (3,)) == 9  # by a worker that was forked while the frames were here
    del frames
    pool.terminate()
    pool.join()  # no mapping is left: the census sees to that


def test_a_pool_that_is_dropped_warns_and_ends(ours):
    pool = ours.pool(1)
    workers = list(pool._pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        pool = gc.collect()
    deadline = time.monotonic() + LIMIT
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(worker.is_alive() for worker in workers)


ENDS = {
    "results alive": "keep = pool.map(tasks.frame_of, range(4))",
    "results alive in a cycle": "keep = [pool.map(tasks.frame_of, range(4))]; keep.append(keep); del pool",
    "tasks running": "pool.map_async(tasks.wait_for, [60] * 4, 1)",
    "iterator unread": "results = pool.imap(tasks.frame_of, range(100)); next(results)",
    "closed": "keep = pool.map(tasks.frame_of, range(4)); pool.close()",
    "in a daemon thread": "threading.Thread(target=pool.map_async(tasks.wait_for, [60] * 4).wait, daemon=True).start()",
    "an error": "pool.map_async(tasks.wait_for, [60] * 4, 1); sys.exit(4)",
}


@across_methods("one, doing", ENDS)
def test_the_interpreter_exits(one, tmp_path, doing):
    script = tmp_path / "script.py"
    program = f"""
        import sys, threading, warnings
        import arrowpool
        from arrowpool.engine import judge
        from tests.pool import tasks

        if __name__ == "__main__":
            judge.be_silent()  # of a pool on a busy machine
            warnings.simplefilter("ignore", ResourceWarning)
            pool = arrowpool.get_context({one.method!r}).Pool(2)
            pool.map(tasks.square, range(4), 1)
            {ENDS[doing]}
    """
    script.write_text(textwrap.dedent(program))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stderr == ""
    assert done.returncode == (4 if doing == "an error" else 0)
    assert time.monotonic() - began < 30


LATE = """
    import atexit, sys, threading
    import numpy as np
    import arrowpool
    from tests.pool import tasks

    def use(pool):
        with pool:
            assert pool.apply_async(tasks.first, (np.ones(4_000_000),)).get(60) == 1.0  # copied in pieces
            assert pool.apply_async(tasks.zeros, (3_000_000,)).get(60).nbytes == 24_000_000
        pool.join()
        print("done", flush=True)

    def make():
        return arrowpool.get_context(sys.argv[1]).Pool(2)

    def after_main(pool=None):
        threading.main_thread().join()
        use(pool or make())

    if __name__ == "__main__":
        HOW
"""
WHEN = {
    "in a thread after the end of the main thread": "threading.Thread(target=after_main, args=(make(),)).start()",
    "made in a thread after the end of the main thread": "threading.Thread(target=after_main).start()",
    "in atexit": "atexit.register(use, make())",
}


@across_methods("one, when", WHEN)
def test_a_pool_is_used_late(one, tmp_path, when):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(LATE.replace("HOW", WHEN[when])))
    done = subprocess.run(
        [sys.executable, str(script), one.method],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stderr == ""
    assert done.stdout == "done\n"
