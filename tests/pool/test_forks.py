"""Forks and the user's own code: neither waits for the other; pools in workers; a child with its parent's pool."""

from __future__ import annotations

import asyncio
import functools
import gc
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import arrowpool
from arrowpool import forking
from tests.pool import tasks

LIMIT = 30


class Guarded:
    """Cannot be pickled without the lock, and says when somebody wants it."""

    def __init__(self, lock, wanted):
        self.lock, self.wanted = lock, wanted

    def __reduce__(self):
        self.wanted.set()
        assert self.lock.acquire(timeout=LIMIT)
        self.lock.release()
        return int, (7,)


def begun(work):
    """Another thread that does this; and where its result will be."""
    results = queue.SimpleQueue()
    threading.Thread(target=lambda: results.put(work()), daemon=True).start()
    return results


USES_OF_ONE = {
    "argument": lambda pool, one: pool.apply(abs, (one,)),
    "item": lambda pool, one: pool.map(abs, [one])[0],
    "function": lambda pool, one: pool.apply(functools.partial(abs, one)),
    "function of a map": lambda pool, one: pool.map(functools.partial(max, one), [1])[0],
    "share": lambda pool, one: pool.share(one).__enter__() and 7,
}


@pytest.mark.parametrize("how", USES_OF_ONE)
def test_a_pool_is_made_while_another_pickles(ours, how):
    """With a lock held that the pickling wants: the fork must not wait for it."""
    lock, wanted = threading.Lock(), threading.Event()
    guarded = Guarded(lock, wanted)
    with arrowpool.get_context("fork").Pool(1) as one:
        with lock:
            result = begun(lambda: USES_OF_ONE[how](one, guarded))
            assert wanted.wait(LIMIT)
            with ours.pool(1) as other:
                assert other.apply_async(abs, (-3,)).get(LIMIT) == 3
            other.join()
        assert result.get(timeout=LIMIT) == 7
    one.join()


#: The pool that results use while they are rebuilt, and whether they make one of their own.
_helper = []


def asks_a_pool(x):
    """Rebuilt by asking the other pool, in the thread that hands out this pool's results."""
    return _helper[0].apply_async(abs, (x,)).get(LIMIT)


def makes_a_pool(x):
    with arrowpool.get_context("fork").Pool(1) as pool:
        value = pool.apply_async(abs, (x,)).get(LIMIT)
    pool.join()
    return value


def forks_a_child_that_makes_a_pool(x):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(makes_a_pool(x)))
    child.start()
    child.join(LIMIT)
    value = None if queue.empty() else queue.get()
    child.kill()
    child.join()
    child.close()
    queue.close()
    return value


class RebuiltBy:
    def __init__(self, function, x):
        self.function, self.x = function, x

    def __reduce__(self):
        return self.function, (self.x,)


@pytest.mark.parametrize("function", [asks_a_pool, makes_a_pool, forks_a_child_that_makes_a_pool])
def test_a_result_that_needs_processes_to_be_rebuilt(function):
    context = arrowpool.get_context("fork")
    with context.Pool(1) as one, context.Pool(1) as helper:
        _helper[:] = [helper]
        assert one.apply_async(RebuiltBy, (function, -5)).get(LIMIT) == 5
        _helper.clear()
    for pool in (one, helper):
        pool.join()


class Slow:
    def __init__(self, go_on):
        self.go_on = go_on

    def __reduce__(self):
        assert self.go_on.wait(LIMIT)
        return int, ()


def test_slow_pickling_in_one_pool_delays_no_other(ours):
    go_on = threading.Event()
    with ours.pool(1) as slow, ours.pool(1) as other:
        waiting = begun(lambda: slow.map(abs, [Slow(go_on)]))
        array = np.ones(100_000)
        for _ in range(3):
            assert other.apply_async(tasks.double, (array,)).get(LIMIT)[5] == 2.0
        go_on.set()
        assert waiting.get(timeout=LIMIT) == [0]
    for pool in (slow, other):
        pool.join()


class NoDaemonProcess(multiprocessing.get_context("fork").Process):
    """As many programs have it: workers that may have children."""

    @property
    def daemon(self):
        return False

    @daemon.setter
    def daemon(self, value):
        pass


class NoDaemonContext(type(multiprocessing.get_context("fork"))):
    Process = NoDaemonProcess


def nested(x):
    with arrowpool.get_context("fork").Pool(2) as inner:
        doubled = inner.map_async(tasks.double, [np.full(100_000, float(x))] * 4, 1).get(LIMIT)
    inner.join()
    return float(sum(one[3] for one in doubled))


def test_a_pool_in_a_worker_that_may_have_children():
    with arrowpool.Pool(2, context=NoDaemonContext()) as outer:
        assert outer.map_async(nested, range(4), 1).get(LIMIT) == [0.0, 8.0, 16.0, 24.0]
        # Also in one that was forked while the pool's threads were at work.
        for _ in range(2):
            with pytest.raises(arrowpool.WorkerLostError):
                outer.apply_async(tasks.die, ("sigkill",)).get(LIMIT)
        assert outer.map_async(nested, range(4), 1).get(LIMIT) == [0.0, 8.0, 16.0, 24.0]
    outer.join()


def test_workers_are_replaced_while_a_module_that_uses_them_is_imported(tmp_path, monkeypatch):
    """The import ends only after the workers have run: they are not made to wait for it, nor it for them."""
    name = f"uses_a_pool_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        "import arrowpool, os\n"
        "with arrowpool.get_context('fork').Pool(1, maxtasksperchild=1) as pool:\n"
        f"    PIDS = [pool.apply_async(os.getpid).get({LIMIT}) for _ in range(4)]\n"
        "pool.join()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", 0.1)
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    assert len(set(__import__(name).PIDS)) == 4


def in_a_child(work):
    """What `work` says of itself in a forked child, which is not given long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT)
        with open(writer, "w") as file:
            try:
                file.write(str(work()))
            except BaseException as error:
                file.write(repr(error))
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return said


USES = {
    "apply": lambda pool: pool.apply(abs, (-1,)),
    "apply_async": lambda pool: pool.apply_async(abs, (-1,)),
    "map": lambda pool: pool.map(abs, [-1]),
    "map_async": lambda pool: pool.map_async(abs, [-1]),
    "starmap": lambda pool: pool.starmap(max, [(1, 2)]),
    "starmap_async": lambda pool: pool.starmap_async(max, [(1, 2)]),
    "imap": lambda pool: pool.imap(abs, [-1]),
    "imap_unordered": lambda pool: pool.imap_unordered(abs, [-1], chunksize=2),
    "share": lambda pool: pool.share(np.ones(5)).__enter__(),
    "join": lambda pool: (pool.close(), pool.join()),
}


def test_a_child_that_uses_its_parents_pool(our_pool, tmp_path):
    """An error at once: its parent's threads are not there. And whatever the child does, the parent goes on."""
    gate = tmp_path / "go on"
    array = np.ones(3)
    there, finished = our_pool.apply_async(abs, (-2,)), our_pool.imap(abs, [-3, -4])
    there.wait(LIMIT)
    assert finished.next(LIMIT) == 3
    while not finished.results.unread():
        time.sleep(0.005)
    running = our_pool.apply_async(tasks.wait_for_file, (array, str(gate)))
    many = our_pool.map_async(functools.partial(tasks.wait_for_file, array), [str(gate)] * 3)
    ordered = our_pool.imap(functools.partial(tasks.wait_for_file, array), [str(gate)])
    chunked = our_pool.imap_unordered(functools.partial(tasks.wait_for_file, array), [str(gate)] * 2, chunksize=2)
    waits = {
        "get": running.get,
        "get with a limit": lambda: many.get(60),
        "wait": running.wait,
        "next": ordered.next,
        "a loop": lambda: list(chunked),
        "await": lambda: asyncio.run(asyncio.wait_for(running, 20)),
        "async for": lambda: asyncio.run(asyncio.wait_for(anext(aiter(ordered)), 20)),
    }
    for how, use in {**{name: functools.partial(use, our_pool) for name, use in USES.items()}, **waits}.items():
        said = in_a_child(use)
        assert said == f"ForkedPoolError({os.getpid()})", how
    assert in_a_child(lambda: (there.get(), finished.next(1))) == "(2, 4)"
    for end in (our_pool.close, our_pool.terminate, lambda: our_pool.__exit__(None, None, None), gc.collect):
        in_a_child(end)
    gate.touch()
    assert running.get(LIMIT) == 1.0
    assert many.get(LIMIT) == [1.0] * 3
    assert ordered.next(LIMIT) == 1.0
    assert list(chunked) == [1.0] * 2
    assert our_pool.map_async(abs, range(-3, 0), 1).get(LIMIT) == [3, 2, 1]


def test_a_child_that_ends_as_programs_do(tmp_path):
    """What `multiprocessing` has registered for the end of a program ends the children of that program only."""
    program = """
        import os, sys, tempfile, arrowpool
        from tests.pool import tasks

        gate = os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "go on")
        with arrowpool.get_context("fork").Pool(1) as pool:
            result = pool.apply_async(tasks.wait_for_file, ([1.0], gate))
            pid = os.fork()
            if not pid:
                sys.exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
            open(gate, "w").close()
            print(result.get(30))
        pool.join()
    """
    done = subprocess.run(
        # Since Python 3.12, each fork of a process with threads is warned of.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1.0\n", "")


def test_a_child_that_lets_go_of_its_parents_pool_says_nothing(ours, recwarn):
    held = [ours.pool(1)]
    # Since Python 3.12, each fork of a process with threads is warned of.
    said = in_a_child(
        lambda: (
            held.clear(),
            gc.collect(),
            [str(one.message) for one in recwarn if "multi-thr" not in str(one.message)],
        )[-1]
    )
    assert said == "[]"
    assert held[0].apply_async(abs, (-1,)).get(LIMIT) == 1
    held[0].terminate()
    held[0].join()


def test_a_child_that_uses_its_parents_executor(ours, tmp_path):
    gate = tmp_path / "go on"
    with arrowpool.ProcessPoolExecutor(1, mp_context=ours.context) as executor:
        future = executor.submit(tasks.wait_for_file, np.ones(3), str(gate))
        for use in (
            lambda: executor.submit(abs, -1),
            lambda: list(executor.map(abs, [-1])),
            future.result,
            future.exception,
            executor.terminate_workers,
        ):
            assert in_a_child(use) == f"ForkedPoolError({os.getpid()})"
        assert in_a_child(executor.shutdown) == "None"
        gate.touch()
        assert future.result(LIMIT) == 1.0
        assert executor.submit(abs, -1).result(LIMIT) == 1
