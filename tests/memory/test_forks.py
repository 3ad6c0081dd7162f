"""What forked children can see is not given back while they are there; and waiting for them costs next to nothing."""

from __future__ import annotations

import gc
import itertools
import logging.handlers
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from arrowpool.memory import facilities, forks
from arrowpool.memory.lease import Account, Lease
from tests.conftest import needs
from tests.memory import hostile

SLOTS = 4096


class Child:
    """A forked process that does nothing until it is ended."""

    def __init__(self):
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                signal.pause()

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def flags():
    """Release flags that children share."""
    memory = np.frombuffer(mmap.mmap(-1, SLOTS), dtype=np.uint8)
    memory[:] = 0
    return memory


@pytest.fixture
def children():
    """Starts children; ends what is left of them."""
    started = []

    def start():
        started.append(Child())
        return started[-1]

    yield start
    for child in started:
        try:
            child.end()
        except (ProcessLookupError, ChildProcessError):
            continue
    forks.settle_forks()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def released(flags):
    forks.settle_forks()
    return np.flatnonzero(flags).tolist()


@needs("proc")
def test_children_that_see_the_same_share_a_descriptor(flags, children):
    account = Account(flags)
    held = [Lease(account, slot, 0, 1) for slot in range(3)]
    before = descriptors()
    first = [children() for _ in range(10)]
    assert descriptors() == before + 1
    del held[0]
    assert released(flags) == []
    second = [children() for _ in range(10)]
    assert descriptors() == before + 2
    for child in first[:-1]:
        child.end()
    assert released(flags) == []
    first[-1].end()
    assert released(flags) == [0]
    held.clear()
    assert released(flags) == [0]
    assert descriptors() == before + 1
    for child in second:
        child.end()
    assert released(flags) == [0, 1, 2]
    assert descriptors() == before


def test_children_that_are_gone_cost_nothing_while_nothing_ends(flags, children):
    """Nobody settles in between, as in an idle pool."""
    held = [Lease(Account(flags), 0, 0, 1)]
    before = descriptors()
    for slot in range(1, 30):
        children().end()
        held.append(Lease(Account(flags), slot, 0, 1))
        children().end()
    assert descriptors() <= before + 1
    held.clear()
    assert released(flags) == list(range(30))


def test_what_is_over_here_does_not_wait_for_later_children(flags, children):
    right = Lease(Account(flags), 0, 0, 1)
    first = children()
    del right
    other = Lease(Account(flags), 1, 0, 1)
    children()
    assert released(flags) == []
    first.end()
    assert released(flags) == [0]
    del other
    assert released(flags) == [0]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_it_waits_for_all_that_see_it_whichever_ends_first(flags, children, order):
    account = Account(flags)
    held = [Lease(account, 0, 0, 1)]
    three = []
    for slot in range(1, 4):
        three.append(children())
        held.append(Lease(account, slot, 0, 1))
    held.clear()
    assert released(flags) == [3]  # begun after the last fork
    gone = set()
    for index in order:
        three[index].end()
        gone.add(index)
        # Grant n is seen by the children from the n-th on.
        assert released(flags) == [n for n in range(4) if gone >= set(range(n, 3))]


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_grants_forks_and_ends(flags, children, seed):
    """Against a model: each grant with the children that were forked while it was held."""
    chance = random.Random(seed)
    account = Account(flags)
    held, seen_by, alive = {}, {}, []
    for slot in range(60):
        what = chance.choice(["grant", "grant", "drop", "drop", "fork", "fork", "end"])
        if what == "grant":
            held[slot], seen_by[slot] = Lease(account, slot, 0, 1), set()
        elif what == "drop" and held:
            del held[chance.choice(list(held))]
        elif what == "fork":
            child = children()
            alive.append(child)
            for seeing in held:
                seen_by[seeing].add(child)
        elif what == "end" and alive:
            alive.pop(chance.randrange(len(alive))).end()
        assert released(flags) == [n for n in seen_by if n not in held and seen_by[n].isdisjoint(alive)]


def test_a_child_releases_nothing(flags, children):
    right = Lease(Account(flags), 5, 0, 1)
    pid = os.fork()
    if pid == 0:
        del right
        gc.collect()
        forks.settle_forks()
        own = Lease(Account(flags), 6, 0, 1)
        del own
        os._exit(int(flags[5]) + 2 * int(flags[6]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    flags[6] = 0
    del right
    assert released(flags) == [5]


def test_grandchildren_see_it_too(flags):
    reader, writer = os.pipe()
    right = Lease(Account(flags), 0, 0, 1)
    pid = os.fork()
    if pid == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os.close(writer)
            os.read(reader, 1)
        os._exit(0)
    os.waitpid(pid, 0)
    del right
    assert released(flags) == []
    os.close(writer)
    os.close(reader)
    while released(flags) != [0]:  # it is nobody's child here: nothing tells when it is gone
        os.sched_yield()


def test_without_proc_each_child_has_a_pipe(flags, children, monkeypatch):
    monkeypatch.setenv("ARROWPOOL_WITHOUT", "proc")
    facilities._without.cache_clear()
    try:
        right = Lease(Account(flags), 0, 0, 1)
        two = [children(), children()]
        del right
        two[0].end()
        assert released(flags) == []
        two[1].end()
        assert released(flags) == [0]
    finally:
        facilities._without.cache_clear()


def test_no_descriptor_at_a_fork(flags):
    """Of such a child nothing is known: what it sees is kept."""

    def run():
        ignored, said = [], logging.handlers.BufferingHandler(100)
        sys.unraisablehook = lambda what: ignored.append(what.exc_value)
        logging.getLogger("arrowpool").addHandler(said)
        account = Account(flags)
        early, held = Lease(account, 0, 0, 1), Lease(account, 1, 0, 1)
        children = [Child()]
        del early
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        children += [Child(), Child()]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late = Lease(account, 2, 0, 1)
        children.append(Child())
        del held, late
        for child in children:
            child.end()
        words = [record.getMessage() for record in said.buffer]
        return not ignored and released(flags) == [0, 2] and len(words) == 1 and "no descriptor was free" in words[0]

    assert hostile.in_child(run)


def test_threads_that_end_grants_while_others_fork(flags):
    """Whatever ends while a fork is under way: no child finds released what it was forked with, and nothing is left."""
    account = Account(flags)
    wrong, stop = [], threading.Event()

    def churn(slot):
        while not stop.is_set():
            right = Lease(account, slot, 0, 1)
            del right
            flags[slot] = 0

    threads = [threading.Thread(target=churn, args=(slot,)) for slot in range(1, 4)]
    before = descriptors()
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            held = Lease(account, 0, 0, 1)
            flags[0] = 0
            child = Child()
            del held
            forks.settle_forks()
            wrong.append(int(flags[0]))
            child.end()
            while released(flags[:1]) != [0]:
                os.sched_yield()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not any(wrong)
    forks.settle_forks()
    assert descriptors() == before
    assert not forks._deferred


#: A program with fork hooks of its own, which run while the lease's are done with theirs, or not yet.
NESTED = textwrap.dedent(
    """
    import mmap, os, signal, threading
    import numpy as np

    inner = []

    def hook():
        if inner:
            inner.pop()()

    os.register_at_fork(before=hook)
    from arrowpool.memory.forks import settle_forks, watch_forks
    from arrowpool.memory.lease import Account, Lease

    flags = np.frombuffer(mmap.mmap(-1, 64), dtype=np.uint8)
    account = Account(flags)
    held = {}

    def fork():
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        return pid

    def end(pid):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def lease(slot):
        held[slot] = Lease(account, slot, 0, 1)

    def released():
        settle_forks()
        return np.flatnonzero(flags).tolist()

    watch_forks()
    signal.alarm(20)
    before = len(os.listdir("/dev/fd"))
    """
)


def run_nested(code):
    done = subprocess.run(
        [sys.executable, "-c", NESTED + textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_a_fork_in_a_fork(order):
    """As by a signal handler that runs in another library's fork hook: both children are waited for."""
    run_nested(f"""
        lease(0)
        children = []
        inner.append(lambda: children.append(fork()))
        children.append(fork())
        held.clear()
        assert released() == []
        end(children[{order[0]}])
        assert released() == []
        end(children[{order[1]}])
        assert released() == [0]
        assert len(os.listdir("/dev/fd")) == before
        lease(1)
        child = fork()
        held.clear()
        end(child)
        assert released() == [0, 1]
        other = threading.Thread(target=lambda: lease(2))
        other.start()
        other.join()
    """)


@pytest.mark.parametrize("first", ["", "lease(0)"], ids=["nothing before", "one before"])
def test_a_grant_that_begins_in_a_fork(first):
    """The child sees it, though the fork was counted before."""
    run_nested(f"""
        {first or "pass"}
        inner.append(lambda: lease(1))
        child = fork()
        held.clear()
        assert released() == []
        end(child)
        assert released() == sorted({{1, *({[0] if first else []})}})
        assert len(os.listdir("/dev/fd")) == before
    """)


@pytest.mark.parametrize(
    "hook", ["shut", "_before_fork", "_after_in_parent", "_add_children", "_close_passed", "_settle"]
)
def test_an_exception_in_a_hook(hook):
    """As of a signal handler, at any line: other forks, and other threads, go on, and nothing is released too early."""
    run_nested(f"""
        import logging, sys

        sys.unraisablehook = lambda what: None
        logging.disable()
        line = 0
        while True:
            lease(0)
            flags[0] = 0
            lines = 0

            def trace(frame, event, arg):
                global lines
                if frame.f_code.co_name != {hook!r} or "fork" not in os.path.basename(frame.f_code.co_filename):
                    return None

                def at_line(frame, event, arg):
                    global lines
                    if event == "line":
                        lines += 1
                        if lines == line + 1:
                            raise KeyboardInterrupt
                    return at_line

                return at_line

            sys.settrace(trace)
            child = fork()
            sys.settrace(None)
            other = threading.Thread(target=lease, args=(1,))
            other.start()
            other.join()
            second = fork()
            held.clear()
            assert 0 not in released() or lines <= line, line
            end(child)
            end(second)
            lease(2)
            end(fork())
            held.clear()
            if lines <= line:
                break
            line += 1
        assert line > 0 and 2 in released()
    """)
