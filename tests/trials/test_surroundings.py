"""A small contract in hostile surroundings: refused system calls, locked memory, full tables, handlers, limits, missing files.

Each case is a child process, in which the standard library's pool must keep the contract, too: else there is nothing to ask for.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import multiprocessing
import multiprocessing.popen_fork
import multiprocessing.synchronize
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool import WorkerLostError
from arrowpool.engine import ending
from arrowpool.memory import facilities
from tests.pool import tasks
from tests.trials import child, hostile
from tests.trials.hostile import REFUSALS, SURROUNDINGS, no_descriptor_left

LIMIT = 60.0  # seconds: machines are slow at times
#: Floats of an array that has a segment of its own.
LARGE = 40_000
#: A pool ends within this, with all its workers, and kills none of them: that would take longer.
END_SECONDS = 20.0


def write_here_and_there(array):
    """What was there, and the array, written to at every other page."""
    total = float(array.sum())
    array[::1024] = -1.0
    return total, array


def keep_and_check(array):
    """Whether what the last task kept is as it was, and keep this one."""
    last = getattr(keep_and_check, "last", None)
    fine = last is None or bool((last[0] == last[1]).all())
    keep_and_check.last = (array, float(array[0]))
    return fine


def contract(pool):
    """Private copies, both ways, again and again over the same memory; and what is kept stays."""
    kept = []
    for turn in range(3):
        values = [float(8 * turn + i) for i in range(8)]
        arrays = [np.full(LARGE, value) for value in values]
        for value, array in zip(values, arrays, strict=True):
            assert pool.apply(tasks.write_and_sum, (array,)) == LARGE * (value + 1), "a page of an earlier task"
        got = pool.map_async(write_here_and_there, arrays, 1).get(LIMIT)
        for value, array, (total, written) in zip(values, arrays, got, strict=True):
            assert total == LARGE * value, "a page of an earlier task"
            assert written[0] == -1.0
            assert written[1] == value
            assert (array == value).all(), "a worker wrote to the user's own"
        back = list(pool.imap(tasks.double, [array for _, array in got]))
        assert [array[1] for array in back] == [2 * value for value in values]
        frames = [pd.DataFrame({"a": array, "b": array + 1}) for array in arrays]
        doubled = list(pool.imap_unordered(tasks.double, iter(frames), 2))
        assert sorted(frame["a"][0] for frame in doubled) == [2 * value for value in values]
        assert all(pool.map(keep_and_check, arrays, 1))
        assert pool.map(tasks.square, range(100)) == [x * x for x in range(100)]
        for value, array in zip(values, arrays, strict=True):
            result = pool.apply(tasks.double, (array,))
            assert (result == 2 * value).all(), "a page that was written to here"
            result[::512] = -5.0  # the caller's own
            del result
        kept += [(value, written) for value, (_, written) in zip(values, got, strict=True)][::3]
        got[0][1][:] = 7.0  # the caller's own
        kept[-3][1][2] = 9.0
        for value, written in kept:
            assert written[3] == value or written[3] == 7.0
            assert written[1024] in (-1.0, 7.0)
    with pytest.raises(ValueError, match="on purpose"):
        pool.apply(tasks.fail, ("on purpose",))


def run_contract(library, **extras):
    ending._TERMINATE_SECONDS = 2 * END_SECONDS
    with library.get_context("fork").Pool(2, **extras) as pool:
        contract(pool)
        began = time.monotonic()
    pool.join()
    took = time.monotonic() - began
    assert took < END_SECONDS, f"the pool took {took:.1f} s to end"
    gc.collect()


def run_in(library, prepare, initializer):
    """The contract after these preparations; why not, when they cannot be made. In a child."""
    try:
        prepare()
    except pytest.skip.Exception as skipped:
        return str(skipped)
    run_contract(library, initializer=initializer)
    return None


def check(prepare, initializer=None):
    """Ours keeps the contract; an error will do where the standard library's pool does not keep it either."""
    ours = child.run(run_in, arrowpool, prepare, initializer, limit=LIMIT)
    if ours.wrong is not None and ours.raised is not None and ours.raised is not AssertionError:
        theirs = child.run(run_in, multiprocessing, prepare, initializer, limit=LIMIT / 3)
        if theirs.wrong is not None:
            pytest.skip(f"neither has the standard library's pool kept it: {theirs.raised}")
    skipped = ours.get()
    if skipped:
        pytest.skip(skipped)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings(name):
    check(SURROUNDINGS[name])


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_system_call(name):
    check(functools.partial(hostile.refuse, REFUSALS[name], errno=errno.EPERM))


@pytest.mark.parametrize("name", REFUSALS)
def test_a_system_call_that_this_kernel_lacks(name):
    check(functools.partial(hostile.refuse, REFUSALS[name], errno=errno.ENOSYS))


@pytest.mark.parametrize(
    "name", ["madvise", "fallocate", "PAGEMAP_SCAN", "F_SETSIG", "F_SETOWN", "F_ADD_SEALS", "prctl"]
)
def test_a_system_call_that_does_nothing(name):
    """A system that says yes, and takes an advice for no more than that."""
    check(functools.partial(hostile.refuse, REFUSALS[name], errno=0))


@pytest.mark.parametrize("name", [*sorted(facilities.NAMES), ",".join(sorted(facilities.NAMES))])
def test_done_without(name):
    check(functools.partial(hostile.do_without, name))


def test_all_of_them_refused():
    check(functools.partial(hostile.refuse, *REFUSALS.values(), errno=errno.EPERM))


def refuse_in_workers(*names):
    hostile.refuse(*(REFUSALS[name] for name in names), errno=errno.EPERM)


@pytest.mark.parametrize(
    ("name", "initializer"),
    {
        "locked memory": hostile.lock_memory,
        "memory locked as it is then": hostile.lock_what_is_there,
        "no madvise": functools.partial(refuse_in_workers, "madvise"),
        "nothing": functools.partial(refuse_in_workers, *REFUSALS),
        "own handlers": SURROUNDINGS["a handler for SIGTERM"],
        "SIGTERM ignored": SURROUNDINGS["SIGTERM ignored"],
        "no fallocate": functools.partial(refuse_in_workers, "fallocate"),
        "alarms": SURROUNDINGS["alarms all the time"],
        "no rights": SURROUNDINGS["no rights"],
        "no /proc": SURROUNDINGS["no /proc"],
        "an eager collector": SURROUNDINGS["a collection at every object"],
    }.items(),
)
def test_workers_with_less(name, initializer):
    """What an initializer does in each worker."""
    check(lambda: None, initializer)


# Full tables of descriptors


def fork_without_descriptors():
    """A child that is forked then sees what was there, whatever becomes of it here."""
    with arrowpool.get_context("fork").Pool(2) as pool:
        kept = pool.map(tasks.double, [np.full(LARGE, float(i)) for i in range(4)], 1)
        go, tell = multiprocessing.Pipe()
        with no_descriptor_left():
            try:
                pid = os.fork()
            except OSError:
                pid = -1  # refused: also an answer
            if pid == 0:
                go.recv()
                os._exit(0 if [array[7] for array in kept] == [0.0, 2.0, 4.0, 6.0] else 1)
        if pid == -1:
            contract(pool)
            return
        del kept
        gc.collect()
        for turn in range(3):
            pool.map(tasks.double, [np.full(LARGE, 77.0 + turn)] * 8, 1)
        tell.send("!")
        assert os.waitpid(pid, 0)[1] == 0, "the child saw memory that was used again"
        contract(pool)
    pool.join()


def call_without_descriptors():
    """A call works, or fails with an error of its own; and the pool goes on."""
    with arrowpool.get_context("fork").Pool(2) as pool:
        pool.map(tasks.square, range(4))
        for arrays in ([np.ones(LARGE)] * 4, [np.ones(10)] * 4):
            with no_descriptor_left():
                with contextlib.suppress(OSError):
                    assert [array[0] for array in pool.map_async(tasks.double, arrays, 1).get(LIMIT)] == [2.0] * 4
                with contextlib.suppress(OSError):
                    assert list(pool.imap(tasks.first, arrays)) == [1.0] * 4
        contract(pool)
    pool.join()


def lose_workers_without_descriptors():
    """Workers that cannot be replaced now are replaced later."""
    with arrowpool.get_context("fork").Pool(2) as pool:
        pool.map(tasks.square, range(4))
        kept = pool.apply(tasks.double, (np.ones(LARGE),))
        with no_descriptor_left():
            os.kill(pool._pool[0].pid, signal.SIGKILL)
            with contextlib.suppress(OSError, WorkerLostError):
                assert pool.map_async(tasks.first, [np.ones(LARGE)] * 4, 1).get(LIMIT) == [1.0] * 4
        deadline = time.monotonic() + 10
        while len(pool._task_handler.workers) < 2:
            assert time.monotonic() < deadline, "no worker was started again"
            time.sleep(0.01)
        contract(pool)
        assert kept[0] == 2.0
    pool.join()


def pools_without_descriptors():
    """A pool that cannot be made is an `OSError`, and leaves nothing."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with no_descriptor_left(), pytest.raises(OSError, match=r"[Tt]oo many open files|descriptor"):
        arrowpool.get_context("fork").Pool(2)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    run_contract(arrowpool)


def lend_without_descriptors():
    """Results of one pool go into another one that has no descriptor for them."""
    with arrowpool.get_context("fork").Pool(2) as first, arrowpool.get_context("fork").Pool(2) as second:
        second.map(tasks.square, range(4))
        results = first.map(tasks.double, [np.full(LARGE, float(i)) for i in range(4)], 1)
        with no_descriptor_left():
            assert second.map_async(tasks.first, results, 1).get(LIMIT) == [0.0, 2.0, 4.0, 6.0]
        assert second.map_async(tasks.first, results, 1).get(LIMIT) == [0.0, 2.0, 4.0, 6.0]
        contract(second)


@pytest.mark.parametrize(
    "run",
    [
        fork_without_descriptors,
        call_without_descriptors,
        lose_workers_without_descriptors,
        pools_without_descriptors,
        lend_without_descriptors,
    ],
)
def test_no_descriptor_is_left(run):
    child.run(run, limit=LIMIT).get()
