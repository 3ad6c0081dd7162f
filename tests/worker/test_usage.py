"""What a worker notes of its own use of the processor."""

from __future__ import annotations

import os
import types

import pytest

from arrowpool.worker import usage as module
from arrowpool.worker.usage import Usage


@pytest.fixture
def control():
    return types.SimpleNamespace(cpu=0.0, delayed=0.0)


def closed(usage):
    if usage._stat >= 0:
        os.close(usage._stat)


def test_what_was_computed(control):
    usage = Usage(control)
    sum(range(200_000))
    usage.note()
    assert control.cpu > 0
    assert control.delayed >= 0
    closed(usage)


def test_waits_are_those_since_the_beginning(control, monkeypatch):
    waited = iter([5_000_000_000, 5_000_000_000, 7_500_000_000])
    monkeypatch.setattr(module.os, "pread", lambda *_: b"1 %d 3\n" % next(waited))
    monkeypatch.setattr(module, "_READ_SECONDS", 0.0)
    usage = Usage(control)
    usage.note()
    assert control.delayed == 0.0
    usage.note()
    assert control.delayed == 2.5
    closed(usage)


def test_waits_are_not_read_for_each_message(control, monkeypatch):
    reads = []
    monkeypatch.setattr(module.os, "pread", lambda *_: reads.append(1) or b"1 1 1")
    monkeypatch.setattr(module, "_READ_SECONDS", 1000.0)
    usage = Usage(control)
    for _ in range(10):
        usage.note()
    assert len(reads) == 2
    closed(usage)


@pytest.mark.parametrize("text", [b"", b"1", b"? ? ?"])
def test_a_system_that_does_not_say(control, monkeypatch, text):
    monkeypatch.setattr(module.os, "pread", lambda *_: text)
    usage = Usage(control)
    usage.note()
    assert control.cpu > 0
    assert (control.delayed, usage._stat) == (0.0, -1)


def test_a_system_without_such_figures(control, monkeypatch):
    monkeypatch.setattr(module.facilities, "proc", lambda path: f"/nowhere/{path}")
    usage = Usage(control)
    usage.note()
    assert (control.delayed, usage._stat) == (0.0, -1)
