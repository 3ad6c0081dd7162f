"""How a worker learns that its parent is gone."""

from __future__ import annotations

import os
import signal

import pytest

from arrowpool.memory import facilities
from arrowpool.memory.platform import die_with_parent, processes, tie
from arrowpool.worker.lifeline import Lifeline

LIMIT = 30


@pytest.fixture
def lifeline():
    lifeline = Lifeline()
    yield lifeline
    lifeline.close()


@pytest.fixture
def without_proc(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(facilities, "proc", missing)


def worker(lifeline, prepare=lambda: None):
    """A child that does what a worker does, then nothing."""
    end, its_own = lifeline.end_for_worker()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(LIMIT)
            prepare()
            die_with_parent(end)
            while True:
                signal.pause()
        finally:
            os._exit(9)
    if its_own:
        tie(child, end)
    os.close(end)
    return child


def how_it_ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_all_end(lifeline, prepare=lambda: None):
    children = [worker(lifeline, prepare) for _ in range(3)]
    assert os.waitpid(children[0], os.WNOHANG) == (0, 0)
    lifeline.close()
    assert [how_it_ended(child) for child in children] == [-signal.SIGKILL] * 3


def test_one_pipe_is_the_lifeline_of_all_workers(lifeline):
    check_all_end(lifeline)


@pytest.mark.skipif(not facilities.has("sigio"), reason="a thread would have to run")
def test_a_worker_that_is_stopped_before_it_watches_its_lifeline(lifeline):
    child = worker(lifeline, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    os.waitpid(child, os.WUNTRACED)
    lifeline.close()
    assert how_it_ended(child) == -signal.SIGKILL


def test_without_proc_a_thread_waits_for_it(lifeline, without_proc):
    end, its_own = lifeline.end_for_worker()
    os.close(end)
    assert not its_own
    check_all_end(lifeline)


def test_a_kernel_that_accepts_the_signal_and_never_sends_it(lifeline, monkeypatch):
    """What was asked for is tried out, not believed."""
    real = processes.fcntl.fcntl

    def forgets(fd, command, argument=0):
        return real(fd, command, argument & ~processes.fcntl.FASYNC if command == processes.fcntl.F_SETFL else argument)

    monkeypatch.setattr(processes.fcntl, "fcntl", forgets)
    assert not processes._are_sent()
    check_all_end(lifeline)
