"""What a program does all day must not grow: neither in the parent nor in its workers.

ARROWPOOL_GROWTH_SECONDS=60 python -m pytest -n 0 tests/trials/test_growth.py
"""

from __future__ import annotations

import mmap
import os

import pytest

from tests.trials import growth
from tests.trials.scenarios import SCENARIOS

#: How long each scenario runs; by default, some hundred steps.
SECONDS = float(os.environ.get("ARROWPOOL_GROWTH_SECONDS", "0"))
LIMIT = 60
_LONGER = 3


@pytest.mark.timeout(3 * (1 + _LONGER) * SECONDS + (2 + _LONGER) * LIMIT)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_grows(name):
    entry = SCENARIOS[name]
    length = {"seconds": SECONDS} if SECONDS else {"steps": entry.steps}
    report = growth.measure(entry.run, **length, allowed=entry.allowed, limit=LIMIT)
    print(report)
    if report.growing():
        # Two dozen samples of what goes up and down may rise by chance. What really grows does so again, and by more.
        longer = {name: _LONGER * amount for name, amount in length.items()}
        again = growth.measure(entry.run, **longer, allowed=entry.allowed, limit=_LONGER * LIMIT)
        print(again)
        assert not report.growing().keys() & again.growing().keys()


def leaking_descriptors():
    held = []
    while True:
        held.append(os.pipe())
        yield []


def leaking_memory():
    """Of the kernel, not of the heap: this process is a fork of one that may have much free there."""
    held = []
    while True:
        held.append(mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE))
        held[-1].write(b"x" * (1 << 20))
        yield []


def leaking_now_and_then():
    from arrowpool.transport import by_type

    for number in range(10_000):
        if number % 5 == 0:
            by_type.ways[number] = (None, False)
        yield []


@pytest.mark.parametrize(
    ("run", "measure"),
    [
        (leaking_descriptors, "descriptors"),
        (leaking_memory, "private MB"),
        (leaking_now_and_then, "arrowpool.transport.by_type.ways"),
    ],
)
def test_what_grows_is_found(run, measure):
    assert measure in growth.measure(run, steps=120).growing()
