"""A worker keeps freed memory warm for the next task, and gives it back."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest

import arrowpool
from arrowpool.memory import facilities, heap, platform
from arrowpool.memory.heap import Heap, raised
from arrowpool.tuning import HEAP_KEPT, KIB, LARGEST_KEPT, MIB
from tests.conftest import needs
from tests.trials import child

pytestmark = [pytest.mark.skipif(platform.glibc() is None, reason="the C library is not glibc"), needs("mallopt")]
ARRAYS, ARRAY = 40, MIB
PAGES = ARRAYS * ARRAY // resource.getpagesize()

#: Prints the page faults of such a task: in the parent before there was a worker, in a warm worker, in the parent after that.
PROGRAM = """
import sys
import arrowpool
from tests.memory.test_heap import faults
if __name__ == "__main__":
    counts = [faults()]
    with arrowpool.get_context(sys.argv[1]).Pool(1) as pool:
        pool.apply(faults)
        counts.append(pool.apply(faults))
    pool.join()
    counts.append(faults())
    print(*counts)
"""
KEEPS_LITTLE = {"MALLOC_TRIM_THRESHOLD_": str(64 * KIB), "MALLOC_MMAP_THRESHOLD_": str(64 * KIB)}


def faults():
    """Page faults of a task that makes temporaries."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ARRAYS):
        np.ones(ARRAY, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def private(pid=None):
    return psutil.Process(pid).memory_full_info().uss


def leave_a_hole(nbytes):
    """Free memory that something above it in the heap keeps from being given back. Returns what does."""
    arrays = [np.ones(ARRAY, dtype=np.uint8) for _ in range(nbytes // ARRAY)]
    above = [np.ones(ARRAY, dtype=np.uint8)]
    arrays.clear()
    return above


def fill_holes():
    """Take what the tests before have left free in the heap, so that more comes from the kernel. Returns what takes it."""
    maps = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    start, end = (int(maps[part].split("-")[part], 16) for part in (0, -1))
    held = [np.ones(ARRAY, dtype=np.uint8)]
    while start <= held[-1].ctypes.data < end:
        held.append(np.ones(ARRAY, dtype=np.uint8))
    return held


def in_new_process(run):
    """What a function of this module returns in a process whose heap has seen no other tests."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run)


def in_child_without(name, run):
    def without():
        os.environ["ARROWPOOL_WITHOUT"] = name
        facilities._without.cache_clear()
        return run()

    return child.run(without).get()


@pytest.mark.parametrize("without", ["", "mallopt"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_temporaries_stay_warm_in_workers_only(method, without):
    environment = {**os.environ, **KEEPS_LITTLE, "ARROWPOOL_WITHOUT": without}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, method],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    before, worker, after = map(int, done.stdout.split())
    assert min(before, after) > PAGES / 2
    assert worker > PAGES / 2 if without else worker < PAGES / 20


@pytest.mark.parametrize(
    ("kept", "environment", "expected"),
    [
        (64 * MIB, {}, (64 * MIB, 32 * MIB)),
        (8 * MIB, {}, (8 * MIB, 4 * MIB)),
        (0, {}, (128 * KIB, 128 * KIB)),
        (64 * MIB, KEEPS_LITTLE, (64 * MIB, 32 * MIB)),
        (64 * MIB, {"MALLOC_TRIM_THRESHOLD_": str(1 << 30)}, (1 << 30, 32 * MIB)),
        (64 * MIB, {"MALLOC_MMAP_THRESHOLD_": "0x8000000", "MALLOC_TRIM_THRESHOLD_": "many"}, (64 * MIB, 128 * MIB)),
        (64 * MIB, {"MALLOC_TRIM_THRESHOLD_": str(1 << 40)}, ((1 << 31) - 1, 32 * MIB)),
        (
            64 * MIB,
            {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.trim_threshold=134217728:x"},
            (128 * MIB, 32 * MIB),
        ),
    ],
)
def test_what_the_user_has_set_higher_stays(kept, environment, expected):
    assert raised(kept, environment) == dict(zip(("trim_threshold", "mmap_threshold"), expected, strict=True))


def test_many_processes_keep_little_each(monkeypatch):
    monkeypatch.setattr(heap, "memory", lambda: (1 << 30, 1 << 29))

    def thresholds():
        return [Heap(processes)._thresholds["trim_threshold"] for processes in (1, 4, 1000)]

    assert child.run(thresholds).get() == [HEAP_KEPT, 16 * MIB, 128 * KIB]


def give_back():
    others = fill_holes()
    kept = Heap(1)
    base = private()
    above = leave_a_hole(HEAP_KEPT)
    full = private() - base
    kept.worked()
    holds = kept.holds_memory
    kept.trim()
    return full, holds, private() - base, kept.holds_memory, len(above), len(others)


def test_what_is_given_back():
    full, held, rest, holds, *_ = in_new_process(give_back)
    assert held
    assert not holds
    assert full > HEAP_KEPT * 3 / 4
    assert rest < HEAP_KEPT / 4


def give_back_at_times():
    others = fill_holes()
    kept = Heap(1)
    base = private()
    now = time.monotonic()
    above = leave_a_hole(HEAP_KEPT)
    grown = []
    for seconds in (2.0, heap.WARM_SECONDS + 1):
        with mock.patch.object(heap.time, "monotonic", lambda seconds=seconds: now + seconds):
            kept.worked()
        grown.append(private() - base)
    return *grown, len(above), len(others)


def test_a_busy_worker_gives_back_at_times():
    early, late, *_ = in_new_process(give_back_at_times)
    assert early > HEAP_KEPT * 3 / 4
    assert late < HEAP_KEPT / 4


def give_back_where_memory_is_short():
    others = fill_holes()
    answers = iter((False, False, True, False))
    with mock.patch.multiple(heap, _LOOK_SECONDS=0.0, is_tight=lambda: next(answers)):
        kept = Heap(1)
        counts = []
        for _ in range(3):
            kept.worked()
            faults()
            counts.append(faults())
    return *counts, len(others)


def test_nothing_is_kept_where_memory_is_short():
    ample, short, again, _ = in_new_process(give_back_where_memory_is_short)
    assert max(ample, again) < PAGES / 20
    assert short > PAGES / 2


def test_without_it_nothing_is_set():
    def run():
        unchanged = Heap(1)
        unchanged.worked()
        unchanged.trim()
        return unchanged.holds_memory

    assert not in_child_without("mallopt", run)


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    other = Heap(1)
    other.worked()
    other.trim()
    assert not other.holds_memory


def test_an_idle_worker_gives_back(monkeypatch):
    monkeypatch.setattr("arrowpool.worker.loop.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("arrowpool.worker.loop.WARM_SECONDS", 0.1)
    monkeypatch.setattr(heap, "is_tight", lambda: False)
    with arrowpool.get_context("fork").Pool(1) as pool:
        (worker,) = pool._pool
        base = pool.apply(private)
        assert pool.apply(partial(keep_and_tell, HEAP_KEPT)) - base > HEAP_KEPT * 3 / 4
        deadline = time.monotonic() + 60
        while private(worker.pid) - base > HEAP_KEPT / 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert pool.apply(faults) >= 0
    pool.join()


kept_above = []


def keep_and_tell(nbytes):
    kept_above.append(leave_a_hole(nbytes))
    return private()


def test_the_largest_arrays_are_not_kept():
    def run():
        Heap(1)
        base = private()
        np.ones(4 * LARGEST_KEPT, dtype=np.uint8)
        return private() - base

    assert child.run(run).get() < MIB
