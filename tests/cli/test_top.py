"""What another process sees of the pools that are open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pandas as pd
import pytest

from arrowpool.__main__ import main
from arrowpool.cli import top
from arrowpool.memory import control_page
from arrowpool.memory.control_page import ControlPage
from tests.conftest import across_methods, forked_only
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
    assert busy[0].function == "wait_for_file"
    assert busy[0].items == range(0), "a single call has no items"
    assert busy[0].arguments.leases == 1
    assert busy[0].arguments.nbytes >= 800_000
    assert f"pools of process {os.getpid()}" in top.table()
    assert "wait_for_file" in top.table()
    gate.touch()
    assert result.get(LIMIT) == 1.0


@pytest.mark.parametrize(("chunksize", "gated"), [(1, 5), (3, 4), (4, 7)])
def test_the_item_that_a_worker_runs(our_pool, tmp_path, chunksize, gated):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    items = [(str(gate) if index == gated else "",) for index in range(10)]
    result = our_pool.starmap_async(tasks.pass_or_wait, items, chunksize)
    os.close(os.open(gate, os.O_WRONLY))  # the task has opened the other end
    deadline = time.monotonic() + LIMIT
    while len(busy := [use for use in seen() if use.running is not None]) != 1:  # the others are done
        assert time.monotonic() < deadline
    assert busy[0].function == "pass_or_wait"
    start = gated - gated % chunksize
    assert gated in busy[0].items, "short items are noted together"
    assert set(busy[0].items) <= set(range(start, start + chunksize))
    gate.unlink()
    assert len(result.get(LIMIT)) == 10


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (["T17", "T18", "\x1b[2J"], ["'T17'", "'T18'", "'\\x1b[2J'"]),
        ([(2024, "a"), (2024, "b")], ["(2024, 'a')", "(2024, 'b')"]),
    ],
    ids=["strings", "tuples"],
)
def test_the_group_that_a_worker_runs(our_pool, tmp_path, keys, shown):
    by = ["year", "part"] if type(keys[0]) is tuple else "key"
    gates = [str(tmp_path / str(number)) for number in range(len(keys))]
    for gate in gates:
        os.mkfifo(gate)
    frame = pd.DataFrame(keys, columns=by if type(by) is list else [by]).assign(path=gates)
    groups = our_pool.imap_groups(tasks.read_pipe_of, frame, by, chunksize=len(keys), sort=False)
    for gate, text in zip(gates, shown, strict=True):
        with open(gate, "w") as going:  # the group has opened the other end
            (busy,) = [use for use in seen() if use.running is not None]
            assert (busy.function, busy.key) == ("read_pipe_of", text)
            assert text in top.table()
            going.write("go")
    assert list(groups) == [(key, "go") for key in keys]
    assert not [use for use in seen() if use.key]
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    result = our_pool.map_async(tasks.wait_for_file_open, [str(gate)])
    os.close(os.open(gate, os.O_WRONLY))
    (busy,) = [use for use in seen() if use.running is not None]
    assert (busy.key, busy.items) == ("", range(1)), "the key of an earlier group is not shown"
    gate.unlink()
    assert result.get(LIMIT) == ["read"]


@forked_only
def test_a_foreign_name_cannot_control_the_terminal(our_pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def task(path):
        tasks.wait_for_file_open(path)

    task.__qualname__ = "[red]\x1b[2J" + "x" * 500
    result = our_pool.apply_async(task, (str(gate),))
    os.close(os.open(gate, os.O_WRONLY))
    (use,) = [use for use in seen() if use.running is not None]
    assert use.function.startswith("[red]\\x1b[2Jxxx")
    assert len(use.function) < 100
    gate.unlink()
    result.get(LIMIT)


def read_until(fd, words):
    text = b""
    while words not in text:
        assert select.select([fd], [], [], LIMIT)[0], text
        text += os.read(fd, 65536)
    return text


@across_methods(("ours", "end"), ["q", "SIGINT", "SIGTERM", "hangup"])
def test_on_a_terminal_it_is_drawn_until_it_is_ended(our_pool, end):
    pytest.importorskip("rich")
    our_pool.map(tasks.square, range(2))
    here, there = pty.openpty()
    try:
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 120, 0, 0))
        before = termios.tcgetattr(there)
        with (
            subprocess.Popen(
                [sys.executable, "-m", "arrowpool", "top", "--interval", "0.05"],
                stdin=there,
                stdout=there,
                stderr=there,
                env={**os.environ, "TERM": "xterm"},
                start_new_session=True,
            ) as process,
            contextlib.ExitStack() as last,
        ):
            last.callback(process.kill)  # if anything below fails, or it would be waited for
            pid = next(iter(our_pool._pool)).pid
            text = read_until(here, str(pid).encode())
            assert b"q or Ctrl-C ends it" in text
            read_until(here, b"the function of the task")
            read_until(here, str(pid).encode())  # once more
            assert not termios.tcgetattr(there)[3] & termios.ICANON
            if end == "q":
                os.write(here, b"xq")
            elif end == "hangup":
                os.close(there)
                there = -1
                os.close(here)
                here = -1
            else:
                process.send_signal(getattr(signal, end))
            deadline = time.monotonic() + LIMIT
            while process.poll() is None and time.monotonic() < deadline:
                if here >= 0 and select.select([here], [], [], 0.05)[0]:
                    os.read(here, 65536)  # otherwise it blocks
            code = process.wait(LIMIT)
        if end != "hangup":
            assert code == {"q": 0, "SIGINT": 130, "SIGTERM": 143}[end]
            assert termios.tcgetattr(there) == before
    finally:
        for fd in (here, there):
            if fd >= 0:
                os.close(fd)


@forked_only
def test_once_on_a_terminal(our_pool):
    here, there = pty.openpty()
    try:
        command = [sys.executable, "-m", "arrowpool", "top", "--once"]
        with subprocess.Popen(command, stdin=there, stdout=there, stderr=there) as process:
            read_until(here, b"pools of process")
            while process.poll() is None:
                if select.select([here], [], [], 0.05)[0]:
                    os.read(here, 65536)
        assert process.returncode == 0
    finally:
        os.close(here)
        os.close(there)


@forked_only
def test_without_rich_it_is_printed(our_pool, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(top.importlib.util, "find_spec", lambda name: None)
    assert main(["top"]) == 0
    told = capsys.readouterr()
    assert f"pools of process {os.getpid()}" in told.out
    assert "pip install 'arrowpool[top]'" in told.err


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
