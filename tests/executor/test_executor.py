"""The contract of `concurrent.futures.ProcessPoolExecutor`, on the standard library's and on ours, and what only ours does."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from itertools import count

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool.errors import TaskExitError, WorkerInitError, WorkerLostError
from arrowpool.executor import ProcessPoolExecutor
from tests.conftest import METHODS
from tests.executor.calls import (
    Thing,
    called,
    capture,
    in_a_pool,
    in_a_process,
    in_an_executor,
    leave_at_gate,
    make_thing,
    pass_gate,
    raise_123,
)
from tests.pool import tasks

LIMIT = 30  # seconds after which a future counts as lost


class Kind:
    """One executor class under one start method."""

    def __init__(self, name, factory, method):
        self.name = name
        self.factory = factory
        self.method = method

    @property
    def ours(self):
        return self.factory is ProcessPoolExecutor

    @property
    def context(self):
        return multiprocessing.get_context(self.method)

    def __call__(self, max_workers=2, **kwargs):
        return self.factory(max_workers, self.context, **kwargs)

    def __repr__(self):
        # The standard library's leaves its descriptors to the garbage collector; by this name the census knows it.
        return f"{self.name}-{self.method}"


STDLIB = [Kind("multiprocessing", futures.ProcessPoolExecutor, method) for method in METHODS]
OURS = [Kind("arrowpool", ProcessPoolExecutor, method) for method in METHODS]
#: The standard library's is what ours is held against; how its workers start does not matter for that.
EVERY = [STDLIB[0], *OURS]
FORKED = [kind for kind in EVERY if kind.method == "fork"]


def over(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=repr)


@pytest.fixture
def executor(kind):
    with kind() as executor:
        yield executor


class Gate:
    """Tasks say that they run, and wait until they may go on; over two named pipes."""

    def __init__(self, directory):
        self.path = str(directory / "gate")
        os.mkfifo(self.path)
        os.mkfifo(self.path + ".begun")
        self._begun = os.open(self.path + ".begun", os.O_RDWR)
        self._open = -1

    def wait_for(self, tasks):
        for _ in range(tasks):
            os.read(self._begun, 1)

    def open(self):
        if self._open < 0:
            self._open = os.open(self.path, os.O_RDWR)

    def close(self):
        self.open()
        os.close(self._begun)
        os.close(self._open)


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.close()


# What every executor does, under every start method


@over(EVERY)
def test_submit_and_map(kind, executor):
    assert executor.submit(pow, 2, 8).result(LIMIT) == 256
    assert executor.submit(capture, 1, self=2, fn=3).result(LIMIT) == ((1,), {"self": 2, "fn": 3})
    for size in (1, 3, 50):
        assert list(executor.map(pow, range(10), range(10), chunksize=size)) == list(map(pow, range(10), range(10)))
    assert list(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]
    assert list(executor.map(operator.add, [1, 2, 3], [10])) == [11]
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(abs)) == []


@over(EVERY)
def test_an_error_and_its_remote_traceback(kind, executor):
    future = executor.submit(raise_123)
    with pytest.raises(RuntimeError) as caught:
        future.result(LIMIT)
    assert type(caught.value) is RuntimeError
    assert caught.value.args == (123,)
    assert future.exception() is caught.value
    assert "raise RuntimeError(123)  # a comment in the source" in str(caught.value.__cause__)


@over(FORKED)
def test_an_error_keeps_no_future(kind, executor):
    """Neither its own, by its traceback, so that all goes without the collector of cycles."""
    future = executor.submit(raise_123)
    with suppress(RuntimeError):
        future.result(LIMIT)
    kept = weakref.ref(future)
    gc.disable()
    try:
        del future
        executor.submit(abs, 1).result(LIMIT)
        assert kept() is None
    finally:
        gc.enable()


@over(EVERY)
def test_the_initializer(kind):
    with kind(initializer=tasks.initialize, initargs=(17,)) as executor:
        assert executor.submit(tasks.state).result(LIMIT) == 17


@over(EVERY)
def test_an_initializer_that_fails_breaks_it(kind, capfd):
    with kind(initializer=tasks.fail_initializer) as executor:
        try:
            first = executor.submit(pow, 2, 2)
        except BrokenProcessPool:
            pass  # so soon
        else:
            assert isinstance(first.exception(LIMIT), BrokenProcessPool)
        with pytest.raises(BrokenProcessPool):
            executor.submit(pow, 2, 2)
        with pytest.raises(BrokenProcessPool):
            executor.map(abs, [1])


@over(EVERY)
def test_states_tell_the_truth(kind, gate):
    with kind() as executor:
        many = [executor.submit(pass_gate, gate.path, i) for i in range(12)]
        gate.wait_for(2)
        # These run, and no more than a few are prepared beyond them, in order; the others wait.
        running = [future for future in many if future.running()]
        assert running == many[: len(running)]
        assert 2 <= len(running) <= 5
        assert not any(future.cancel() or future.done() for future in running)
        assert all(future.cancel() and future.cancelled() and future.done() for future in many[6:])
        assert not any(future.running() for future in many[6:])
        with pytest.raises(futures.TimeoutError):
            many[0].result(0)
        gate.open()
        done, waiting = futures.wait(many, LIMIT)
        assert (len(done), len(waiting)) == (12, 0)
        assert [future.result() for future in many[:6]] == [0, 1, 2, 3, 4, 5]
        with pytest.raises(futures.CancelledError):
            many[6].result()
        assert set(futures.as_completed(many, LIMIT)) == set(many)


@over(EVERY)
def test_shutdown_waits_by_default(kind, gate):
    executor = kind()
    made = [executor.submit(pass_gate, gate.path, i) for i in range(6)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(abs, [1])
    assert not made[5].done()
    gate.open()
    assert [future.result(LIMIT) for future in made] == [0, 1, 2, 3, 4, 5]
    executor.shutdown()
    executor.shutdown()


# What every executor does; the start method does not matter


@over(FORKED)
def test_cancel_futures(kind, gate):
    executor = kind()
    made = [executor.submit(pass_gate, gate.path, i) for i in range(12)]
    gate.wait_for(2)
    ending = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True})
    ending.start()
    with pytest.raises(futures.CancelledError):
        made[-1].result(LIMIT)
    gate.open()
    ending.join(LIMIT)
    assert not ending.is_alive()
    assert all(future.done() for future in made)
    ran = [future for future in made if not future.cancelled()]
    assert ran == made[: len(ran)]
    assert [future.result() for future in ran] == list(range(len(ran)))


@over(FORKED)
def test_its_last_user_lets_go_of_it(kind):
    executor = kind()
    results = executor.map(abs, range(-20, 0))
    closer = executor._closer if kind.ours else None
    del executor
    gc.collect()
    assert list(results) == list(range(20, 0, -1))
    # Nobody waits for its end but we.
    assert closer is None or closer.join(LIMIT)


@pytest.fixture
def said(request):
    """The messages of a logger, as text: a record would keep the traceback, and the objects in its frames."""
    logger = logging.getLogger(request.param)
    said = []

    def keep(record):
        said.append(record.getMessage())
        return False

    logger.addFilter(keep)
    yield said
    logger.removeFilter(keep)


@over(FORKED)
@pytest.mark.parametrize("said", ["concurrent.futures"], indirect=True)
def test_done_callbacks(kind, executor, said):
    told = threading.Event()
    seen = []

    def note(future):
        seen.append((future, os.getpid(), executor.submit(abs, -5)))  # also from here
        told.set()

    def fail(_):
        raise ValueError("in a callback")

    future = executor.submit(pow, 3, 2)
    future.add_done_callback(fail)
    future.add_done_callback(note)
    assert told.wait(LIMIT)
    assert [(one, pid, other.result(LIMIT)) for one, pid, other in seen] == [(future, os.getpid(), 5)]
    assert ["exception calling callback" in line for line in said] == [True]
    assert executor.submit(pow, 3, 3).result(LIMIT) == 27


@over(FORKED)
def test_map_raises_where_the_error_is(kind, executor):
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@over(FORKED)
def test_what_map_refuses(kind, executor):
    with pytest.raises(ValueError, match="chunksize"):
        list(executor.map(pow, [1], [1], chunksize=0))
    with pytest.raises(TypeError):
        executor.map(abs, 5)
    with pytest.raises(ZeroDivisionError):
        executor.map(abs, (1 / i for i in (1, 0)))


@over(FORKED)
def test_map_has_a_timeout(kind, gate, executor):
    results = executor.map(pass_gate, [gate.path], timeout=0.05)
    with pytest.raises(futures.TimeoutError):
        next(results)
    gate.open()


@over(FORKED)
def test_leaving_map_cancels_what_waits(kind, gate, executor):
    results = executor.map(pass_gate, [gate.path] * 12, range(12))
    gate.wait_for(2)
    first = threading.Thread(target=lambda: next(results))
    first.start()
    gate.open()
    first.join(LIMIT)
    results.close()
    assert executor.submit(abs, -1).result(LIMIT) == 1


@over(FORKED)
def test_no_reference_is_kept(kind, executor):
    thing = Thing()
    gone = threading.Event()
    weakref.finalize(thing, gone.set)
    executor.submit(thing.method)
    del thing
    assert gone.wait(LIMIT)
    for made in executor.map(make_thing, range(5)):
        alive = weakref.ref(made)
        del made
        assert alive() is None


@over(FORKED)
def test_what_cannot_be_pickled(kind, executor):
    with pytest.raises(Exception, match="pickle"):
        executor.submit(abs, threading.Lock()).result(LIMIT)
    with pytest.raises(Exception, match="pickle"):
        executor.submit(threading.Lock).result(LIMIT)
    assert executor.submit(abs, -2).result(LIMIT) == 2


class RefusesToBePickled:
    def __reduce__(self):
        raise KeyError("not today")


@over(FORKED)
@pytest.mark.parametrize(("make", "error"), [(threading.Lock, TypeError), (RefusesToBePickled, KeyError)])
def test_a_result_that_cannot_be_pickled(kind, executor, make, error):
    """The future has the error of pickling, which a pool puts into a `MaybeEncodingError`."""
    future = executor.submit(make)
    with pytest.raises(error) as raised:
        future.result(LIMIT)
    assert type(raised.value) is error
    with pytest.raises(error):
        list(executor.map(partial(called, make), [1, 2], chunksize=2))
    if kind.ours:
        assert type(future.exception()) is error
        notes = raised.value.__notes__
        assert any("the result" in note for note in notes)
        assert "pickle" in str(raised.value) or "not today" in str(raised.value)


@over(FORKED)
@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, {"max_workers": 0}),
        (ValueError, {"max_workers": -1}),
        (TypeError, {"initializer": 5}),
        (ValueError, {"max_tasks_per_child": 3}),
        (TypeError, {"max_tasks_per_child": "3"}),
        (ValueError, {"max_tasks_per_child": 0}),
    ],
    ids=str,
)
def test_what_cannot_be_made(kind, error, arguments):
    if "max_tasks_per_child" in arguments and sys.version_info < (3, 11) and not kind.ours:
        pytest.skip("new in Python 3.11")
    with pytest.raises(error):
        kind(**arguments)


@over([kind for kind in [*STDLIB, *OURS] if kind.method == "forkserver"])
def test_max_tasks_per_child(kind):
    if sys.version_info < (3, 11) and not kind.ours:
        pytest.skip("new in Python 3.11")
    with kind(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result(LIMIT) for _ in range(4)]
    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert pids[0] != pids[2]


@over(EVERY)
def test_a_task_may_start_a_process(kind, executor):
    assert executor.submit(in_a_process, kind.method).result(LIMIT) == 7


@over(FORKED)
@pytest.mark.parametrize("nested", [in_a_pool, in_an_executor])
def test_a_task_may_have_workers_of_its_own(kind, executor, nested):
    assert executor.submit(nested, kind.method, kind.factory).result(LIMIT) == 7


@over(EVERY)
def test_shutdown_waits_for_processes_that_a_task_has_left(kind, gate):
    executor = kind(1)
    child = executor.submit(leave_at_gate, kind.method, gate.path).result(LIMIT)
    gate.wait_for(1)
    shutdown = threading.Thread(target=executor.shutdown)
    shutdown.start()
    os.kill(child, 0)
    gate.open()
    shutdown.join(LIMIT)
    assert not shutdown.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@over(EVERY)
def test_the_first_call_has_the_error_of_the_initializer_in_its_future(kind):
    with kind(1, initializer=raise_123) as executor:
        assert isinstance(executor.submit(abs, 1).exception(LIMIT), BrokenProcessPool)
        with pytest.raises(BrokenProcessPool):
            executor.submit(abs, 1)


@over(OURS[:1])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 1.5}, TypeError),
        ({"max_workers": 0}, ValueError),
        ({"mp_context": 5}, AttributeError),
        ({"initializer": 5}, TypeError),
        ({"max_tasks_per_child": 1.5}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
    ],
    ids=str,
)
def test_arguments_are_checked_at_once(kind, arguments, error):
    with pytest.raises(error):
        kind.factory(**arguments)


@over(FORKED)
def test_in_an_event_loop(kind):
    async def main():
        loop = asyncio.get_running_loop()
        with kind() as executor:
            values = await asyncio.gather(*[loop.run_in_executor(executor, abs, -i) for i in range(5)])
            with pytest.raises(RuntimeError, match="123"):
                await loop.run_in_executor(executor, raise_123)
        return values

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


EXITS = {
    "with calls unanswered": "for i in range(4): executor.submit(say, i)",
    "in a map that nobody reads": "executor.map(say, range(4))",
    "after shutdown without waiting": "executor.map(say, range(4)); executor.shutdown(wait=False)",
    "with an error": "executor.map(say, range(4)); raise SystemExit(3)",
}


@over(FORKED)
@pytest.mark.parametrize("doing", EXITS)
def test_the_interpreter_exits(kind, doing, tmp_path):
    """All that was submitted is answered before; and nothing is said about it."""
    program = f"""
    import concurrent.futures, multiprocessing, os
    from arrowpool.executor import ProcessPoolExecutor

    def say(i):
        os.write(1, b"%d\\n" % i)

    if __name__ == "__main__":
        kind = {"ProcessPoolExecutor" if kind.ours else "concurrent.futures.ProcessPoolExecutor"}
        executor = kind(2, multiprocessing.get_context("{kind.method}"))
        {EXITS[doing]}
    """
    done = run(tmp_path, program)
    assert (sorted(done.stdout.split()), done.stderr) == (["0", "1", "2", "3"], "")
    assert done.returncode == (3 if doing == "with an error" else 0)


@over(FORKED)
def test_the_first_call_comes_while_the_interpreter_exits(kind, tmp_path):
    program = f"""
    import concurrent.futures, multiprocessing, threading
    from arrowpool.executor import ProcessPoolExecutor

    def submit_late():
        main.join()
        try:
            executor.submit(abs, -1).result()
        except RuntimeError as error:
            print(error)

    if __name__ == "__main__":
        kind = {"ProcessPoolExecutor" if kind.ours else "concurrent.futures.ProcessPoolExecutor"}
        executor = kind(2, multiprocessing.get_context("{kind.method}"))
        main = threading.main_thread()
        threading.Thread(target=submit_late).start()
    """
    done = run(tmp_path, program)
    assert (done.stdout, done.stderr) == ("cannot schedule new futures after interpreter shutdown\n", "")


def run(tmp_path, program):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def test_what_is_small_is_taken_when_it_is_submitted():
    class Submits:
        """Submits while it is pickled."""

        def __reduce__(self):
            return int, (executor.submit(tasks.square, 3).result(LIMIT),)

    state = {"i": -1}
    with OURS[0]() as executor:
        pending = []
        for i in range(30):
            state["i"] = i
            pending += [executor.submit(tasks.state_and, state, i), executor.submit(partial(tasks.state_and, state), i)]
        buffered = executor.map(tasks.first_of, iter([state, state]), buffersize=2)
        state["i"] = -2
        assert [future.result(LIMIT) for future in pending] == [(i, i) for i in range(30) for _ in range(2)]
        assert list(buffered) == [29, 29]
        assert executor.submit(tasks.identity, Submits()).result(LIMIT) == 9


# buffersize: what Python 3.14 specifies, here for every version

BUFFERING = [kind for kind in FORKED if kind.ours or sys.version_info >= (3, 14)]


@over(BUFFERING)
@pytest.mark.parametrize("iterables", [1, 2])
def test_buffersize_bounds_what_is_read_ahead(kind, executor, iterables):
    numbers = count()
    others = [count()] * (iterables - 1)
    results = executor.map(operator.add if others else abs, numbers, *others, buffersize=3)
    drawn = next(numbers)
    assert drawn == 3
    for _ in range(5):
        next(results)
    assert next(numbers) == drawn + 1 + 5
    results.close()


@over(BUFFERING)
def test_buffersize_changes_no_result(kind, executor):
    for buffersize in (1, 2, 4, 8):
        for chunksize in (1, 3):
            results = executor.map(str, range(7), buffersize=buffersize, chunksize=chunksize)
            assert list(results) == [str(i) for i in range(7)]
    assert list(executor.map(str, [], buffersize=2)) == []
    with pytest.raises(TypeError, match="buffersize must be an integer or None"):
        executor.map(str, [1], buffersize="2")
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        executor.map(str, [1], buffersize=0)


@over(BUFFERING)
def test_a_buffered_map_does_not_keep_its_executor(kind):
    executor = kind()
    results = executor.map(abs, count(), buffersize=3)
    if kind.ours:  # the standard library's iterator keeps its executor from the first result on
        assert next(results) == 0
    alive = weakref.ref(executor)
    closer = executor._closer if kind.ours else None
    del executor
    # The standard library's own thread has it for a moment, from time to time.
    deadline = time.monotonic() + LIMIT
    while not kind.ours and alive() is not None and time.monotonic() < deadline:
        os.sched_yield()
    assert alive() is None
    assert list(results) == ([1, 2, 3] if kind.ours else [0, 1, 2])
    assert closer is None or closer.join(LIMIT)


# What only ours does


@over(OURS)
def test_frames_go_through_shared_memory(kind, executor):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50_000, 4)), columns=list("abcd"))
    pd.testing.assert_frame_equal(executor.submit(tasks.double, frame).result(LIMIT), frame * 2)
    before = executor._closer.pool.stats().shared_bytes
    assert list(executor.map(tasks.total, [frame] * 5)) == [tasks.total(frame)] * 5
    with executor.share(frame):
        assert {executor.submit(tasks.total, frame).result(LIMIT) for _ in range(5)} == {tasks.total(frame)}
    # Once for the map and once for the share.
    assert executor._closer.pool.stats().shared_bytes - before < 2.5 * frame.memory_usage().sum()


@over(OURS)
def test_a_lost_worker_takes_its_own_task_with_it(kind, gate):
    with kind() as executor:
        lost = executor.submit(tasks.die, "sigkill")
        others = [executor.submit(abs, -i) for i in range(10)]
        error = lost.exception(LIMIT)
        assert isinstance(error, WorkerLostError)
        assert isinstance(error, BrokenProcessPool)
        assert error.exitcode == -signal.SIGKILL
        assert [future.result(LIMIT) for future in others] == list(range(10))
        assert list(executor.map(abs, [-1, -2])) == [1, 2]


@over(OURS[:1])
def test_a_killed_worker(kind, gate):
    with kind(1) as executor:
        future = executor.submit(pass_gate, gate.path)
        gate.wait_for(1)
        next(iter(executor._processes.values())).terminate()
        assert isinstance(future.exception(LIMIT), WorkerLostError)
        assert executor.submit(abs, -1).result(LIMIT) == 1


@over(OURS[:1])
@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_ending_the_workers(kind, gate, end):
    executor = kind()
    made = [executor.submit(pass_gate, gate.path) for _ in range(10)]
    gate.wait_for(2)
    getattr(executor, end)()
    executor.shutdown()
    assert futures.wait(made, 0).done == set(made)
    ran = [future for future in made if not future.cancelled()]
    assert ran == made[: len(ran)]
    assert 2 <= len(ran) <= 4
    assert {type(future.exception()) for future in ran} == {BrokenProcessPool}


@over(OURS[:1])
def test_an_error_of_the_initializer_says_what_it_was(kind):
    with kind(initializer=tasks.fail_initializer) as executor:
        for _ in range(2):
            with pytest.raises(WorkerInitError, match=r"(?s)initializer failed in worker .*no database") as caught:
                executor.submit(abs, 1).result(LIMIT)
        assert "no database" in executor._broken
        del caught


@over(OURS[:1])
def test_a_task_that_wants_to_exit(kind, executor):
    with pytest.raises(TaskExitError):
        executor.submit(sys.exit, 1).result(LIMIT)


@over(OURS[:1])
@pytest.mark.parametrize("said", ["arrowpool.executor.jobs"], indirect=True)
def test_a_callback_that_wants_to_exit(kind, gate, executor, said):
    future = executor.submit(pass_gate, gate.path)
    future.add_done_callback(lambda _: sys.exit(1))
    gate.open()
    assert future.result(LIMIT) is None
    assert executor.submit(pow, 2, 3).result(LIMIT) == 8
    assert ["SystemExit: 1" in line for line in said] == [True]


@over(OURS[:1])
def test_a_future_that_its_user_sets(kind, gate):
    """A running one, one that waits, and one of a map's: that is no matter for all others."""
    with kind(1) as executor:
        running = executor.submit(pass_gate, gate.path, "the task's")
        gate.wait_for(1)
        waiting = [executor.submit(abs, -i) for i in range(6)]
        running.set_result("mine")
        waiting[3].set_result("mine too")
        waiting[4].set_exception(KeyError("mine"))
        assert running.result(LIMIT) == "mine"
        gate.open()
        assert [future.result(LIMIT) for future in (*waiting[:4], waiting[5])] == [0, 1, 2, "mine too", 5]
        assert isinstance(waiting[4].exception(LIMIT), KeyError)
        assert executor.submit(abs, -7).result(LIMIT) == 7
        assert not executor._closer.pool._cache


@over(OURS[:1])
def test_shutdown_in_a_callback(kind):
    executor = kind()
    told = threading.Event()

    def end(_):
        executor.shutdown(wait=True)
        told.set()

    executor.submit(abs, -1).add_done_callback(end)
    assert told.wait(LIMIT)
    executor.shutdown()


@over(OURS[:1])
def test_the_extras_of_the_pool(kind):
    with kind(task_timeout=0.3) as executor:
        assert isinstance(executor.submit(time.sleep, 60).exception(LIMIT), arrowpool.TaskTimeoutError)
    with pytest.raises(ValueError, match="retries"), kind(retries=-1) as executor:
        executor.submit(abs, 1)


@over(OURS[:1])
def test_what_a_function_captured_goes_once_for_a_map(kind, executor):
    array = np.ones(500_000)
    executor.submit(abs, 1).result(LIMIT)
    before = executor._closer.pool.stats().shared_bytes
    assert list(executor.map(partial(tasks.pick, array), range(20))) == [1.0] * 20
    assert executor._closer.pool.stats().shared_bytes - before < 1.5 * array.nbytes


@over(OURS[:1])
def test_a_process_forked_from_one_with_an_executor_exits(kind, executor):
    assert executor.submit(abs, -1).result(LIMIT) == 1
    child = kind.context.Process(target=abs, args=(1,))
    child.start()
    child.join(LIMIT)
    assert child.exitcode == 0


@pytest.mark.parametrize("resumed", [False, True], ids=["", "waits are resumed"])
@pytest.mark.parametrize(
    "waits",
    ["made[0].result()", "made[0].exception(600)", "next(executor.map(time.sleep, [0]))", "pass"],
    ids=["for a future", "for its end, with a limit", "for a map", "at the end of the block"],
)
def test_ctrl_c_ends_the_block(tmp_path, waits, resumed):
    program = f"""
    import os, signal, threading, time
    from arrowpool.executor import ProcessPoolExecutor
    from tests.pool import tasks

    if __name__ == "__main__":
        path = {str(tmp_path / "begun")!r}
        os.mkfifo(path)
        def interrupt():
            with open(path) as begun:
                tasks.wait_until_it_waits(os.getpid())
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        made = []
        try:
            with ProcessPoolExecutor(2) as executor:
                made.append(executor.submit(tasks.signal_and_block, path))
                made.extend(executor.submit(time.sleep, 600) for _ in range(8))
                threading.Thread(target=interrupt, daemon=True).start()
                if {resumed}:  # after the signal, as polars has it
                    signal.siginterrupt(signal.SIGINT, False)
                {waits}
        except KeyboardInterrupt:
            print("interrupted", all(future.done() for future in made))
    """
    done = run(tmp_path, program)
    assert (done.stdout, done.stderr) == ("interrupted True\n", "")
