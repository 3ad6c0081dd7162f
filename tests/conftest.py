"""What every test must leave behind: nothing. And the pools that the contract is checked on."""

from __future__ import annotations

import contextlib
import copyreg
import gc
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import numpy as np
import psutil
import pytest

import arrowpool
from arrowpool.memory import facilities
from tests import programs
from tests.pool import tasks

METHODS = ("fork", "spawn", "forkserver")


def needs(*names):
    """For tests of what Linux alone can: skipped where the environment variable ``ARROWPOOL_WITHOUT`` takes that away."""
    missing = [name for name in names if not facilities.has(name)]
    return pytest.mark.skipif(bool(missing), reason=f"without {', '.join(missing)}: see arrowpool/memory/facilities.py")


def is_arena(path):
    """Whether that is an arena, by what ``/proc`` says of a descriptor or a map of it."""
    return re.search(r"memfd:arrowpool |/arrowpool\w{8} \(deleted\)", path) is not None


#: Folders and modules whose tests take long. They begin first: a process that begins one last is waited for by all others.
_BEGIN_FIRST = (
    "tests/trials/",
    "tests/cpython/",
    "tests/test_benchmarks.py",
    "tests/test_readme.py",
    "tests/notebooks/",
    "tests/pool/test_environments.py",
    "tests/pool/test_soak.py",
    "tests/integrations/",
    "tests/cli/",
    "tests/executor/",
    "tests/pool/",
)
#: And those of which each takes a moment: what is left of them is easily shared out.
_BEGIN_LAST = ("tests/shelf/test_layout.py", "tests/transport/", "tests/engine/", "tests/codecs/")


def pytest_collection_modifyitems(items):
    ranks = {place: rank for rank, place in enumerate([*_BEGIN_FIRST, "", *_BEGIN_LAST])}

    def rank(item):
        return next((ranks[place] for place in ranks if place and item.nodeid.startswith(place)), ranks[""])

    def method(item):
        return next((at for at, name in enumerate(METHODS) if re.search(rf"\b{name}\b", item.name)), -1)

    # By start method within a module: where a process takes over a part of it, it does not start all pools again.
    items.sort(key=lambda item: (rank(item), item.path, method(item)))


_PATIENCE_SECONDS = 3.0

# A thousand processes import the package in a run of the tests. Python compiles it once, and pytest the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def _standard_helpers():
    """The standard library's own helper processes stay for good: start them before anything is counted."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts what runs in its background like that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    resource_tracker.ensure_running()
    # Workers of a server fork with all imported. Spawned workers, and all in programs that tests start, import for themselves.
    multiprocessing.set_forkserver_preload(["tests.pool.tasks", "pandas", "pyarrow"])
    forkserver.ensure_running()
    programs.start()
    yield
    programs.stop()


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports():
    """What imports have made stays for good: not to be looked through after every test."""
    gc.collect()
    gc.freeze()


#: This user's persistent shelf, which other programs may use meanwhile; tests have one of their own.
_SHELVES = {f"arrowpool-{os.geteuid()}"}


def _leavings(kinds) -> dict[str, set[str]]:
    """What there is of these kinds: to read all maps, for one, takes longer than most tests."""
    return {kind: _KINDS[kind]() for kind in kinds}


def _children() -> set[str]:
    """Process ids, from the kernel's own list where it has one: psutil reads a file of every process of the machine."""
    try:
        lists = [Path(f"/proc/self/task/{thread}/children").read_text() for thread in os.listdir("/proc/self/task")]
    except OSError:  # a kernel without it, or a thread that has just ended
        return {str(child.pid) for child in psutil.Process().children()}
    return {pid for one in lists for pid in one.split()}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "gone"  # the descriptor that listed the directory


def _descriptors() -> set[str]:
    return {f"{fd} {_target(fd)}" for fd in os.listdir("/proc/self/fd")}


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def _shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("arrowpool")} - _SHELVES


def _arenas() -> set[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[0] for line in maps if "arrowpool" in line and is_arena(line)}


_KINDS = {
    "children": _children,
    "descriptors": _descriptors,
    "threads": _threads,
    "shared memory": _shared_memory,
    "arenas": _arenas,
}
#: A pool opens files and maps memory when it first needs them, and keeps them: compared once the pool has ended.
_KINDS_WHILE_A_POOL_RUNS = ("children", "threads", "shared memory")


def _wait_until_nothing_is_left(before, kinds, whose) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        gc.collect()
        now = _leavings(kinds)
        left = {kind: now[kind] - before[kind] for kind in kinds}
        if kinds is _KINDS_WHILE_A_POOL_RUNS:
            left["threads"].discard("arrowpool-copy")  # started with the first large copy
        if "descriptors" in left:
            left["descriptors"] = {one for one in left["descriptors"] if not one.endswith("gone")}
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"{whose} left something behind: { {kind: what for kind, what in left.items() if what} }")
        time.sleep(0.01)  # a process or thread that was told to end is on its way


@pytest.fixture(autouse=True)
def _census(request):
    """Children, descriptors, threads, shared memory and arenas, before and after each test."""
    pools = workers = shared = None
    name = next((name for name in ("pool", "our_pool") if name in request.fixturenames), None)
    if "_pools" in request.fixturenames and not request.node.get_closest_marker("own_pool"):
        pools, shared = request.getfixturevalue("_pools"), request.getfixturevalue(name)
        workers = {worker.pid for worker in shared._pool}
    stdlib = "multiprocessing-" in request.node.name  # its pool closes its pipes only when it is collected
    kinds = _KINDS if shared is None else _KINDS_WHILE_A_POOL_RUNS
    gc.collect()
    before = None if stdlib else _leavings(kinds)
    yield
    request.node.funcargs.clear()  # pytest would hold the test's pool a little longer
    if shared is not None:
        pools.verify(shared, workers)
    if not stdlib:
        _wait_until_nothing_is_left(before, kinds, "the test")


@contextlib.contextmanager
def exceptions_pickled_as_before():
    """Where Dask is imported, it has all exceptions of the process pickled in a way of its own. That is taken back at the end."""
    known = set(copyreg.dispatch_table)
    try:
        yield
    finally:
        for cls in [cls for cls in copyreg.dispatch_table if issubclass(cls, BaseException) and cls not in known]:
            del copyreg.dispatch_table[cls]


@pytest.fixture(autouse=True)
def _pickling():
    with exceptions_pickled_as_before():
        yield


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


#: For what the pool does in its own process, and waits for: how its workers start does not matter then.
forked_only = pytest.mark.parametrize("ours", OURS[:1], ids=repr)


@pytest.fixture(params=EVERY, ids=repr)
def implementation(request):
    """The standard library's pool, and ours under each start method."""
    return request.param


@pytest.fixture(params=OURS, ids=repr)
def ours(request):
    """Our pool under each start method."""
    return request.param


class Pools:
    """The pools of a module: one for each implementation, made for the first test that asks for it.

    A test that ends its pool, kills workers, or looks at what the pool counts is marked ``own_pool`` and gets another.
    """

    def __init__(self, module):
        self._module = module
        self._open = {}

    def of(self, implementation):
        if implementation not in self._open:
            pool = implementation.pool(2)
            # All workers are up, have imported what tests need, and have memory for results. (One that is interrupted
            # while it imports something is replaced.)
            with tempfile.TemporaryDirectory() as directory:
                pool.starmap(tasks.get_ready, [(np.ones(20_000), directory, 2, self._module)] * 2, 1)
            self._open[implementation] = pool
        return self._open[implementation]

    def verify(self, pool, workers):
        """The pool is as the test found it: it has the same workers, nothing to do, and works."""
        try:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while pool._cache and time.monotonic() < deadline:
                gc.collect()
                time.sleep(0.01)
            assert not pool._cache, "the test left a call that has not ended"
            assert pool.map_async(abs, [-1, -2, -3, -4], 1).get(30) == [1, 2, 3, 4]
            assert {worker.pid for worker in pool._pool} == workers, "the test lost a worker: mark it `own_pool`"
        except BaseException:
            self._end(next(one for one, other in self._open.items() if other is pool))
            raise

    def _end(self, implementation):
        with self._open.pop(implementation) as pool:
            pass
        pool.join()

    def end(self):
        for implementation in list(self._open):
            self._end(implementation)


@pytest.fixture(scope="module")
def _pools(request):
    before = _leavings(_KINDS)
    pools = Pools(request.module.__name__)
    yield pools
    stdlib = any(one.library is multiprocessing for one in pools._open)
    pools.end()
    # The standard library's pool is collected at some time.
    _wait_until_nothing_is_left(before, _KINDS_WHILE_A_POOL_RUNS if stdlib else _KINDS, "the module's pools")


def _pool_of(request, implementation):
    if request.node.get_closest_marker("own_pool"):
        with implementation.pool(2) as pool:
            yield pool
        pool.join()
    else:
        yield request.getfixturevalue("_pools").of(implementation)


@pytest.fixture
def pool(request, implementation, _pools):
    """The standard library's pool, and ours under each start method, with two workers; see `Pools`."""
    yield from _pool_of(request, implementation)


@pytest.fixture
def our_pool(request, ours, _pools):
    """Our pool under each start method, with two workers; see `Pools`."""
    yield from _pool_of(request, ours)


@pytest.fixture(scope="session")
def kept_directory(request, tmp_path_factory):
    """Makes directories that later runs find as this one has left them, for tools with a cache; empty ones without pytest's own."""
    cache = getattr(request.config, "cache", None)
    return tmp_path_factory.mktemp if cache is None else cache.mkdir


@pytest.fixture
def own_shelf(tmp_path_factory, monkeypatch):
    """Persistent objects lie in a directory of the test's; what this process owns is let go of at its end."""
    directory = tmp_path_factory.mktemp("shelf")
    monkeypatch.setenv("ARROWPOOL_SHELF_DIR", str(directory / "root"))
    yield directory / "root"
    if facilities.has("linux"):  # elsewhere, the shelf is files
        from arrowpool.shelf import this_process

        this_process.close()
