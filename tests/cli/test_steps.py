"""The line that says how far a command is."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time

from arrowpool.cli.steps import Steps
from tests.cli.test_top import read_until


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(screen):
    """What each drawing leaves on the line."""
    return [part.rstrip() for part in screen.getvalue().split("\r") if part.strip()]


def test_steps_that_are_known():
    screen = Terminal()
    with Steps(3, screen=screen) as steps:
        steps.begin("reading a long file")
        steps.begin("run")
    first, *_, last = shown(screen)
    assert first == "[1/3] reading a long file; 0 s"
    assert last.startswith("[2/3] run; 0 s, about ")
    assert last.endswith(" s left")
    assert screen.getvalue().endswith("\r"), "nothing is left on the line"
    widths = [len(part) for part in screen.getvalue().split("\r")]
    assert widths[-2] >= len(last), "the end overwrites the last line"


def test_a_deadline():
    screen = Terminal()
    with Steps(deadline=time.monotonic() + 1000, screen=screen) as steps:
        steps.begin("run")
    assert shown(screen)[0] in {"[1] run; 0 s, about 1000 s left", "[1] run; 0 s, about 999 s left"}
    screen = Terminal()
    with Steps(deadline=0.0, screen=screen) as steps:
        steps.begin("run")
    assert "about 0 s left" in screen.getvalue()


def test_a_line_is_not_longer_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    screen = Terminal()
    with Steps(1, screen=screen) as steps:
        steps.begin("x" * 100)
    assert max(map(len, shown(screen))) == 19


def test_nothing_where_it_would_not_be_seen(monkeypatch):
    screen = io.StringIO()
    with Steps(1, screen=screen) as steps:
        steps.begin("run")
    assert screen.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)
    with Steps(1) as steps:
        steps.begin("run")


def test_the_demo_says_what_it_does():
    here, there = pty.openpty()
    try:
        command = [sys.executable, "-m", "arrowpool", "demo", "--rows", "2000", "--processes", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=there, text=True) as process:
            read_until(here, b"[1/12] reading the flights")
            read_until(here, b"[12/12] history of each carrier, what multiprocessing.Pool sends")
            out = process.stdout.read()
        assert process.returncode == 0
        assert out.startswith("2,000 New York flights")
    finally:
        os.close(here)
        os.close(there)
