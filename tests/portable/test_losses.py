"""A worker of the pool without shared memory is killed at any moment: no call waits, and nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import psutil
import pytest

import arrowpool
from arrowpool import PoolTerminatedError, TaskExitError, UnsupportedError
from arrowpool.portable import relay
from arrowpool.portable.executor import ProcessPoolExecutor
from arrowpool.portable.pool import ArrowPool
from tests.pool import tasks

CALLERS = 3


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_at_any_moment(seed):
    chosen = random.Random(seed)
    pool = ArrowPool(3, context=multiprocessing.get_context("fork"))
    moment, answers, errors = chosen.randrange(12), [], []
    reached = threading.Event()

    def call(sizes):
        try:
            while True:
                values = pool.map_async(tasks.identity, [np.ones(size) for size in sizes], 1).get(30)
                answers.append([len(value) for value in values] == sizes)
                if len(answers) >= moment:
                    reached.set()
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=call, args=([chosen.randrange(1, 200_000) for _ in range(6)],)) for _ in range(CALLERS)
    ]
    for thread in threads:
        thread.start()
    assert reached.wait(30)
    os.kill(pool._pool[chosen.randrange(3)].pid, chosen.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
    for thread in threads:
        thread.join(40)
    assert [type(error) for error in errors] == [arrowpool.WorkerLostError] * CALLERS
    assert all(answers)
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("way", ["terminate", "close", "drop"])
def test_ends(way):
    pool = ArrowPool(2, context=multiprocessing.get_context("fork"))
    result = pool.map_async(tasks.square, range(50))
    if way == "terminate":
        pool.terminate()
    elif way == "close":
        pool.close()
        pool.join()
        assert result.get(0) == [number * number for number in range(50)]
    else:
        result.get(30)  # an open call keeps its pool, as with the standard library
        with pytest.warns(ResourceWarning):
            del pool


def test_a_closed_pool_waits_for_its_tasks_idly(monkeypatch):
    looks = []
    pool = ArrowPool(1, context=multiprocessing.get_context("fork"))
    receive = pool._outqueue.receive
    monkeypatch.setattr(pool._outqueue, "receive", lambda *others: (looks.append(1), receive(*others))[1])
    result = pool.apply_async(tasks.wait_for, (0.5,))
    pool.close()
    pool.join()
    assert result.get(0) == 0.5
    assert len(looks) < 20


INTERRUPTED = """
from tests.portable import hidden
import multiprocessing
import os
import sys
import time
import arrowpool
from tests.pool import tasks

def here(_):
    time.sleep(0.05)
    return os.getpid()

def begin(map):
    seen = set()
    while len(seen) < 2:  # a worker that starts ends with Python's own words
        seen.update(map(here, range(4)))

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    if sys.argv[1] == "pool":
        with arrowpool.Pool(2) as pool:
            begin(pool.map)
            print(*[worker.pid for worker in pool._pool], flush=True)
            pool.map(tasks.wait_for, [100] * 4, 1)
    else:
        with arrowpool.ProcessPoolExecutor(2) as executor:
            begin(executor.map)
            print(*executor._processes, flush=True)
            executor.submit(tasks.wait_for, 100)
            executor.submit(tasks.wait_for, 100).result()
"""


@pytest.mark.parametrize("kind", ["pool", "executor"])
@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_the_end_of_the_program(kind, how, tmp_path):
    """Ctrl-C reaches all processes; a kill only the parent. The workers end, and say nothing."""
    script = tmp_path / "program.py"
    script.write_text(INTERRUPTED)
    program = subprocess.Popen(
        [sys.executable, str(script), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "HIDDEN_PLATFORM": ""},
        start_new_session=True,
    )
    with program:
        workers = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
        assert len(workers) == 2
        if how == "kill":
            program.kill()
        else:
            os.killpg(program.pid, signal.SIGINT)
        _, said = program.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert said.count("Traceback") == (how == "Ctrl-C")


def test_a_callback_may_end_the_pool():
    pool = ArrowPool(2, context=multiprocessing.get_context("fork"))
    result = pool.apply_async(tasks.square, (3,), callback=lambda value: pool.terminate())
    assert result.get(30) == 9
    pool.join()


def test_a_terminated_pool_waits_for_no_iterator(monkeypatch):
    monkeypatch.setattr(relay, "_PATIENCE_SECONDS", 0.1)
    never = threading.Event()

    def items():
        yield 1
        never.wait()

    pool = ArrowPool(1, context=multiprocessing.get_context("fork"))
    results = pool.imap(tasks.square, items())
    assert next(results) == 1
    pool.terminate()
    pool.join()
    with pytest.raises(PoolTerminatedError):
        next(results)
    never.set()
    pool._task_handler.join()
    pool._end()  # closes the pipes that the thread has used


class Exits:
    def __reduce__(self):
        sys.exit(3)


def test_what_ends_a_thread_of_the_executor_is_an_error_of_its_call():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        assert type(executor.submit(abs, Exits()).exception(30)) is TaskExitError
        assert type(executor.submit(sys.exit, 3).exception(30)) is TaskExitError
        assert executor.submit(abs, -3).result(30) == 3
        assert (executor.health().alive, executor.health().calls) == (1, 0)
        with pytest.raises(UnsupportedError, match=r"executor\.stats"):
            executor.trace()


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_the_workers_of_an_executor_are_ended(end):
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    results = [executor.submit(tasks.wait_for, 100) for _ in range(4)]
    while not results[0].running():
        assert not results[0].done()
    getattr(executor, end)()
    assert isinstance(results[0].exception(30), BrokenProcessPool)
    assert results[-1].cancelled()
    executor.shutdown()
