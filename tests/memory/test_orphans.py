"""Arenas whose owners have ended: their memory stays readable without a descriptor, and goes back range by range."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from arrowpool.memory import arena, orphans, platform
from arrowpool.memory.arena import Arena
from arrowpool.memory.descriptor import Descriptor
from arrowpool.memory.lease import Account, Lease, disown
from arrowpool.memory.mapping import Mapping, leased_memory_under
from tests.conftest import needs

SIZE = 64 * platform.PAGE


class Orphan:
    """An arena with two leased segments, whose owner has ended; and another descriptor of its file, to look at it."""

    def __init__(self):
        owner = Arena(arena.create(16 << 20))
        self.fd = os.dup(owner.fd)
        self.mapping = Mapping(os.dup(owner.fd))
        self.account = Account(np.zeros(8, dtype=np.uint8))
        self.arrays = []
        for slot in range(2):
            segment = owner.allocate(SIZE)
            owner.room(*segment)[:] = slot + 1
            self.arrays.append(self.mapping.view(Lease(self.account, slot, *segment)))
        owner.close()
        self.mapping.reclaim_all_but(disown(self.account, self.mapping.reclaim))

    @property
    def resident(self):
        return os.fstat(self.fd).st_blocks * 512

    def close(self):
        self.arrays.clear()
        del self.mapping, self.account
        gc.collect()
        os.close(self.fd)


@pytest.fixture
def orphan():
    made = Orphan()
    yield made
    made.close()


@needs("linux", "fallocate")
def test_without_its_file_each_range_goes_back_when_its_lease_ends(orphan):
    assert orphan.resident == 2 * SIZE
    assert orphan.mapping.close_file()
    first, second = orphan.arrays
    first[3] = 9
    assert first[:5].tolist() == [1, 1, 1, 9, 1]
    del orphan.arrays[0], first
    gc.collect()
    assert orphan.resident == SIZE
    assert (second == 2).all()
    orphan.arrays.clear()
    del second
    gc.collect()
    assert orphan.resident == 0


def test_what_was_written_to_a_lease_is_not_in_the_fresh_memory(orphan):
    array = orphan.arrays[1]
    memory = leased_memory_under(array)
    orphan.mapping.close_file()
    array[:] = 7
    if memory is not None:  # it can be told that nothing was written to it
        assert (memory.fresh() == 2).all()
    assert (array == 7).all()


def test_closing_twice_closes_once(orphan):
    before = len(os.listdir("/proc/self/fd"))
    assert orphan.mapping.close_file()
    assert orphan.mapping.close_file()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_file_in_use_is_closed_the_next_time():
    number = os.open(os.devnull, os.O_RDONLY)
    descriptor = Descriptor(number)
    with descriptor.use() as used:
        assert used == number
        assert not descriptor.close()
        os.fstat(number)
        with descriptor.use() as late:
            assert late == -1
    assert descriptor.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_the_last_ones_keep_their_files(monkeypatch):
    monkeypatch.setattr(orphans, "KEPT", 3)
    made = [Orphan() for _ in range(5)]
    for one in made:
        orphans.add(one.mapping)
    assert [one.mapping.source[0] >= 0 for one in made] == [False, False, True, True, True]
    for one in made:
        one.close()
