"""What a process has written to its private view never shows in the next lease, whatever the system refuses it."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

import arrowpool
from arrowpool.memory import arena, facilities, pages, platform
from arrowpool.memory.arena import Arena
from arrowpool.memory.lease import Account, Lease
from arrowpool.memory.mapping import Mapping
from tests.conftest import needs
from tests.memory import hostile

MIB = 1 << 20


def without(*names):
    def apply():
        facilities._without.cache_clear()
        os.environ["ARROWPOOL_WITHOUT"] = ",".join(names)

    return apply


HOSTILE = {
    "nothing": lambda: None,
    "no pagemap": without("pagemap"),
    "no dontneed": without("dontneed"),
    "neither": without("pagemap", "dontneed"),
    "no proc": without("proc"),
    "locked memory": hostile.lock_memory,
    "madvise refused": lambda: hostile.refuse("madvise"),
    "madvise does nothing": lambda: hostile.refuse("madvise", code=0),
}


def may_show_old_writes():
    """Lease, write in place, let go; see whether the next lease of the recycled segment shows any of it."""
    owner = Arena(arena.create(512 * platform.PAGE))
    consumer = Mapping(platform.read_only(owner.fd))
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(300 * platform.PAGE)
    for round_ in range(1, 6):
        owner.room(*segment)[:] = round_
        seen = consumer.view(Lease(Account(flags), 0, *segment))
        if not (seen == round_).all():
            return True
        seen[:: 2 * platform.PAGE] = 200  # more dirty stretches than one scan reports
        del seen
        if flags[0] != 1:
            return None  # it never comes back
        flags[0] = 0
    return False


@pytest.mark.parametrize("how", HOSTILE)
def test_the_next_lease_shows_the_owners_bytes(how):
    if how.startswith("madvise") and hostile.needs_seccomp.args[0]:
        pytest.skip("no system call numbers for this machine")

    def run():
        HOSTILE[how]()
        return may_show_old_writes() is False

    assert hostile.in_child(run)


def test_what_cannot_be_restored_is_never_released(monkeypatch):
    """Nor is its address used again, or unmapped: something else may lie there."""
    unmapped = []

    def run():
        monkeypatch.setattr(pages.PageMap, "_scan", lambda *_: None)
        monkeypatch.setattr(platform, "map_again", lambda *_: False)
        real = platform.unmap
        monkeypatch.setattr(platform, "unmap", lambda *where: unmapped.append(where) or real(*where))
        owner = Arena(arena.create(16 * MIB))
        consumer = Mapping(platform.read_only(owner.fd))
        unmapped.clear()
        flags = np.zeros(8, dtype=np.uint8)
        segment = owner.allocate(platform.PAGE)
        owner.room(*segment)[:] = 1
        seen = consumer.view(Lease(Account(flags), 0, *segment))
        seen[:] = 2
        del seen
        again = consumer.view(Lease(Account(flags), 1, *segment))
        right = bool((again == 1).all())
        del again, consumer
        return right and flags.tolist()[:2] == [0, 1] and all(size == platform.PAGE for _, size in unmapped)

    assert hostile.in_child(run)


@hostile.needs_seccomp
def test_a_map_that_stays_is_never_released():
    def run():
        owner = Arena(arena.create(MIB))
        consumer = Mapping(platform.read_only(owner.fd))
        flags = np.zeros(8, dtype=np.uint8)
        segment = owner.allocate(platform.PAGE)
        first, second = (
            consumer.view(Lease(Account(flags), 0, *segment)),
            consumer.view(Lease(Account(flags), 1, *segment)),
        )
        hostile.refuse("munmap")
        del second, first
        return flags.tolist()[:2] == [1, 0]

    assert hostile.in_child(run)


@needs("pagemap", "proc")
def test_one_page_map_for_all_mappings():
    owner = Arena(arena.create(MIB))
    before = len(os.listdir("/proc/self/fd"))
    consumers = [Mapping(platform.read_only(owner.fd)) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5 + 1
    assert hostile.in_child(lambda: pages.page_map() is not consumers[0]._pages)
    consumers.clear()
    assert len(os.listdir("/proc/self/fd")) == before
    owner.close()


def write_all_over(array):
    seen = float(array[0])
    array[:] = -1.0
    return seen


@pytest.mark.parametrize(
    "how",
    [hostile.lock_memory, pytest.param(functools.partial(hostile.refuse, "madvise"), marks=hostile.needs_seccomp)],
    ids=["locked memory", "madvise refused"],
)
def test_a_task_that_has_that_done_to_its_worker(how):
    arrays = [np.full(100_000, float(i)) for i in range(8)]
    with arrowpool.get_context("fork").Pool(1) as pool:
        assert pool.apply(write_all_over, (arrays[3],)) == 3
        pool.apply(how)
        seen = [pool.apply(write_all_over, (array,)) for array in arrays]
    pool.join()
    assert seen == [float(i) for i in range(8)]


def test_names_of_facilities(monkeypatch):
    facilities._without.cache_clear()
    monkeypatch.setenv("ARROWPOOL_WITHOUT", "memfd, pidfd,")
    try:
        assert not facilities.has("memfd")
        assert facilities.has("sigio")
        facilities._without.cache_clear()
        monkeypatch.setenv("ARROWPOOL_WITHOUT", "linux")
        assert not any(map(facilities.has, facilities.NAMES))
        with pytest.raises(ValueError, match="unknown facility"):
            facilities.has("memfdd")
        facilities._without.cache_clear()
        monkeypatch.setenv("ARROWPOOL_WITHOUT", "memfdd")
        with pytest.raises(ValueError, match="names memfdd; known are dontneed, fallocate"):
            arrowpool.Pool(1)
    finally:
        facilities._without.cache_clear()
