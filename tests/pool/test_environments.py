"""Where a process may find itself: few descriptors, little memory, little of a file system, few rights.

Each case is a program of its own. What only root can arrange is skipped for others.
"""

from __future__ import annotations

import os
import textwrap
import time

import numpy as np
import pytest

import arrowpool
from arrowpool.memory import arena, facilities, limits
from tests import programs
from tests.conftest import OURS, across_methods, needs
from tests.pool import tasks

LIMIT = 100
MIB = 1 << 20


@pytest.fixture(params=[one for one in OURS if one.method != "forkserver"], ids=repr)
def ours(request):
    """Our pool with forked and with spawned workers; those of a fork server find themselves where spawned ones do."""
    return request.param


HEAD = """
    import gc, os, resource, sys
    import numpy as np
    import pandas as pd
    import arrowpool
    from arrowpool.memory import platform
    from arrowpool.memory.platform import linux
    from tests.pool import tasks

    METHOD = sys.argv[1]

    def check(pool, count=40, rows=20_000):
        # Frames there and back, all held, each its own.
        frames = [tasks.frame_of(i, rows) for i in range(count)]
        doubled = pool.map(tasks.double, frames, 1)
        doubled += list(pool.imap(tasks.double, frames))
        for i, frame in enumerate(doubled):
            assert (frame == 2.0 * (i % count)).all(axis=None), i
        return doubled

    def check_worker(array, settings):
        assert array.sum() == 4999950000.0 and settings == {"a": 1}

    def said(*words):
        print(*words, flush=True)
"""


def run(program, method, tmp_path, *, prepare=None):
    """Run a program, after the shell commands `prepare` in a mount namespace of its own."""
    script = tmp_path / "script.py"
    body = textwrap.indent(textwrap.dedent(program), "    ")
    script.write_text(textwrap.dedent(HEAD) + '\nif __name__ == "__main__":\n' + body)
    if prepare is not None and os.geteuid() != 0:
        pytest.skip("needs root")
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1"}
    done = programs.run([script, method], timeout=LIMIT, env=environment, prepare=prepare)
    if prepare is not None and "ermission denied" in done.stderr and "mount" in done.stderr:
        pytest.skip(f"this container may not mount: {done.stderr}")
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_few_descriptors_and_2000_frames_in_flight(ours, tmp_path):
    program = """
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with arrowpool.get_context(METHOD).Pool(4) as pool:
            frames = [tasks.frame_of(i, 2_000) for i in range(2000)]
            held = [pool.apply_async(tasks.double, (frame,)) for frame in frames]
            results = [result.get(60) for result in held]
            assert all(float(frame.iloc[7, 1]) == 2.0 * i for i, frame in enumerate(results))
            said("shared", pool.stats().shared_bytes)
        pool.join()
        said("ok")
    """
    done = run(program, ours.method, tmp_path)
    assert done.stdout.split() == ["shared", str(2 * 2000 * 2000 * 4 * 8), "ok"]


def test_too_few_descriptors_for_a_pool(ours, tmp_path):
    program = """
        arrowpool.get_context(METHOD).Pool(1).terminate()  # starts the standard library's helpers
        gc.collect()
        opened = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        taken = [os.dup(0) for _ in range(256 - opened - 8)]
        try:
            arrowpool.get_context(METHOD).Pool(8)
        except OSError as error:
            said(type(error).__name__)
        gc.collect()
        for fd in taken:
            os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == opened, os.listdir("/proc/self/fd")
        with arrowpool.get_context(METHOD).Pool(2) as pool:
            check(pool)
        pool.join()
        said("ok")
    """
    assert run(program, ours.method, tmp_path).stdout.split() == ["OSError", "ok"]


def test_more_workers_than_the_soft_limit_has_descriptors_for(tmp_path):
    program = """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        with arrowpool.get_context(METHOD).Pool(40) as pool:
            assert pool.map(abs, range(-200, 0), 1) == list(range(200, 0, -1))
            said(resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200)
        pool.join()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        arrowpool.get_context(METHOD).Pool(1).terminate()
        said(resource.getrlimit(resource.RLIMIT_NOFILE) == before)
    """
    done = run(program, "fork", tmp_path)
    assert done.stdout.split() == ["True", "True"]
    assert done.stderr == ""


def test_a_pool_that_the_hard_limit_is_too_small_for_says_so(tmp_path):
    program = """
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 128))
        try:
            arrowpool.get_context(METHOD).Pool(40)
        except OSError as error:
            said(resource.getrlimit(resource.RLIMIT_NOFILE) == (128, 128))
    """
    done = run(program, "fork", tmp_path)
    assert done.stdout == "True\n"
    assert "a pool of 40 workers needs up to 216 descriptors, but this process may have only 128 open" in done.stderr


def opened():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("ending", ["close", "terminate"])
def test_descriptors_of_a_pool(ours, ending):
    """Three descriptors a worker, in addition to the two of the standard library. None after the end of the pool, although results
    and the pool object are alive.
    """
    counts, kept = {}, []
    for workers in (2, 6):
        before = opened()
        pool = ours.pool(workers)
        assert pool.map(tasks.first, [np.ones(100_000)] * 4 * workers, 1) == [1.0] * 4 * workers
        pool.map(tasks.pid, range(4 * workers), 1)
        counts[workers] = opened() - before
        getattr(pool, ending)()
        pool.join()
        assert opened() <= before + 1  # of the process: which pages were written to
        kept.append(pool)
    assert counts[6] - counts[2] <= 4 * 5


@across_methods(("ours", "spare"), [700, 4096])
def test_little_address_space(ours, tmp_path, spare):
    program = f"""
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + {spare} * (1 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with arrowpool.get_context(METHOD).Pool(2) as pool:
            check(pool)
            try:
                pool.map(tasks.first, [np.ones(1 << 27)] * 2)
            except MemoryError as error:
                said("MemoryError")
            check(pool)
        pool.join()
        said("ok")
    """
    assert run(program, ours.method, tmp_path).stdout.split() in (["ok"], ["MemoryError", "ok"])


WITHOUT_MEMFD = """
    def missing(name):
        raise OSError("no memfd")

    linux._memfd_create = missing
"""
USE = """
    with arrowpool.get_context(METHOD).Pool(2) as pool:
        check(pool)
        said(pool.stats().shared_bytes > 0)
    pool.join()
    said("ok")
"""
ATTEMPT = """
    try:
        open("/tmp/x", "w")
    except OSError:
        said("read-only")
"""
# The devices that Python needs, in a /dev of nothing else.
BARE_DEV = (
    "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && mknod /dev/random c 1 8"
    " && chmod 666 /dev/*"
)
FILE_SYSTEMS = {
    "16 MB of /dev/shm": "mount -t tmpfs -o size=16m none /dev/shm",
    "no /dev/shm": BARE_DEV,
    "read-only /dev/shm": "mount -t tmpfs -o ro none /dev/shm",
    "no /proc": "mount -t tmpfs none /proc",
}


@across_methods("one, where", FILE_SYSTEMS)
def test_odd_file_systems(one, tmp_path, where):
    done = run(USE, one.method, tmp_path, prepare=FILE_SYSTEMS[where])
    assert done.stdout.split() == ["True", "ok"]
    assert done.stderr == ""


@across_methods("one, where", ["as it is", "16 MB of /dev/shm", "no /dev/shm", "read-only /dev/shm"])
def test_odd_file_systems_without_memfd(one, tmp_path, where):
    done = run(WITHOUT_MEMFD + USE, one.method, tmp_path, prepare=FILE_SYSTEMS.get(where))
    assert done.stdout.split() == ["True", "ok"]
    assert done.stderr.count("no memfd") == facilities.has("memfd")


LESS = {
    # Where what is refused is refused to all that the process starts.
    "memfd and fallocate are refused": (
        "from tests.memory import hostile; hostile.refuse('memfd_create', 'fallocate')",
        1,
    ),
    "functions are missing": (
        "import fcntl; del os.memfd_create, os.posix_fallocate, fcntl.F_SETLEASE, os.pidfd_open",
        0,
    ),
}


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="numbers of system calls")
@across_methods("one, what", LESS)
def test_a_system_with_less(one, tmp_path, what):
    program, warnings = LESS[what]
    done = run(f"\n    {program}\n{USE}", one.method, tmp_path)
    assert done.stdout.split() == ["True", "ok"]
    assert done.stderr.count("no memfd") == (warnings if facilities.has("memfd") else 0)


def test_a_system_without_any_file(ours, tmp_path):
    """No memfd, no directory to write to: everything is pickled, and a warning says so once."""
    program = """
        import tempfile

        def missing(*_):
            raise FileNotFoundError("no file")

        linux._memfd_create = platform.create_unlinked = tempfile.gettempdir = missing
        with arrowpool.get_context(METHOD).Pool(2, check_worker, (np.arange(100_000.0), {"a": 1})) as pool:
            check(pool)
            said(pool.stats().shared_bytes, pool.apply(os.getpid) in [worker.pid for worker in pool._pool])
            try:
                pool.apply(tasks.die, ("sigkill",))
            except arrowpool.WorkerLostError:
                said("WorkerLostError")
            check(pool)
        pool.join()
        with arrowpool.get_context(METHOD).Pool(1) as pool:
            check(pool)
        pool.join()
        said("ok")
    """
    done = run(program, ours.method, tmp_path)
    assert done.stdout.split() == ["0", "True", "WorkerLostError", "ok"]
    assert done.stderr.count("no shared memory") == 1


@needs("memfd")
@pytest.mark.parametrize("method", ["fork", "spawn"])  # the standard library's forkserver wants to write
def test_a_read_only_root(tmp_path, method):
    prepare = "mount -t tmpfs none /proc/tty && mount -o remount,bind,ro /"
    done = run(USE + ATTEMPT, method, tmp_path, prepare=prepare)
    assert done.stdout.split() == ["True", "ok", "read-only"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_has_dropped_its_privileges(tmp_path, when):
    """Before the pool is made, or after: then its workers are replaced by such a process."""
    program = f"""
        import multiprocessing.popen_fork  # the interpreter's own files may be out of reach afterwards

        def drop():
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)

        if {when!r} == "before":
            drop()
        with arrowpool.get_context("fork").Pool(2, maxtasksperchild=3) as pool:
            check(pool)
            if {when!r} == "after":
                for worker in pool._pool:
                    worker.kill()
                drop()
            check(pool)
            assert pool.apply(os.getuid) == 65534
            said(pool.stats().shared_bytes > 0)
        pool.join()
        said("ok")
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to drop it")
    assert run(program, "fork", tmp_path).stdout.split() == ["True", "ok"]


@pytest.fixture
def memory_group():
    """A memory cgroup with a limit, as a container has: the files to write a process id to."""
    made = []
    try:
        for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            group = os.path.join(root, f"arrowpool-test-{os.getpid()}")
            if os.path.isdir(root) and os.geteuid() == 0:
                os.makedirs(group, exist_ok=True)
                made.append(group)
                if os.path.exists(os.path.join(group, name)):
                    with open(os.path.join(group, name), "w") as file:
                        file.write(str(1024 * MIB))
                    yield os.path.join(group, "cgroup.procs")
                    return
        pytest.skip("needs root and a memory cgroup")
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    finally:
        for group in made:
            remove(group)


def remove(group):
    for _ in range(500):  # processes that have ended leave it a moment later
        try:
            return os.rmdir(group)
        except OSError:
            time.sleep(0.01)
    return os.rmdir(group)


@needs("proc", "fallocate")  # memory that is free, and cannot be given back, counts against the limit
def test_the_limit_of_a_container(ours, tmp_path, memory_group):
    """The budget stays within the limit. Memory beyond it is an error, not the end by the kernel's out-of-memory killer."""
    program = f"""
        from arrowpool.memory.limits import limits

        open({memory_group!r}, "w").write(str(os.getpid()))
        given = limits()
        assert given.capacity <= 1 << 30 and given.budget <= 1 << 29, given
        with arrowpool.get_context(METHOD).Pool(2) as pool:
            held = []
            try:
                for i in range(40):
                    held.append(pool.apply(tasks.zeros, (1 << 23,)))  # 64 MB each, all held
            except MemoryError as error:
                said("MemoryError", 4 < len(held) < 16)
                assert "available" in str(error) or "no room" in str(error) or "no space" in str(error), error
            del held
            gc.collect()
            check(pool)
            assert pool.map(tasks.first, [np.ones(1 << 22)] * 10, 1) == [1.0] * 10
        pool.join()
        said("ok")
    """
    done = run(program, ours.method, tmp_path)
    assert done.stdout.split() == ["MemoryError", "True", "ok"], done.stdout


@needs("proc", "fallocate")
def test_many_workers_in_a_small_container_keep_results(tmp_path, memory_group):
    """Each may take a little without asking: all of them together no more than there is. And who fails does so soon."""
    program = f"""
        import time

        open({memory_group!r}, "w").write(str(os.getpid()))
        with arrowpool.get_context(METHOD).Pool(8) as pool:
            results = [pool.apply_async(tasks.zeros, (1 << 20,)) for i in range(200)]  # 8 MB each
            held, refused = [], 0
            for result in results:
                try:
                    held.append(result.get(60))
                except MemoryError:
                    refused += 1
            said(len(held) > 60, refused > 60)
            began = time.monotonic()
            for _ in range(3):
                try:
                    held.append(pool.apply(tasks.zeros, (1 << 23,)))
                except MemoryError as error:
                    said("MemoryError")
            said(time.monotonic() - began < 2)
            del held, results, result
            gc.collect()
            check(pool)
        pool.join()
        said("ok")
    """
    done = run(program, "fork", tmp_path)
    assert done.stdout.split() == ["True", "True", *["MemoryError"] * 3, "True", "ok"], done.stdout


def test_no_memory_for_an_argument(ours, monkeypatch):
    with ours.pool(2) as pool:
        small, large = np.ones(100_000), np.ones(4 * MIB)
        assert pool.map(tasks.first, [small] * 4, 1) == [1.0] * 4
        monkeypatch.setattr(arena, "headroom", lambda fd: 8 * MIB)
        pool._task_handler.parts.sender.arena._headroom = 0
        with pytest.raises(MemoryError, match=r"available.*spill_dir"):
            pool.apply_async(tasks.first, (large,)).get(LIMIT)
        assert pool.map_async(tasks.first, [small] * 4, 1).get(LIMIT) == [1.0] * 4
        with pytest.raises(MemoryError):
            pool.map_async(tasks.first, [small, large, small], 1).get(LIMIT)
    pool.join()


def test_no_memory_for_a_result(monkeypatch):
    monkeypatch.setattr(arena, "headroom", lambda fd: 8 * MIB)
    with arrowpool.get_context("fork").Pool(2) as pool:
        with pytest.raises(MemoryError, match="available"):
            pool.apply_async(tasks.zeros, (4 * MIB,)).get(LIMIT)
        assert pool.apply_async(tasks.zeros, (MIB // 2,)).get(LIMIT).nbytes == 4 * MIB
    pool.join()


def test_segments_on_a_disk(ours, tmp_path):
    with ours.pool(2, spill_dir=tmp_path, max_bytes=20 * MIB) as pool:
        frames = [tasks.frame_of(i, 100_000) for i in range(6)]
        large = np.arange(8 * MIB, dtype=float)  # more than the budget
        assert not list(tmp_path.iterdir())
        doubled = pool.map(tasks.double, frames, 1)
        assert pool.apply(tasks.first, (large + 1,)) == 1.0
        assert np.array_equal(pool.apply(tasks.double, (large,)), large * 2)
        assert all((frame == 2.0 * i).all(axis=None) for i, frame in enumerate(doubled))
        if os.path.exists("/proc/self/fd"):
            targets = {
                os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and alive(fd)
            }
            assert any(target.startswith(str(tmp_path)) for target in targets)
    pool.join()
    assert not list(tmp_path.iterdir())


def alive(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_spill_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        arrowpool.Pool(1, spill_dir=tmp_path / "missing")


@needs("proc")
def test_limits_of_control_groups(tmp_path, monkeypatch):
    """The tightest limit on the way up binds; inside a container the own group may be mounted as the root."""

    def tree(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(limits, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert limits._cgroup_memory() is None
    tree({"proc/self/cgroup": "0::/a/b\n"})
    assert limits._cgroup_memory() is None
    tree({"sys/fs/cgroup/a/memory.max": "1000", "sys/fs/cgroup/a/memory.current": "700"})
    tree({"sys/fs/cgroup/a/memory.stat": "anon 400\ninactive_file 200\n"})
    assert limits._cgroup_memory() == (1000, 500)
    tree({"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/b/memory.current": "10"})
    assert limits._cgroup_memory() == (1000, 500)
    tree({"sys/fs/cgroup/memory.max": "300", "sys/fs/cgroup/memory.current": "100"})
    assert limits._cgroup_memory() == (300, 100)
    tree({"proc/self/cgroup": "4:memory:/x\n1:cpu:/\n"})
    tree({"sys/fs/cgroup/memory/memory.limit_in_bytes": "5000", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1"})
    assert limits._cgroup_memory() == (5000, 1)


def test_polars_and_the_interpreter_do_not_wait_for_each_other(ours, tmp_path):
    """Its threads let go of our memory while its calls hold the interpreter's lock; here and in the worker."""
    program = """
        import polars as pl
        frame = pl.DataFrame({"x": np.arange(20_000.0), "l": [[1, 2, i] for i in range(20_000)]})
        with arrowpool.get_context(METHOD).Pool(1) as pool:
            for _ in range(5):
                assert pool.apply(tasks.extend_and_pickle, (frame,)) > frame.estimated_size()
                assert tasks.extend_and_pickle(pool.apply(tasks.identity, (frame,))) > frame.estimated_size()
        said("done")
    """
    assert run(program, ours.method, tmp_path).stdout == "done\n"
