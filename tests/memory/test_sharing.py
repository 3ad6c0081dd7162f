"""An owner's arena and a consumer's mapping in one process: who sees what, and when memory is free again."""

from __future__ import annotations

import gc
import itertools
import os
import weakref

import numpy as np
import pytest

from arrowpool.errors import ArenaFullError
from arrowpool.memory import arena, facilities, limits, platform
from arrowpool.memory.arena import Arena
from arrowpool.memory.control_page import ControlPage
from arrowpool.memory.control_page import create as create_control
from arrowpool.memory.forks import settle_forks
from arrowpool.memory.lease import Account, Lease
from arrowpool.memory.mapping import Mapping
from arrowpool.memory.platform import linux
from arrowpool.tuning import PIECE
from tests.conftest import needs

MIB = 1 << 20


@pytest.fixture
def owner():
    owner = Arena(arena.create(max(16 * MIB, 512 * platform.PAGE)))
    yield owner
    owner.close()


@pytest.fixture
def consumer(owner):
    return Mapping(platform.read_only(owner.fd))


def grant(flags, slot, segment):
    return Lease(Account(flags), slot, *segment)


def test_consumer_sees_what_the_owner_wrote_and_keeps_its_writes_to_itself(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(3 * platform.PAGE)
    owner.room(*segment)[:] = 7
    seen = consumer.view(grant(flags, 0, segment))
    assert seen.size == segment[1]
    assert (seen == 7).all()
    seen[5] = 9
    assert owner.room(*segment)[5] == 7
    assert flags[0] == 0
    view = seen[10:20]
    del seen
    gc.collect()
    assert flags[0] == 0, "a slice keeps the lease"
    del view
    assert flags[0] == 1


def test_a_recycled_segment_never_shows_the_consumers_old_writes(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(300 * platform.PAGE)
    for round_ in range(1, 6):
        owner.room(*segment)[:] = round_
        seen = consumer.view(grant(flags, 0, segment))
        assert (seen == round_).all()
        seen[:: 2 * platform.PAGE] = 200  # more dirty stretches than one scan reports
        assert seen[0] == 200
        del seen
        assert flags[0] == 1
        flags[0] = 0


def test_two_leases_of_one_segment_are_private_to_each(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(platform.PAGE)
    owner.room(*segment)[:] = 1
    first = consumer.view(grant(flags, 0, segment))
    first[:] = 2
    second = consumer.view(grant(flags, 1, segment))
    assert (second == 1).all()
    second[:] = 3
    assert (first == 2).all()
    del first
    assert flags.tolist()[:2] == [1, 0]
    assert (second == 3).all()
    del second
    assert flags.tolist()[:2] == [1, 1]


def test_a_lease_outlives_mapping_and_owner(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(platform.PAGE)
    owner.room(*segment)[:] = 4
    seen = consumer.view(grant(flags, 0, segment))
    del consumer
    owner.close()
    gc.collect()
    assert (seen == 4).all()


def test_a_grant_that_is_never_opened_ends_too():
    flags = np.zeros(8, dtype=np.uint8)
    right = Lease(Account(flags), 3, 0, platform.PAGE)
    assert flags[3] == 0
    del right
    assert flags[3] == 1


def test_a_lease_outside_the_arena_is_refused(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    with pytest.raises(ValueError, match="outside its arena"):
        consumer.view(grant(flags, 0, (owner.capacity - platform.PAGE, 2 * platform.PAGE)))


@needs("proc")
def test_consumers_get_no_shared_writable_map(owner):
    fd = platform.read_only(owner.fd)
    try:
        with pytest.raises(OSError, match="cannot map"):
            platform.map_shared(fd, owner.capacity)
    finally:
        os.close(fd)


@needs("linux", "fallocate")
def test_idle_pages_are_given_back(owner):
    segment = owner.allocate(4 * MIB)
    owner.room(*segment)[:] = 1
    kept = owner.allocate(MIB)
    owner.room(*kept)[:] = 2
    before = os.fstat(owner.fd).st_blocks * 512
    assert before >= 5 * MIB
    owner.free(*segment)
    assert owner.resident == 5 * MIB
    owner.trim()
    assert owner.resident == MIB
    assert os.fstat(owner.fd).st_blocks * 512 == MIB
    assert (owner.room(*kept) == 2).all()
    again = owner.allocate(4 * MIB)
    assert (owner.room(*again) == 0).all()


@needs("linux", "memfd")  # a file's blocks are reserved first
def test_pages_are_got_in_pieces_that_threads_can_share(owner):
    asked = []

    def run(works, nbytes):
        asked.append((len(works), nbytes))
        assert os.fstat(owner.fd).st_blocks == 0
        for work in reversed(works):
            work()

    owner.allocate(2 * PIECE + MIB, run)
    assert asked == [(3, 2 * PIECE + MIB)]
    assert os.fstat(owner.fd).st_blocks * 512 == 2 * PIECE + MIB


def test_a_thread_that_gets_no_pages(owner):
    def run(works, nbytes):
        works[0]()
        raise MemoryError("the kernel has no memory")

    with pytest.raises(ArenaFullError, match="the kernel has no memory"):
        owner.allocate(2 * PIECE, run)
    assert owner.used == 0
    offset, _ = owner.allocate(2 * PIECE)
    assert offset == 0
    assert os.fstat(owner.fd).st_blocks * 512 == 2 * PIECE


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="no huge pages in this kernel")
@needs("linux")
def test_an_arena_asks_for_huge_pages(owner):
    address = owner.room(0, 1).ctypes.data
    with open("/proc/self/smaps") as maps:
        lines = itertools.dropwhile(lambda line: not line.startswith(f"{address:x}-"), maps)
        flags = next(line for line in lines if line.startswith("VmFlags:"))
    assert "hg" in flags.split()


def test_a_full_arena_says_so_and_holds_nothing(owner):
    quarter = owner.capacity // 4
    held = owner.allocate(3 * quarter)
    with pytest.raises(ArenaFullError, match=f"no room for {2 * quarter:,} bytes"):
        owner.allocate(2 * quarter)
    owner.free(*held)
    assert owner.allocate(owner.capacity)[0] == 0


def test_arena_full_is_a_memory_error():
    assert issubclass(ArenaFullError, MemoryError)


def test_a_forked_child_keeps_what_it_sees_and_the_parent_waits_for_it(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(platform.PAGE)
    owner.room(*segment)[:] = 1
    seen = consumer.view(grant(flags, 0, segment))
    go_reader, go_writer = os.pipe()
    answer_reader, answer_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_reader, 1)
        right = bool((seen == 1).all())
        del seen  # the child's own end of the lease must not tell the owner anything
        os.write(answer_writer, bytes([right, int(flags[0])]))
        os._exit(0)
    del seen
    gc.collect()
    settle_forks()
    assert flags[0] == 0, "the child still sees the segment"
    os.write(go_writer, b"x")
    right, _ = os.read(answer_reader, 2)
    os.waitpid(pid, 0)
    assert right
    settle_forks()
    assert flags[0] == 1
    for fd in (go_reader, go_writer, answer_reader, answer_writer):
        os.close(fd)


def test_a_lease_begun_after_the_fork_does_not_wait_for_the_child(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(platform.PAGE)
    first = consumer.view(grant(flags, 0, segment))
    go_reader, go_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_reader, 1)
        os._exit(0)
    other = owner.allocate(platform.PAGE)
    second = consumer.view(grant(flags, 1, other))
    del second
    assert flags.tolist()[:2] == [0, 1]
    del first
    assert flags[0] == 0
    os.write(go_writer, b"x")
    os.waitpid(pid, 0)
    settle_forks()
    assert flags[0] == 1
    os.close(go_reader)
    os.close(go_writer)


@needs("linux")  # macOS has a call of its own for that
def test_the_owners_map_is_not_inherited(owner):
    address = owner._address
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/maps") as maps:
            inherited = any(line.startswith(f"{address:x}-") for line in maps)
        os._exit(1 if inherited else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_control_page_is_one_memory_for_both_sides():
    fd = create_control()
    ours, theirs = ControlPage(fd), ControlPage(fd)
    os.close(fd)
    theirs.started = 41
    assert ours.started == 41
    assert not theirs.is_recalled(5)
    ours.recall(6)
    assert [n for n in range(10) if theirs.is_recalled(n)] == [0, 1, 2, 3, 4, 5]
    ours.recall(9)
    assert [n for n in range(10) if not theirs.is_recalled(n)] == [9]
    theirs.released_by_worker[7] = 1
    assert np.flatnonzero(ours.released_by_worker[:100]).tolist() == [7]
    assert not ours.released_by_parent[:100].any()


@pytest.fixture
def no_memfd(monkeypatch):
    def missing(name):
        raise OSError("no memfd")

    monkeypatch.setattr(linux, "_memfd_create", missing)
    monkeypatch.setattr(arena, "_said_where", False)


@needs("linux")
def test_a_file_where_memfd_is_missing(no_memfd, caplog):
    for _ in range(2):
        owner = Arena(arena.create(16 * MIB))
        try:
            assert owner.capacity == 16 * MIB
            assert not platform.is_memfd(owner.fd)
            segment = owner.allocate(MIB)
            assert os.fstat(owner.fd).st_blocks * 512 >= MIB
            owner.free(*segment)
            owner.trim()
            assert os.fstat(owner.fd).st_blocks * 512 < MIB or not facilities.has("fallocate")
        finally:
            owner.close()
    fd = create_control()
    ControlPage(fd).started = 5
    assert ControlPage(fd).started == 5
    os.close(fd)
    assert caplog.text.count("no memfd") == facilities.has("memfd")


def test_what_was_tried_in_vain_keeps_no_caller(no_memfd):
    """An error that is kept refers to the frames it went through, and these to their callers, with all that they have."""

    class Thing:
        pass

    def call():
        thing = Thing()
        os.close(arena.create(16 * MIB))
        return weakref.ref(thing)

    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


def test_a_small_shm_is_passed_over(no_memfd, monkeypatch, tmp_path):
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: real(path)._replace(free=MIB if path == "/dev/shm" else 1 << 30)
    )
    monkeypatch.setattr(arena.tempfile, "gettempdir", lambda: str(tmp_path))
    fd = arena.create(16 * MIB)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path))
    finally:
        os.close(fd)


def test_an_arena_on_a_disk(tmp_path):
    owner = Arena(arena.create(16 * MIB, str(tmp_path)))
    try:
        assert not list(tmp_path.iterdir()), "it has no name"
        consumer = Mapping(platform.read_only(owner.fd))
        flags = np.zeros(8, dtype=np.uint8)
        segment = owner.allocate(MIB)
        owner.room(*segment)[:] = 3
        seen = consumer.view(grant(flags, 0, segment))
        seen[0] = 4
        assert owner.room(*segment)[0] == 3
        assert seen[1:].max() == seen[1:].min() == 3
    finally:
        owner.close()


def test_what_would_leave_the_machine_without_memory_is_refused(owner, monkeypatch):
    monkeypatch.setattr(arena, "headroom", lambda fd: 3 * MIB)
    first = owner.allocate(2 * MIB)
    with pytest.raises(ArenaFullError, match=r"4,194,304 more bytes .* wanted and 3,145,728 available.*spill_dir"):
        owner.allocate(4 * MIB)
    owner.free(*first)
    assert owner.used == 0
    assert owner.allocate(2 * MIB) == first, "what is warm already needs no more memory"


@needs("linux")  # elsewhere a file counts as one on a disk
def test_what_there_is_of_memory(owner, tmp_path):
    total, available = limits.memory()
    assert 0 < available <= total
    assert 0 < limits.headroom(owner.fd) < available
    fd = platform.create_unlinked("arrowpool-test", MIB, str(tmp_path))
    try:
        with pytest.raises(MemoryError, match="no space"):
            platform.reserve(fd, 0, 1 << 62)
    finally:
        os.close(fd)


def test_the_pipe_of_a_fork_is_closed_after_the_child_has_ended(owner, consumer):
    flags = np.zeros(8, dtype=np.uint8)
    seen = consumer.view(grant(flags, 0, owner.allocate(platform.PAGE)))
    before = set(os.listdir("/proc/self/fd"))
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    during = set(os.listdir("/proc/self/fd"))
    assert len(during) == len(before) + 1
    os.waitpid(pid, 0)
    settle_forks()
    assert set(os.listdir("/proc/self/fd")) == before
    del seen
    assert flags[0] == 1


def test_a_part_of_a_segment_is_read_where_there_can_be_no_more_maps(owner, consumer, monkeypatch):
    monkeypatch.setattr("arrowpool.memory.mapping.OWN_MAPS", 2)
    flags = np.zeros(8, dtype=np.uint8)
    segment = owner.allocate(3 * platform.PAGE)
    owner.room(*segment)[:] = 7
    grants = [grant(flags, slot, segment) for slot in range(4)]
    leases = [consumer.view(one) for one in grants[:3]]
    with pytest.raises(OSError, match="2 maps"):
        consumer.view(grants[3])
    copy = consumer.read(grants[3], 100, 2 * platform.PAGE)
    assert copy.ctypes.data % 64 == 0
    assert copy.tolist() == [7] * 2 * platform.PAGE
    with pytest.raises(ValueError, match="outside its arena"):
        consumer.read(grants[3], owner.capacity, 1)
    leases[1] = None
    assert (consumer.view(grants[3]) == 7).all()
    leases.clear()
