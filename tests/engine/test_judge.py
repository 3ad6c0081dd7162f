"""The judge of a pool's calls. No process."""

from __future__ import annotations

import dataclasses

import pytest

from arrowpool.engine import judge as module
from arrowpool.engine.clock import Clock
from arrowpool.engine.judge import Judge
from arrowpool.stats import Stats

SLOW = Stats(tasks=1000, size=2, seconds=2.0, run=0.5, cpu=0.5)


class Stopped(Clock):
    """A clock that shows what it is set to."""

    def __init__(self):
        super().__init__()
        self.time = 0.0

    def seconds(self):
        return self.time


class Case:
    def __init__(self):
        self.clock = Stopped()
        self.figures = Stats()
        self.looks = 0
        self.held_back = Clock()
        self.judge = Judge(self.clock, self.held_back, self.look)

    def look(self):
        self.looks += 1
        return self.figures

    def rest(self, figures):
        self.figures, self.clock.time = figures, figures.seconds
        self.judge.rested()


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setattr(module, "_said", False)
    monkeypatch.setattr(module, "_SECONDS", 1.0)
    return Case()


def test_it_says_once_that_calls_were_slower(case, caplog):
    case.rest(SLOW)
    case.rest(dataclasses.replace(SLOW, seconds=9.0))
    (record,) = caplog.records
    assert record.name.startswith("arrowpool.")
    assert "slower" in record.getMessage()
    assert case.looks == 1


@pytest.mark.parametrize(
    "change",
    [{"seconds": 0.9}, {"run": 4.0}, {"run": 1.5}, {"user": 2.0}, {"tasks": 0}, {"starting": 1.5}],
    ids=["short", "it paid", "hardly slower", "the user's code was slow", "no task", "workers had to start"],
)
def test_it_says_nothing(case, caplog, change):
    case.rest(dataclasses.replace(SLOW, **change))
    assert not caplog.records


def test_no_clock_runs_while_there_is_no_call(case):
    case.held_back.start()
    case.rest(SLOW)
    assert case.held_back.seconds() == case.held_back.seconds()


def test_short_calls_add_up(case, caplog):
    for number in range(1, 10):
        case.rest(dataclasses.replace(SLOW, seconds=number / 10))
    assert case.looks == 0
    case.rest(dataclasses.replace(SLOW, seconds=1.0))
    assert (case.looks, len(caplog.records)) == (1, 1)


def test_each_judgement_is_of_the_calls_since_the_last(case, caplog):
    case.rest(dataclasses.replace(SLOW, run=100.0))
    assert not caplog.records
    case.rest(dataclasses.replace(SLOW, run=100.1, tasks=2000, seconds=4.0))
    assert len(caplog.records) == 1


def test_a_clock_that_stops_twice_counts_once(monkeypatch):
    moments = iter([10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr("arrowpool.engine.clock.time.monotonic", lambda: next(moments))
    clock = Clock()
    for act in (clock.stop, clock.start, clock.start, clock.stop, clock.stop):
        act()
    assert clock.seconds() == 2.0
    clock.start()
    assert clock.seconds() == 3.0
