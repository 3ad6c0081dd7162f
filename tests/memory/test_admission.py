"""Owners that share the memory of a system: no owner is promised memory that another one is about to take."""

from __future__ import annotations

import fcntl
import os

import pytest

from arrowpool.errors import ArenaFullError
from arrowpool.memory import arena, limits, platform
from arrowpool.memory.admission import Turns
from arrowpool.memory.arena import Arena
from arrowpool.tuning import HEADROOM_STEP
from tests.conftest import needs

MIB = 1 << 20


@pytest.fixture
def fds():
    """Two ways to the same file, as two processes have them."""
    fd = platform.create_memory("arrowpool-test", MIB)
    other = platform.read_only(fd)
    yield fd, other
    os.close(fd)
    os.close(other)


@needs("memfd", "proc")
def test_turns(fds, monkeypatch):
    monkeypatch.setattr("arrowpool.memory.admission.RELIEF_SECONDS", 0.05)
    one, other = map(Turns, fds)
    waits = []
    monkeypatch.setattr("arrowpool.memory.admission.time.sleep", waits.append)
    with one, other:
        assert not waits
    with one:
        one.alone()
        with other:  # it does not wait for longer than that
            assert waits
    waits.clear()
    with other:
        other.alone()
    assert not waits


@pytest.mark.parametrize("available", [10 * MIB, 1 << 30, 1 << 36])
@pytest.mark.parametrize("owners", [1, 3, 9, 129])
def test_what_all_may_take_without_asking_is_a_part_of_the_reserve(available, owners):
    step = limits.unasked(available, owners)
    assert 0 < step <= HEADROOM_STEP
    assert step * owners <= available / limits._RESERVE / 4


@needs("memfd", "proc")
def test_owners_that_ask_at_the_same_time(fds, monkeypatch):
    """Those that want much of what there is wait for each other: the second is asked about what the first has left."""
    monkeypatch.setattr("arrowpool.memory.admission.RELIEF_SECONDS", 60)
    there_is = [100 * MIB]
    monkeypatch.setattr(arena, "headroom", lambda fd: there_is[0])
    owners = [Arena(arena.create(256 * MIB), 2, fd) for fd in fds]

    def populate(address, size):
        # While the first one's pages come, the second one asks.
        with pytest.raises(BlockingIOError):
            fcntl.flock(fds[1], fcntl.LOCK_SH | fcntl.LOCK_NB)
        there_is[0] -= size

    monkeypatch.setattr(platform, "populate", populate)
    owners[0].allocate(60 * MIB)
    with pytest.raises(ArenaFullError, match="41,943,040 available"):
        owners[1].allocate(60 * MIB)
    for owner in owners:
        owner.close()
