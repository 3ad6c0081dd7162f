"""Of a process that is gone only that memory stays which somebody may still read."""

from __future__ import annotations

import gc
import os
import time

import numpy as np
import pytest

import arrowpool
from arrowpool import WorkerLostError
from arrowpool.memory import arena, forks, orphans
from arrowpool.memory.arena import Arena
from arrowpool.waiting import wait_readable
from tests.conftest import is_arena, needs
from tests.pool import tasks

SIZE = 100_000
LIMIT = 60
#: What one such result takes, in whole pages.
ONE = -(-SIZE * 8 // os.sysconf("SC_PAGESIZE")) * os.sysconf("SC_PAGESIZE")


def arenas(pid="self"):
    """Inode and bytes of the arenas that a process has open."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        try:
            target, status = os.readlink(path), os.stat(path)
        except OSError:
            continue
        if is_arena(target):
            found[status.st_ino] = status.st_blocks * 512
    return found


def shared_bytes(pid="self"):
    return sum(arenas(pid).values())


@needs("fallocate")
@pytest.mark.parametrize("how", ["terminated", "closed", "killed"])
def test_a_small_result_keeps_its_own_memory_only(ours, how):
    with ours.pool(1) as pool:
        results = [pool.apply(tasks.double, (np.full(SIZE, float(i)),)) for i in range(40)]
        assert shared_bytes() >= 40 * ONE
        kept, also = results[5], results[30]
        if how == "killed":
            # Before another worker is forked, which would see them all.
            del results
            with pytest.raises(WorkerLostError):
                pool.apply(tasks.die, ("sigkill",))
            assert pool.apply(tasks.first, (np.ones(SIZE),)) == 1.0  # the parent knows of it by now
            assert shared_bytes() <= 6 * ONE  # with arguments
        elif how == "closed":
            pool.close()
            pool.join()
    pool.join()
    if how != "killed":
        assert shared_bytes() == 40 * ONE, "all of them can be read"
        del results
    gc.collect()
    assert shared_bytes() == 2 * ONE
    assert (kept == 10).all()
    assert (also == 60).all()
    del also
    gc.collect()
    assert shared_bytes() == ONE
    assert (kept == 10).all()


@needs("fallocate")
def test_memory_of_a_dead_owner_stays_for_a_forked_child():
    with arrowpool.get_context("fork").Pool(1) as pool:
        kept = pool.apply(tasks.double, (np.ones(SIZE),))
        seen = pool.apply(tasks.double, (np.ones(SIZE),))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0 if (seen == 2).all() else 1)
        os.close(reader)
    pool.join()
    del seen
    gc.collect()
    assert shared_bytes() == 2 * ONE
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    forks.settle_forks()
    assert shared_bytes() == ONE
    assert (kept == 2).all()


@pytest.mark.parametrize("how", ["replaced", "killed"])
def test_what_a_lost_worker_has_leased_stays_for_the_processes_it_has_forked(ours, how, tmp_path, monkeypatch):
    monkeypatch.setattr("arrowpool.engine.sending.IDLE_SECONDS", 0.05)
    gate, answer = tmp_path / "gate", tmp_path / "answer"
    for path in (gate, answer):
        os.mkfifo(path)
    # The process ends with this block, however that ends: it does not have these files.
    with (
        ours.pool(1, maxtasksperchild=1 if how == "replaced" else None) as pool,
        open(gate, "r+b", 0) as opened,
        open(os.open(answer, os.O_RDONLY | os.O_NONBLOCK)) as said,
    ):
        before = len(os.listdir("/proc/self/fd"))
        pool.apply(tasks.fork_a_reader, (np.ones(SIZE), str(gate), str(answer)))
        if how == "killed":
            with pytest.raises(WorkerLostError):
                pool.apply(tasks.die, ("sigkill",))
        for i in range(2, 6):
            assert pool.map(tasks.first, [np.full(SIZE, float(i)) for _ in range(4)], 1) == [i] * 4
        opened.write(b"!")
        assert wait_readable([said], LIMIT)
        assert said.read() == "1.0 to 1.0"
        deadline = time.monotonic() + LIMIT
        while pool.stats().live_segments or len(os.listdir("/proc/self/fd")) > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_idle_pool_keeps_nothing_of_pools_that_are_gone(monkeypatch):
    monkeypatch.setattr("arrowpool.worker.loop.IDLE_SECONDS", 0.05)
    with arrowpool.get_context("fork").Pool(1) as reading:
        (worker,) = reading._pool
        own = set(arenas(worker.pid))
        with arrowpool.get_context("fork").Pool(2) as making:
            results = making.map(tasks.double, [np.ones(SIZE)] * 20, 1)
            assert reading.map(tasks.first, results, 1) == [2.0] * 20
        making.join()
        del results
        gc.collect()
        deadline = time.monotonic() + LIMIT
        while not set(arenas(worker.pid)) <= own:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert reading.apply(tasks.first, (np.ones(SIZE),)) == 1.0
    reading.join()


def test_a_forked_process_does_not_keep_an_arena():
    owner = Arena(arena.create(1 << 24))
    inode = os.fstat(owner.fd).st_ino
    child = os.fork()
    if child == 0:
        os._exit(0 if inode not in arenas() else 1)
    assert inode in arenas()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    owner.close()


@needs("fallocate")
def test_results_of_many_workers_keep_few_descriptors_and_their_own_memory_only(ours, monkeypatch):
    if ours.method != "fork":  # each result costs a worker, and these take long to start
        monkeypatch.setattr(orphans, "KEPT", 6)
    count = orphans.KEPT + 20

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    with ours.pool(2, maxtasksperchild=1) as pool:
        results = pool.map(tasks.double, [np.full(SIZE, float(i)) for i in range(count)], 1)
        assert descriptors() < before + orphans.KEPT + 30
        assert [result[0] for result in results] == [2.0 * i for i in range(count)]
    pool.join()
    assert descriptors() <= before + orphans.KEPT + 5
    results[0][7] = -1.0
    assert results[0][7] == -1.0
    # It cannot be lent any more, and is copied.
    with ours.pool(2) as pool:
        assert pool.map(tasks.first, results, 1) == [2.0 * i for i in range(count)]
        pool.terminate()
        pool.join()
    del results[1:]
    gc.collect()
    assert results[0][:2].tolist() == [0.0, 0.0]
    del results
    gc.collect()
    assert descriptors() <= before + 5
