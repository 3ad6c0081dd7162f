"""What hangs a stock pool, or breaks it: here it is an error of its own call, and the pool goes on."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing.pool import MaybeEncodingError

import numpy as np
import psutil
import pytest

import arrowpool
from arrowpool import PoolTerminatedError, TaskExitError, TransferError, WorkerInitError, WorkerLostError
from arrowpool.engine import metrics, supervisor
from tests.conftest import forked_only, needs
from tests.pool import tasks

LIMIT = 30  # seconds after which a call counts as hung


def still_works(pool):
    array = np.ones(100_000)
    assert pool.map_async(tasks.first, [array] * 6, 1).get(LIMIT) == [1.0] * 6


@pytest.mark.own_pool
@pytest.mark.parametrize(
    ("how", "exitcode", "words"),
    [
        ("sigkill", -signal.SIGKILL, "killed by SIGKILL.*out-of-memory"),
        ("segfault", -signal.SIGSEGV, "killed by SIGSEGV.*compiled code"),
        ("_exit", 3, "exited with code 3"),
    ],
)
def test_a_task_that_kills_its_worker(our_pool, how, exitcode, words):
    others = our_pool.map_async(tasks.wait_for, [0.05] * 4, 1)
    with pytest.raises(WorkerLostError, match=words) as caught:
        our_pool.apply_async(tasks.die, (how,)).get(LIMIT)
    assert caught.value.exitcode == exitcode
    assert "while it ran die;" in str(caught.value)
    assert others.get(LIMIT) == [0.05] * 4
    still_works(our_pool)


@pytest.mark.parametrize("how", ["sys.exit", "interrupt"])
def test_a_task_that_wants_to_exit(our_pool, how):
    with pytest.raises(TaskExitError, match=r"SystemExit|KeyboardInterrupt"):
        our_pool.apply_async(tasks.die, (how,)).get(LIMIT)
    still_works(our_pool)


def test_a_task_that_raises_a_base_exception(our_pool):
    with pytest.raises(tasks.Base, match="not an Exception"):
        our_pool.apply_async(tasks.raise_base).get(LIMIT)
    still_works(our_pool)


def test_an_exception_that_cannot_be_rebuilt(our_pool):
    with pytest.raises(TransferError, match="exception of raise_needs_two could") as caught:
        our_pool.apply_async(tasks.raise_needs_two).get(LIMIT)
    assert "NeedsTwo" in str(caught.value.__cause__)
    still_works(our_pool)


def test_a_result_that_cannot_be_rebuilt(our_pool):
    with pytest.raises(TransferError, match="result of cannot_be_rebuilt could"):
        our_pool.apply_async(tasks.cannot_be_rebuilt).get(LIMIT)
    still_works(our_pool)


def test_an_argument_that_cannot_be_rebuilt(our_pool):
    with pytest.raises(RuntimeError, match="cannot be rebuilt here"):
        our_pool.apply_async(tasks.identity, (tasks.CannotBeRebuilt(),)).get(LIMIT)
    still_works(our_pool)


@pytest.mark.own_pool
def test_an_argument_that_kills_the_worker_that_rebuilds_it(our_pool):
    with pytest.raises(WorkerLostError, match="exited with code 7"):
        our_pool.apply_async(tasks.identity, (tasks.DiesWhenRebuilt(),)).get(LIMIT)
    still_works(our_pool)


@pytest.mark.own_pool
def test_a_result_that_kills_the_worker_that_pickles_it(our_pool):
    with pytest.raises(WorkerLostError, match="exited with code 8"):
        our_pool.apply_async(tasks.dies_when_pickled).get(LIMIT)
    still_works(our_pool)


@pytest.mark.own_pool
def test_an_idle_worker_is_killed(our_pool):
    still_works(our_pool)
    victim = our_pool._pool[0]
    os.kill(victim.pid, signal.SIGKILL)
    still_works(our_pool)
    deadline = time.monotonic() + LIMIT
    while (victim in our_pool._pool or len(our_pool._pool) < 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(our_pool._pool) == 2
    still_works(our_pool)


@pytest.mark.own_pool
def test_only_the_task_that_ran_is_lost(our_pool):
    """Short tasks go several to a frame: those behind the one that dies have not begun, and run elsewhere."""
    our_pool.map(tasks.square, range(2000), 1)
    tasks_given = [2] * 500
    results = [our_pool.apply_async(tasks.square, (x,)) for x in tasks_given]
    doomed = our_pool.apply_async(tasks.die, ("sigkill",))
    results += [our_pool.apply_async(tasks.square, (x,)) for x in tasks_given]
    with pytest.raises(WorkerLostError):
        doomed.get(LIMIT)
    assert [result.get(LIMIT) for result in results] == [4] * 1000


def arrays_and(value, count, at):
    """Arrays of 40 kB that begin with their indexes, but for one."""
    return [np.full(5_000, value if i == at else i, dtype=float) for i in range(count)]


@pytest.mark.own_pool
def test_only_the_task_that_ran_is_lost_of_those_with_memory(our_pool):
    """Short tasks go several to a frame with their segments, which are free at the end, whichever worker had leases of them."""
    results = our_pool.imap(tasks.first_or_trouble, arrays_and(tasks.DIES, 900, 600))
    assert [next(results) for _ in range(600)] == list(range(600))
    with pytest.raises(WorkerLostError, match="ran first_or_trouble on item 600 of 900;"):
        next(results)
    assert list(results) == list(range(601, 900))
    nothing_is_left_in_flight(our_pool)


@forked_only
def test_a_long_task_among_short_ones_with_memory_holds_nobody_up(our_pool):
    """Those behind it are taken back from its worker with their leases."""
    began = time.monotonic()
    results = our_pool.imap_unordered(tasks.first_or_trouble, arrays_and(tasks.SLEEPS, 900, 600))
    assert sorted(next(results) for _ in range(899)) == [i for i in range(900) if i != 600]
    assert time.monotonic() - began < 2.9, "the others waited behind the long one"
    assert next(results) == tasks.SLEEPS
    nothing_is_left_in_flight(our_pool)


@pytest.mark.own_pool
def test_workers_that_are_replaced_after_a_few_tasks_with_memory(ours):
    """No frame holds more tasks than its worker may run, and their leases end with it."""
    with ours.pool(2, maxtasksperchild=70) as pool:
        assert pool.map(tasks.first, arrays_and(0, 900, 0), 1) == list(range(900))
        assert max(stats.tasks for stats in pool.stats().workers) <= 70
        nothing_is_left_in_flight(pool)
    pool.join()


@pytest.mark.own_pool
def test_an_iterator_over_short_tasks_with_memory_is_closed(our_pool):
    """What waits in workers is taken back, with its leases; what runs is interrupted."""
    results = our_pool.imap(tasks.first_or_trouble, arrays_and(tasks.SLEEPS, 900, 400))
    assert [next(results) for _ in range(400)] == list(range(400))
    results.close()
    nothing_is_left_in_flight(our_pool)
    still_works(our_pool)


@forked_only
@pytest.mark.own_pool
def test_frames_of_tasks_with_memory_stay_within_the_budget(ours):
    budget = 500_000
    with ours.pool(2, max_bytes=budget) as pool:
        assert pool.map(tasks.first, arrays_and(0, 900, 0), 1) == list(range(900))
        assert 80_000 <= pool._task_handler.parts.sender.lifecycle.peak_bytes <= budget
        nothing_is_left_in_flight(pool)
    pool.join()


def nothing_is_left_in_flight(our_pool):
    """Workers release leases a moment after their replies."""
    feeder = our_pool._task_handler
    deadline = time.monotonic() + LIMIT
    while feeder.parts.sender.lifecycle.live and time.monotonic() < deadline:
        feeder.wake()
        time.sleep(0.01)
    assert not feeder.parts.sender.lifecycle.live


@forked_only
def test_a_long_task_does_not_hold_up_short_ones(our_pool, tmp_path):
    our_pool.map(tasks.square, range(3000), 1)
    gate = tmp_path / "go on"
    results = our_pool.imap_unordered(tasks.wait_for_path, [None] * 3000 + [str(gate)] + [None] * 3000)
    assert [results.next(LIMIT) for _ in range(6000)] == [None] * 6000
    gate.touch()
    assert results.next(LIMIT) == str(gate)


def test_an_initializer_that_raises(ours):
    pool = ours.pool(2, tasks.fail_initializer)
    with pytest.raises(WorkerInitError, match="no database") as caught:
        pool.apply_async(tasks.square, (1,)).get(LIMIT)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(WorkerInitError):
        pool.map(tasks.square, [1])
    pool.terminate()
    pool.join()


def test_a_pool_that_is_broken_before_its_block_begins(ours):
    pool = ours.pool(1, tasks.fail_initializer)
    deadline = time.monotonic() + LIMIT
    while not pool._broken:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pool, pytest.raises(WorkerInitError, match="no database"):
        pool.map(tasks.square, [1])
    pool.join()


def test_an_initializer_that_ends_the_process(ours):
    pool = ours.pool(2, tasks.exit_initializer)
    with pytest.raises(WorkerInitError, match="exited with code 5"):
        pool.apply_async(tasks.square, (1,)).get(LIMIT)
    pool.terminate()
    pool.join()


def test_workers_that_are_killed_before_they_are_ready_while_another_one_works(ours, tmp_path):
    """As the system does for a time when memory is short. No call fails that runs in the other one."""
    folder = str(tmp_path)
    with ours.pool(2, tasks.be_killed_while, (folder,)) as pool:
        running = pool.apply_async(tasks.wait_for_path, (str(tmp_path / "go on"),))
        idle = pool.apply_async(tasks.pid, (None,)).get(LIMIT)
        (tmp_path / "kill").touch()
        os.kill(idle, signal.SIGKILL)
        killed, deadline = tmp_path / "killed", time.monotonic() + LIMIT
        while not killed.exists() or len(killed.read_text().split()) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (tmp_path / "go on").touch()
        assert running.get(LIMIT)
        (tmp_path / "kill").unlink()
        still_works(pool)
    pool.join()


@pytest.mark.parametrize("how", ["sigkill", "_exit"])
def test_workers_that_all_end_before_they_are_ready(ours, how):
    """The error says who ends them: something outside, or the initializer."""
    pool = ours.pool(2, tasks.die, (how,))
    why = "Something outside kills them" if how == "sigkill" else "The initializer, or the import"
    with pytest.raises(WorkerInitError, match=rf"workers in a row ended before they were ready.*{why}"):
        pool.apply_async(tasks.square, (1,)).get(LIMIT)
    pool.terminate()
    pool.join()


@forked_only
def test_an_initializer_that_ends_the_process_of_a_closed_pool(ours):
    pool = ours.pool(2, tasks.exit_initializer)

    def call():
        result = pool.apply_async(tasks.square, (1,))  # it may be known already
        pool.close()
        pool.join()
        result.get(LIMIT)

    with pytest.raises(WorkerInitError, match="exited with code 5"):
        call()
    pool.terminate()
    pool.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("part", "method"),
    [
        (lambda pool: pool._task_handler.parts.events, "handle"),
        (lambda pool: pool._result_handler, "_handle"),
    ],
    ids=["feeder", "collector"],
)
def test_no_call_waits_for_a_thread_that_has_ended(part, method):
    pool = arrowpool.Pool(1)
    assert pool.apply(tasks.square, (3,)) == 9

    def fail(*_):
        raise RuntimeError("a fault")

    def call():
        waiting = pool.map_async(tasks.wait_for, [0.0, 0.1, 0.1])
        pool._result_handler.tell(None)
        return waiting.get(LIMIT)

    setattr(part(pool), method, fail)
    for _ in range(2):
        with pytest.raises(PoolTerminatedError, match="cannot go on"):
            call()
    pool.terminate()
    pool.join()


def test_results_that_will_never_come(ours):
    pool = ours.pool(1)
    waiting = [
        pool.apply_async(tasks.wait_for, (60,)),
        pool.map_async(tasks.wait_for, [60] * 3),
    ]
    iterator = pool.imap(tasks.wait_for, [60])
    pool.terminate()
    pool.join()
    for result in waiting:
        with pytest.raises(PoolTerminatedError):
            result.get(LIMIT)
    with pytest.raises(PoolTerminatedError):
        iterator.next(LIMIT)


def test_a_callback_that_raises(our_pool, caplog):
    def callback(value):
        raise RuntimeError("in the callback")

    assert our_pool.apply_async(tasks.square, (3,), callback=callback).get(LIMIT) == 9
    assert our_pool.map_async(tasks.square, [1, 2], callback=callback).get(LIMIT) == [1, 4]
    still_works(our_pool)
    assert "in the callback" in caplog.text


class Refusing(logging.Handler):
    def emit(self, record):
        raise AssertionError(f"nothing is to be logged: {record.getMessage()}")


def test_a_log_handler_that_raises(our_pool, monkeypatch):
    handler = Refusing()
    monkeypatch.setattr(metrics, "_hinted", set())
    monkeypatch.setattr(metrics, "_WORTH_A_HINT", 100_000)
    logging.getLogger().addHandler(handler)
    try:
        assert our_pool.apply_async(tasks.square, (3,), callback=tasks.fail).get(LIMIT) == 9
        assert our_pool.apply_async(tasks.length, (list(range(100_000)),)).get(LIMIT) == 100_000
        still_works(our_pool)
    finally:
        logging.getLogger().removeHandler(handler)


def test_errors_that_say_nothing_of_themselves(our_pool):
    with pytest.raises(TransferError, match=r"result of make could .* <Speechless, whose repr\(\) fails>"):
        our_pool.apply_async(tasks.make, ("SpeechlessWhenRebuilt",)).get(LIMIT)
    with pytest.raises(MaybeEncodingError, match=r"<SpeechlessWhenPickled, whose repr\(\) fails>"):
        our_pool.apply_async(tasks.make, ("SpeechlessWhenPickled",)).get(LIMIT)
    still_works(our_pool)


def test_a_function_and_an_iterable_whose_attributes_raise(our_pool):
    assert our_pool.map_async(tasks.Proxy(), [3, 4], 1).get(LIMIT) == [3, 4]
    assert list(our_pool.imap(tasks.square, tasks.Proxy())) == [1, 4]
    still_works(our_pool)


def test_an_iterable_that_raises_system_exit(our_pool):
    def items():
        yield 1
        raise SystemExit("from the iterable")

    results = our_pool.imap(tasks.square, items())
    assert results.next(LIMIT) == 1
    with pytest.raises(TaskExitError, match="iterable raised SystemExit"):
        results.next(LIMIT)
    still_works(our_pool)


def test_a_broken_pool_cannot_be_made(ours, monkeypatch):
    context = ours.context._context if hasattr(ours.context, "_context") else ours.context

    class Unstartable(context.Process):
        def start(self):
            raise OSError("no more processes")

    monkeypatch.setattr(arrowpool.ArrowPool, "Process", staticmethod(lambda ctx, *a, **k: Unstartable(*a, **k)))
    with pytest.raises(OSError, match="no more processes"):
        ours.pool(2)


@pytest.fixture
def starts(monkeypatch):
    """A context whose processes fail to start with what the dict says under "error"; it counts these attempts."""
    context = arrowpool.get_context("fork")
    said = {"error": None, "attempts": 0}

    class Process(multiprocessing.get_context("fork").Process):
        def start(self):
            if said["error"] is not None:
                said["attempts"] += 1
                raise said["error"]
            super().start()

    monkeypatch.setattr(arrowpool.ArrowPool, "Process", staticmethod(lambda ctx, *a, **k: Process(*a, **k)))
    return context, said


def kill_all(pool):
    for process in list(pool._pool):
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many"), MemoryError()], ids=["descriptors", "memory"])
def test_all_workers_are_gone_and_none_can_be_started_for_a_moment(starts, error):
    context, said = starts
    with context.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        said["error"] = error
        kill_all(pool)
        until = time.monotonic() + LIMIT
        while said["attempts"] < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        result = pool.map_async(abs, [-1, -2])
        said["error"] = None
        assert result.get(LIMIT) == [1, 2]
    pool.join()


@pytest.mark.parametrize(
    ("error", "at_once"),
    [(OSError(errno.EAGAIN, "no process"), False), (TypeError("never"), True)],
    ids=["passes", "stays"],
)
def test_no_worker_can_be_started_any_more(starts, monkeypatch, error, at_once):
    monkeypatch.setattr(supervisor, "_PATIENCE_SECONDS", 0.6)
    context, said = starts
    with context.Pool(2) as pool:
        result = pool.map_async(time.sleep, [60, 60], 1)
        said["error"] = error
        kill_all(pool)
        with pytest.raises((WorkerLostError, WorkerInitError)):
            result.get(LIMIT)
        until = time.monotonic() + LIMIT
        while not pool._broken:
            assert time.monotonic() < until
            time.sleep(0.01)
        with pytest.raises(WorkerInitError, match="no worker can be started"):
            pool.map(abs, [1])
        if not at_once:
            assert said["attempts"] > 1
    pool.join()


SCRIPT = """
import os, signal, sys, time
import numpy as np
import arrowpool
from tests.pool import tasks

if __name__ == "__main__":
    pool = arrowpool.get_context(sys.argv[1]).Pool(3)
    if sys.argv[2] == "stopped":
        if sys.argv[1] == "fork":  # else: before they have run any line of ours
            while len(pool._task_handler._workers) < 3:
                time.sleep(0.01)
        for process in pool._pool:
            os.kill(process.pid, signal.SIGSTOP)
    else:
        pool.map(tasks.first, [np.ones(100_000)] * 6, 1)
    if sys.argv[2] == "busy":
        pool.map_async(tasks.spin, [None] * 3, 1)
    print(*[process.pid for process in pool._pool], flush=True)
    sys.stdin.read()
"""


def runs(process):
    """Whether it has not ended. Nobody may come for what a killed parent leaves: it stays as a zombie then."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# No thread of theirs runs while they compute in one call, or are stopped: the kernel alone can end them then.
@pytest.mark.parametrize(
    "doing", ["idle", *(pytest.param(doing, marks=needs("sigio", "proc")) for doing in ("busy", "stopped"))]
)
def test_workers_do_not_outlive_a_killed_parent(ours, tmp_path, doing):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    parent = subprocess.Popen(
        [sys.executable, str(script), ours.method, doing],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    with parent:
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 3
        parent.kill()
        parent.wait(LIMIT)
        deadline = time.monotonic() + 5
        while left := [one for one in workers if runs(one)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


def test_a_terminated_pool_gives_all_memory_back(ours):
    pool = ours.pool(2)
    frames = pool.map(tasks.frame_of, range(8), 1)
    pool.map_async(tasks.wait_for, [60] * 8, 1)
    pool.terminate()
    pool.join()
    assert [float(frame.iloc[3, 3]) for frame in frames] == [float(i) for i in range(8)]
