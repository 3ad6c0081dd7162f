"""What every test must leave behind: nothing. And the pools that the contract is checked on."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import threading
import time
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil
import pytest

import arrowpool
import arrowpool.shelf
from arrowpool.memory import facilities

METHODS = ("fork", "spawn", "forkserver")


def needs(*names):
    """For tests of what Linux alone can: skipped where the environment variable ``ARROWPOOL_WITHOUT`` takes that away."""
    missing = [name for name in names if not facilities.has(name)]
    return pytest.mark.skipif(bool(missing), reason=f"without {', '.join(missing)}: see arrowpool/memory/facilities.py")


def is_arena(path):
    """Whether that is an arena, by what ``/proc`` says of a descriptor or a map of it."""
    return re.search(r"memfd:arrowpool |/arrowpool\w{8} \(deleted\)", path) is not None


_PATIENCE_SECONDS = 3.0


@pytest.fixture(scope="session", autouse=True)
def _standard_helpers():
    """The standard library's own helper processes stay for good: start them before anything is counted."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts what runs in its background like that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    resource_tracker.ensure_running()
    multiprocessing.set_forkserver_preload(["tests.pool.tasks"])
    forkserver.ensure_running()


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports():
    """What imports have made stays for good: not to be looked through after every test."""
    gc.collect()
    gc.freeze()


#: This user's persistent shelf, which other programs may use meanwhile; tests have one of their own.
_SHELVES = {f"arrowpool-{os.geteuid()}"}


def _leavings() -> dict[str, set[str]]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "children": {str(child.pid) for child in psutil.Process().children()},
        "descriptors": {f"{fd} {_target(fd)}" for fd in os.listdir("/proc/self/fd")},
        "threads": {thread.name for thread in threading.enumerate()},
        "shared memory": {name for name in os.listdir("/dev/shm") if name.startswith("arrowpool")} - _SHELVES,
        "arenas": {line.split()[0] for line in maps if is_arena(line)},
    }


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "gone"  # the descriptor that listed the directory


@pytest.fixture(autouse=True)
def _census(request):
    """Children, descriptors, threads, shared memory and arenas, before and after."""
    if "multiprocessing-" in request.node.name:
        yield  # the standard library's pool closes its pipes only when it is collected, and pytest holds it until then
        return
    gc.collect()
    before = _leavings()
    yield
    request.node.funcargs.clear()  # pytest would hold the test's pool a little longer
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        gc.collect()
        left = {kind: now - before[kind] for kind, now in _leavings().items()}
        left["descriptors"] = {one for one in left["descriptors"] if not one.endswith("gone")}
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"the test left something behind: { {kind: what for kind, what in left.items() if what} }")
        time.sleep(0.01)  # for a process or thread that was told to end and is on its way


class Implementation:
    """One pool class under one start method."""

    def __init__(self, library, method):
        self.library = library
        self.method = method
        self.context = library.get_context(method)

    @property
    def ours(self):
        return self.library is arrowpool

    def pool(self, *args, **kwargs):
        return self.context.Pool(*args, **kwargs)

    def __repr__(self):
        return f"{self.library.__name__}-{self.method}"


OURS = [Implementation(arrowpool, method) for method in METHODS]
#: The standard library's is what ours is held against; how its workers start does not matter for that.
EVERY = [Implementation(multiprocessing, "fork"), *OURS]


def across_methods(names, cases, few=1):
    """All of these cases under fork, and the first few of them under the other start methods: each is a program to start."""
    cases = list(cases)
    pairs = [(one, case) for one in OURS for case in (cases if one.method == "fork" else cases[:few])]
    return pytest.mark.parametrize(names, pairs, ids=[f"{one.method}-{case}" for one, case in pairs])


@pytest.fixture(params=EVERY, ids=repr)
def implementation(request):
    """The standard library's pool, and ours under each start method."""
    return request.param


@pytest.fixture(params=OURS, ids=repr)
def ours(request):
    """Our pool under each start method."""
    return request.param


@pytest.fixture
def pool(implementation):
    with implementation.pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def our_pool(ours):
    with ours.pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def own_shelf(tmp_path_factory, monkeypatch):
    """Persistent objects lie in a directory of the test's; what this process owns is let go of at its end."""
    directory = tmp_path_factory.mktemp("shelf")
    monkeypatch.setenv("ARROWPOOL_SHELF_DIR", str(directory / "root"))
    yield directory / "root"
    arrowpool.shelf._close()
