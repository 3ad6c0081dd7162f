"""What a forked worker must be able to import, and which descriptors it must not keep."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from multiprocessing import popen_fork

import pytest

import arrowpool
from arrowpool import forking
from arrowpool.forking import Handover, keep_from_children, worker_fork
from arrowpool.transport.channel import Channel
from arrowpool.waiting import wait_readable
from arrowpool.worker.lifeline import Lifeline
from arrowpool.worker.signals import signals_held_back

LIMIT = 30

HALF = """
    import sys
    before = True
    sys.modules["tests.test_forking"].IMPORTED[0](__name__)
    after = True
"""
#: What the module that is imported calls in the middle of its body.
IMPORTED = [lambda name: None]


def forked(handover, work):
    """What `work` returns (0 to 255) in a child that is forked as a worker is."""
    with worker_fork(handover):
        child = os.fork()
        if child == 0:
            code = 255
            try:
                code = work()
            finally:
                os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def half_imported(tmp_path, monkeypatch):
    """The name of a module that another thread is importing; what comes with it lets that thread go on."""
    name = f"half_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(HALF))
    monkeypatch.syspath_prepend(str(tmp_path))
    begun, go_on = threading.Event(), threading.Event()

    def block(_):
        begun.set()
        assert go_on.wait(LIMIT)

    monkeypatch.setattr(sys.modules[__name__], "IMPORTED", [block])
    thread = threading.Thread(target=__import__, args=(name,))
    thread.start()
    assert begun.wait(LIMIT)
    yield name, go_on
    go_on.set()
    thread.join(LIMIT)
    del sys.modules[name]


def has(name, attribute):
    """Import a module, with nothing that blocks any more; 1 if it has the attribute by then, else 0."""
    IMPORTED[:] = [lambda name: None]
    signal.alarm(LIMIT)  # ends the process if it hangs
    return int(hasattr(__import__(name), attribute))


def test_a_fork_waits_for_an_import(half_imported):
    name, go_on = half_imported
    threading.Timer(0.1, go_on.set).start()
    assert forked(Handover(), lambda: has(name, "after")) == 1


def test_an_import_that_began_at_the_last_moment_is_begun_again(half_imported, monkeypatch):
    name, _ = half_imported
    monkeypatch.setattr(forking, "_await_imports", lambda: None)
    assert forked(Handover(), lambda: has(name, "after")) == 1


def test_an_import_that_outlasts_the_wait(half_imported, monkeypatch):
    """The child has as much of the module as there was; the next fork does not wait."""
    name, _ = half_imported
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", 0.05)
    assert forked(Handover(), lambda: 2 * has(name, "before") + has(name, "after")) == 2
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", float("inf"))
    assert forked(Handover(), lambda: 2 * has(name, "before") + has(name, "after")) == 2


def test_an_import_of_the_thread_that_forks_is_its_own(tmp_path, monkeypatch):
    name = f"half_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(HALF))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", float("inf"))
    codes = []

    def fork(name):
        codes.append(forked(Handover(), lambda: 2 * has(name, "before") + has(name, "after")))

    monkeypatch.setattr(sys.modules[__name__], "IMPORTED", [fork])
    __import__(name)
    del sys.modules[name]
    assert codes == [2]


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return 0
    return 1


def test_only_its_worker_gets_what_is_handed_over():
    mine, another = Handover(), Handover()
    for handover in (mine, another):
        keep_from_children(handover)
    fds = [mine.add(os.open("/dev/null", os.O_RDONLY)), another.add(os.open("/dev/null", os.O_RDONLY))]
    assert forked(mine, lambda: 2 * is_open(fds[0]) + is_open(fds[1])) == 2
    child = os.fork()  # by anybody
    if child == 0:
        os._exit(is_open(fds[0]) + is_open(fds[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_open(fds[0])
    for handover in (mine, another):
        handover.close()
    assert not is_open(fds[0])


def test_no_thread_forks_while_descriptors_are_made():
    made, order = threading.Event(), []

    def fork():
        made.wait(LIMIT)
        child = os.fork()
        if child == 0:
            os._exit(0)
        order.append("forked")
        os.waitpid(child, 0)

    thread = threading.Thread(target=fork)
    thread.start()
    with forking.no_forks():
        made.set()
        while not waits_in_fork(thread):
            pass
        order.append("made")
    thread.join(LIMIT)
    assert order == ["made", "forked"]


def waits_in_fork(thread):
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code.co_name == "shut"


class HeldPopen(subprocess.Popen):
    """A program that is being started: its pipes are made, and it goes on when it may."""

    def __init__(self, *args, **options):
        self.made, self.go_on = threading.Event(), threading.Event()
        self.start = functools.partial(super().__init__, *args, **options)

    def _get_handles(self, *args):
        handles = super()._get_handles(*args)
        self.made.set()
        assert self.go_on.wait(LIMIT)
        return handles


@pytest.fixture
def held_popen(request):
    """A program that another thread is starting; `preexec_fn` makes that thread fork as Python does."""
    program = HeldPopen(["true"], stdout=subprocess.PIPE, preexec_fn=getattr(request, "param", None))
    thread = program.thread = threading.Thread(target=program.start)
    thread.start()
    assert program.made.wait(LIMIT)
    yield program
    program.go_on.set()
    thread.join(LIMIT)
    program.communicate(timeout=LIMIT)


@pytest.mark.parametrize("held_popen", [None, int], ids=["exec", "fork"], indirect=True)
def test_a_worker_does_not_keep_the_pipes_of_a_program_that_is_being_started(held_popen):
    threading.Timer(0.1, held_popen.go_on.set).start()
    with worker_fork(Handover()):
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            signal.pause()
    try:
        held_popen.thread.join(LIMIT)
        assert held_popen.communicate(timeout=LIMIT / 2) == (b"", None), "the pipe has come to its end"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("held_popen", [None, int], ids=["exec", "fork"], indirect=True)
def test_a_pool_does_not_keep_the_pipes_of_a_program_that_is_being_started(held_popen):
    """Not even while it waits for the program does it hold what the program needs."""
    threading.Timer(0.1, held_popen.go_on.set).start()
    with arrowpool.get_context("fork").Pool(1) as pool:
        held_popen.thread.join(LIMIT / 2)
        assert held_popen.communicate(timeout=LIMIT / 2) == (b"", None), "the pipe has come to its end"
        assert pool.map(abs, [-1]) == [1]


class HeldStart(popen_fork.Popen):
    """A process that is being started: one of its pipes is made, and the start goes on when it may."""

    def __init__(self):
        self.made, self.go_on = threading.Event(), threading.Event()
        self.reader = -1
        self.start = functools.partial(super().__init__, None)

    def _launch(self, _):
        self.reader, writer = os.pipe()
        self.made.set()
        assert self.go_on.wait(LIMIT)
        os.close(writer)


@pytest.fixture
def held_start(request):
    """A process that another thread is starting, in the context that `request.param` makes."""
    start = HeldStart()

    def run():
        with request.param():
            start.start()

    thread = threading.Thread(target=run)
    thread.start()
    assert start.made.wait(LIMIT)
    yield start
    start.go_on.set()
    thread.join(LIMIT)
    os.close(start.reader)


@pytest.mark.parametrize("held_start", [contextlib.nullcontext], ids=["process"], indirect=True)
def test_a_worker_does_not_keep_the_pipes_of_a_process_that_is_being_started(held_start):
    threading.Timer(0.1, held_start.go_on.set).start()
    with worker_fork(Handover()):
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            signal.pause()
    try:
        assert wait_readable([held_start.reader], LIMIT / 2), "the pipe has come to its end"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("held_start", [lambda: worker_fork(Handover())], ids=["worker"], indirect=True)
def test_threads_that_start_workers_do_not_wait_for_each_other(held_start, monkeypatch):
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", float("inf"))
    assert forked(Handover(), lambda: 7) == 7


def fork_in_a_thread():
    forking._PATIENCE_SECONDS = float("inf")
    signal.alarm(LIMIT)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(forked(Handover(), lambda: 7)))
    thread.start()
    thread.join()
    assert codes == [7]


def test_a_process_is_not_waited_for_in_itself():
    """All that a forked process does, it does in the call that has started it."""
    process = multiprocessing.get_context("fork").Process(target=fork_in_a_thread)
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


def test_a_start_of_a_program_that_outlasts_the_wait(held_popen, monkeypatch):
    """The next fork does not wait for it."""
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", 0.05)
    assert forked(Handover(), lambda: 7) == 7
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", float("inf"))
    assert forked(Handover(), lambda: 7) == 7


def test_no_look_at_running_threads_without_the_interpreter_lock(held_popen, monkeypatch):
    """Their frames may be gone by then, so nothing is waited for."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    monkeypatch.setattr(sys, "_current_frames", None)
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", float("inf"))
    assert forked(Handover(), lambda: 7) == 7


def test_a_program_may_be_started_by_the_thread_that_forks_for_a_worker(monkeypatch):
    monkeypatch.setattr(forking, "_PATIENCE_SECONDS", float("inf"))
    codes = []

    class Forks(subprocess.Popen):
        def _get_handles(self, *args):
            codes.append(forked(Handover(), lambda: 7))
            return super()._get_handles(*args)

    assert Forks(["true"]).wait(LIMIT) == 0
    assert codes == [7]


def handover():
    made = Handover()
    made.add(os.open("/dev/null", os.O_RDONLY))
    keep_from_children(made)
    return made


def channel():
    made, theirs = Channel.pair()
    for fd in theirs:
        os.close(fd)
    keep_from_children(made)
    return made


@pytest.mark.parametrize("make", [handover, channel, Lifeline], ids=lambda make: make.__name__)
def test_a_child_closes_no_file_that_has_the_number_of_a_closed_one(make, monkeypatch):
    """Another thread may open a file, or fork, at each moment of `close`."""
    owner, parent, close, codes = make(), os.getpid(), os.close, []

    def close_and_fork(fd):
        close(fd)
        if os.getpid() != parent:
            return
        other = os.open("/dev/null", os.O_RDONLY)
        if other != fd:
            os.dup2(other, fd)
            close(other)
        child = os.fork()
        if child == 0:
            os._exit(is_open(fd))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        close(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close_and_fork)
        owner.close()
    assert codes
    assert all(codes)


def test_no_fork_while_the_resource_tracker_is_looked_at(monkeypatch):
    """Its lock would be held in the child, whose first pool would wait for it for ever."""
    is_forked, seen = threading.Event(), []

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        is_forked.set()

    thread = threading.Thread(target=fork)

    def look():
        thread.start()
        seen.append(is_forked.wait(0.2))

    monkeypatch.setattr("arrowpool.worker.signals.resource_tracker.ensure_running", look)
    with signals_held_back(True):
        pass
    thread.join(LIMIT)
    assert seen == [False]
    assert is_forked.is_set()
