"""Children that another thread forks while an arena is being made: none keeps its memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import arrowpool
from arrowpool import forking
from arrowpool.memory import arena, platform
from arrowpool.memory.arena import Arena
from tests.conftest import needs

#: The steps are those of Linux's files.
pytestmark = needs("linux")
MIB = 1 << 20

#: The steps after which the arena has one more descriptor or map.
STEPS = ("create_memory", "create_unlinked", "map_private", "map_shared")


def refers_to(file):
    """Whether this process has a descriptor or a map of the file; 1 or 0, as an exit code."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(fd)), file):
                return 1
        except OSError:  # the descriptor that listed the directory
            continue
    maps = Path("/proc/self/maps").read_text().splitlines()
    return int(any(line.split()[4] == str(file.st_ino) for line in maps))


def fork_if_possible(file, codes):
    """Fork a child, unless the fork would wait. Append whether the child refers to the file."""
    if not forking._gate.acquire(blocking=False):
        return
    forking._gate.release()
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = refers_to(file)
        finally:
            os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@pytest.fixture
def forked_meanwhile(monkeypatch):
    """The steps after which another thread tried to fork, and the exit codes of the children that it could fork."""
    steps, codes = [], []

    def watch(name):
        step = getattr(platform, name)

        def then_fork(*args, **named):
            result = step(*args, **named)
            steps.append(name)
            fd = result if name.startswith("create") else args[0]
            thread = threading.Thread(target=fork_if_possible, args=(os.fstat(fd), codes))
            thread.start()
            thread.join()
            return result

        monkeypatch.setattr(platform, name, then_fork)

    for name in STEPS:
        watch(name)
    return steps, codes


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
def test_a_new_arena(forked_meanwhile, tmp_path, on_disk):
    steps, codes = forked_meanwhile
    made = arena.make(16 * MIB, str(tmp_path) if on_disk else None, 2)
    try:
        assert steps[-2:] == ["map_private", "map_shared"]
        assert not any(codes)
        fork_if_possible(os.fstat(made.fd), codes)
        assert codes[-1] == 0, "later children do not keep it either"
    finally:
        made.close()


def test_an_arena_in_a_file_from_elsewhere(forked_meanwhile):
    """A worker's: the parent has made the file."""
    fd = arena.create(16 * MIB)
    steps, codes = forked_meanwhile
    assert not any(codes)
    made = Arena(fd)
    try:
        assert steps[-1] == "map_shared"
        assert not any(codes)
    finally:
        made.close()


def test_the_arenas_of_a_pool(forked_meanwhile):
    """The parent's, that of a worker, and that of the initializer's arguments."""
    steps, codes = forked_meanwhile
    with arrowpool.get_context("spawn").Pool(1, initializer=np.sum, initargs=(np.ones(100_000),)) as pool:
        assert pool.apply(abs, (-1,)) == 1
        assert steps.count("map_shared") == 2
        assert steps.count("map_private") >= 3
        assert not any(codes)
    pool.join()
