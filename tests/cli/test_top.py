"""What another process sees of the pools that are open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from arrowpool.__main__ import main
from arrowpool.cli import top
from arrowpool.memory import control_page
from arrowpool.memory.control_page import ControlPage
from tests.pool import tasks

LIMIT = 30

# All pools of the process are looked at.
pytestmark = pytest.mark.own_pool


def seen():
    return [use for use in top.workers() if use.parent == os.getpid()]


@pytest.mark.own_pool
def test_what_is_seen_of_a_pool(our_pool, tmp_path):
    frames = our_pool.map(tasks.frame_of, range(4), 1)
    uses = seen()
    assert {use.worker for use in uses} <= {process.pid for process in our_pool._pool}
    assert sum(use.begun for use in uses) == 4
    assert all(use.running is None for use in uses)
    assert sum(use.results.leases for use in uses) == 4
    assert sum(use.results.nbytes for use in uses) >= sum(frame.memory_usage(index=False).sum() for frame in frames)
    gate = tmp_path / "go"
    result = our_pool.apply_async(tasks.wait_for_file, (np.ones(100_000), str(gate)))
    deadline = time.monotonic() + LIMIT
    while not any(use.running is not None for use in seen()):
        assert time.monotonic() < deadline
    busy = [use for use in seen() if use.running is not None]
    assert len(busy) == 1
    assert busy[0].arguments.leases == 1
    assert busy[0].arguments.nbytes >= 800_000
    assert f"pools of process {os.getpid()}" in top.table()
    gate.touch()
    assert result.get(LIMIT) == 1.0


def test_the_command_sees_the_pools_of_other_processes(our_pool):
    our_pool.map(tasks.square, range(2))
    ran = subprocess.run([sys.executable, "-m", "arrowpool", "top"], capture_output=True, text=True, timeout=LIMIT)
    assert ran.returncode == 0
    for process in our_pool._pool:
        assert str(process.pid) in ran.stdout


def test_a_page_of_another_version_is_passed_over(our_pool):
    fd = control_page.create()
    try:
        ControlPage(fd).pids = (1 << 50, os.getpid())
        assert {use.worker for use in seen()} == {process.pid for process in our_pool._pool}
    finally:
        os.close(fd)


def test_the_command_goes_on_until_it_is_interrupted():
    command = [sys.executable, "-m", "arrowpool", "top", "--interval", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(6):
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130


def test_nothing_is_seen_where_there_is_nothing(capsys, monkeypatch):
    monkeypatch.setattr(top, "workers", list)
    assert main(["top"]) == 0
    assert capsys.readouterr().out == "no pools of this user are open\n"
    with pytest.raises(SystemExit):
        main(["top", "--interval", "0"])


def test_where_there_is_no_proc(capsys, monkeypatch):
    def fail(_):
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(os, "listdir", fail)
    assert top.run(None) == 1
    assert "needs /proc" in capsys.readouterr().out
