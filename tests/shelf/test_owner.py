"""The owner of a process's objects: busy and stopped owners, its memory and descriptors, interruptions, forks, and strangers."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import gc
import multiprocessing
import os
import platform
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings

import arrowpool
import arrowpool.shelf
from arrowpool import Shelf, ShelfKeyError
from arrowpool.errors import ArenaFullError
from arrowpool.memory import limits
from arrowpool.shelf import (
    addresses,
    catalogue,
    client,
    files,
    keys,
    owner,
    part_files,
    places,
    reader,
    remote,
    store,
    this_process,
)
from arrowpool.shelf.catalogue import Catalogue, Location
from tests.shelf.conftest import as_nobody, root_only

fork = multiprocessing.get_context("fork")
SMALL, LARGE = 1_000, 50_000  # numbers of 8 bytes: less and more than what has a file of its own


@pytest.fixture(params=["looks", "asks"])
def way(request, monkeypatch):
    """A reader that may look into its owner's descriptors, and one that may not, and has to ask."""
    if request.param == "asks":
        monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
    return request.param


class Elsewhere:
    """A forked process that runs functions, one after another."""

    def __init__(self):
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=self._work, args=(theirs, self.pipe))
        self.process.start()
        theirs.close()

    def _work(self, pipe, parents):
        parents.close()
        while True:
            try:
                work = pipe.recv()
            except EOFError:
                return
            function, arguments = work
            try:
                pipe.send(function(*arguments))
            except Exception as error:
                pipe.send(error)

    def start(self, function, *arguments):
        self.pipe.send((function, arguments))

    def finish(self):
        return self.pipe.recv()

    def do(self, function, *arguments):
        self.start(function, *arguments)
        return self.finish()

    def stop(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # it has stopped

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self):
        if self.process.is_alive():
            self.go_on()
        self.pipe.close()
        self.process.join()
        self.process.close()


@pytest.fixture
def elsewhere_process():
    with contextlib.ExitStack() as started:

        def start():
            one = Elsewhere()
            started.callback(one.close)
            return one

        yield start


@pytest.fixture
def stopped_owner(elsewhere_process):
    """A process that holds an object and is stopped, and the key of the object."""
    one = elsewhere_process()
    key = one.do(put_full, 3)
    one.stop()
    return one, key


@pytest.fixture
def while_it_is_asked(monkeypatch):
    """Do something in a thread once this process waits for an owner's answer: ``with while_it_is_asked(act): ...``.

    There is no limit on the wait: if it does not end for another reason, the test ends by the limit that each test has.
    """
    is_asked = threading.Event()
    wait = client.wait_readable
    monkeypatch.setattr(client, "wait_readable", lambda *arguments: (is_asked.set(), wait(*arguments))[1])
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 1e6)

    @contextlib.contextmanager
    def during(act):
        thread = threading.Thread(target=lambda: is_asked.wait(30) and act())
        thread.start()
        try:
            yield
        finally:
            thread.join()

    return during


def put_full(number, count=SMALL):
    return arrowpool.put(np.full(count, number))


def sum_of(key):
    return float(arrowpool.get(key).sum())


def compute_in_c(fd):
    """Block with the interpreter's lock held, as a loop in C does, until a byte comes through the pipe."""
    ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)


@pytest.fixture
def busy():
    """Make a process compute in C during a block: ``with busy(process): ...``. The pipe is made before the process is forked."""
    reader, writer = os.pipe()

    @contextlib.contextmanager
    def busy(one):
        one.start(compute_in_c, reader)
        while not Path(f"/proc/{one.process.pid}/syscall").read_text().startswith(f"0 {reader:#x} "):
            time.sleep(0.001)
        yield
        os.write(writer, b"x")
        one.finish()

    yield busy
    os.close(reader)
    os.close(writer)


can_tell_busy = pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64", reason="asks the kernel in which system call a process is"
)


# Owners that are busy


def _check_that_it_does_not_answer(key, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(client, "PATIENCE_SECONDS", 0.3)
        assert sum_of(key) == 3 * SMALL
        with pytest.raises(TimeoutError, match=r"is there and has not answered within 0.3 s"):
            arrowpool.delete(key)
        short.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
        for ask in (arrowpool.get, arrowpool.exists, arrowpool.info):
            with pytest.raises(TimeoutError, match="is there"):
                ask(key)
        with pytest.raises(TimeoutError, match="is there"):
            arrowpool.list_keys()


@can_tell_busy
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_an_owner_that_computes_in_c_is_read_all_the_same(busy, elsewhere_process, count):
    one = elsewhere_process()
    key = one.do(put_full, 3, count)
    with busy(one):
        assert sum_of(key) == 3 * count
        assert arrowpool.exists(key)
        assert arrowpool.info(key).owner == one.process.pid
        assert key in arrowpool.list_keys()


@can_tell_busy
def test_an_owner_that_does_not_answer_is_said_to_be_there(busy, elsewhere_process, monkeypatch):
    one = elsewhere_process()
    key = one.do(put_full, 3)
    with busy(one):
        _check_that_it_does_not_answer(key, monkeypatch)
    _delete_in_spite_of_earlier_tries(key)


def _delete_in_spite_of_earlier_tries(key):
    with contextlib.suppress(
        ShelfKeyError
    ):  # the owner may find the first question in its queue, and delete the object
        arrowpool.delete(key)
    assert not arrowpool.exists(key)


def test_others_are_deleted_although_one_cannot_be(stopped_owner, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.2)
    _, key = stopped_owner
    mine = put_full(4)
    with pytest.raises(TimeoutError):
        arrowpool.delete(key, "none", mine)
    assert not arrowpool.exists(mine)


def test_an_owner_that_is_stopped_is_said_to_be_there(stopped_owner, monkeypatch):
    one, key = stopped_owner
    _check_that_it_does_not_answer(key, monkeypatch)
    one.go_on()
    _delete_in_spite_of_earlier_tries(key)


def test_a_wait_for_an_owner_is_interrupted(stopped_owner, while_it_is_asked):
    _, key = stopped_owner
    with while_it_is_asked(lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        arrowpool.delete(key)


def test_an_owner_that_ends_while_it_is_waited_for(stopped_owner, while_it_is_asked, way):
    one, key = stopped_owner
    with while_it_is_asked(one.process.kill), pytest.raises(ShelfKeyError):
        arrowpool.delete(key)
    one.process.join()
    with pytest.raises(ShelfKeyError, match="has ended"):
        arrowpool.get(key)
    assert not arrowpool.exists(key)


def _own_with_a_short_queue():
    owner._BACKLOG = 1
    return put_full(3)


def test_more_readers_at_once_than_the_kernel_lets_wait(elsewhere_process, monkeypatch):
    """Readers wait until the kernel's queue has space again."""
    one = elsewhere_process()
    key = one.do(_own_with_a_short_queue)
    monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
    one.stop()
    answers = []
    is_full = threading.Event()
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (is_full.set(), sleep(seconds)))

    def read():
        try:
            answers.append(sum_of(key))
        except BaseException as error:
            answers.append(error)

    threads = [threading.Thread(target=read) for _ in range(30)]
    for thread in threads:
        thread.start()
    assert is_full.wait(30)
    assert answers == []
    one.go_on()
    for thread in threads:
        thread.join()
    assert answers == [3.0 * SMALL] * 30


def test_silent_and_malformed_connections_hold_up_no_reader(monkeypatch, elsewhere_process):
    one = elsewhere_process()
    key = one.do(put_full, 3)
    living = keys.parse(key)
    address = addresses.address_of(os.geteuid(), living.pid, living.token)
    with contextlib.ExitStack() as silent:
        for said in (
            b"",
            b"",
            b"{",
            b"[]",
            b"[1, 2, 3]",
            b'["get", "x"]',
            b'["get", null]',
            b'["path", 1]',
            b'["delete"]',
        ):
            connection = silent.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            connection.connect(address)
            if said:
                connection.send(said)
        monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
        # Before the owner drops the silent ones, after `_TIMEOUT_SECONDS`.
        monkeypatch.setattr(client, "PATIENCE_SECONDS", owner._TIMEOUT_SECONDS / 2)
        assert sum_of(key) == 3 * SMALL


_filled = []


def _fill_the_table():
    with contextlib.suppress(OSError):
        while True:
            _filled.append(os.dup(0))


def _empty_the_table():
    for fd in _filled:
        os.close(fd)


def test_an_owner_without_a_descriptor_left(elsewhere_process, monkeypatch):
    """Readers open its objects without it. A question to it is answered once it has descriptors again."""
    is_asked = threading.Event()
    converse = client._converse
    monkeypatch.setattr(client, "_converse", lambda *arguments: (is_asked.set(), converse(*arguments))[1])
    one = elsewhere_process()
    key = one.do(_limit_and_put, 64)
    one.do(_fill_the_table)
    assert sum_of(key) == 3 * SMALL
    done = threading.Thread(target=arrowpool.delete, args=(key,))
    done.start()
    assert is_asked.wait(30)
    one.do(_empty_the_table)
    done.join()
    assert not arrowpool.exists(key)


def _limit_and_put(limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return put_full(3)


# How little it takes


def held():
    """Descriptors of this process that are memory of the shelf, and the bytes behind them."""
    files = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd:arrowpool-shelf" in os.readlink(f"/proc/self/fd/{name}"):
                files[name] = 512 * os.stat(f"/proc/self/fd/{name}").st_blocks
    return len(files), sum(files.values())


def wait_until(holds):
    """Deleting does not wait: the owner's thread may free what is deleted while it tends."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def _put_many(small, large):
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    keys = [put_full(i) for i in range(small)] + [put_full(i, LARGE) for i in range(large)]
    assert [int(arrowpool.get(key)[0]) for key in keys] == [*range(small), *range(large)]
    frames = [arrowpool.put(pd.DataFrame({"a": [float(i)] * 40_000, "w": ["x"] * 40_000})) for i in range(20)]
    assert [arrowpool.get(key)["a"].iloc[0] for key in frames] == list(range(20))
    return keys, held()[0]


def _delete_all():
    arrowpool.delete_all()
    return held()


def test_5000_objects_under_the_usual_limit(elsewhere_process, monkeypatch):
    one = elsewhere_process()
    names, descriptors = one.do(_put_many, 5_000, 600)
    assert descriptors < 300
    listed = arrowpool.shelf.list_infos()
    assert set(names) <= {info.key for info in listed}
    assert arrowpool.memory_usage() >= 8 * (5_000 * SMALL + 600 * LARGE)
    with monkeypatch.context() as asking:
        asking.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
        assert set(names) <= set(arrowpool.list_keys())
    for key, number in [(names[0], 0), (names[4_999], 4_999), (names[-1], 599), (names[5_000], 0)]:
        assert int(arrowpool.get(key)[-1]) == number
    files, nbytes = one.do(_delete_all)
    assert files <= 1
    assert nbytes == 0
    assert not set(names) & set(arrowpool.list_keys())


def test_what_is_deleted_is_given_back():
    arrowpool.delete(put_full(0), put_full(0, LARGE))
    before = len(os.listdir("/proc/self/fd"))
    for i in range(2_000):
        arrowpool.delete(put_full(i))
    for i in range(60):
        some = [put_full(i, LARGE + 20_000 * j) for j in range(3)]
        arrowpool.delete(*some)
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + places._SPARES)
    assert wait_until(lambda: held()[1] <= places._SPARES * 8 * (LARGE + 60_000))
    arrowpool.delete_all()
    assert held()[1] == 0


def test_spares_are_few_and_do_not_last(monkeypatch):
    keys = [put_full(i, LARGE) for i in range(10)]
    assert held()[0] == 10
    arrowpool.delete(*keys)
    assert wait_until(lambda: 1 <= held()[0] <= places._SPARES)
    monkeypatch.setattr(places, "WARM_SECONDS", 0.1)
    assert wait_until(lambda: held() == (0, 0)), "nothing was called, and they are gone"


def test_spares_go_where_memory_is_short(monkeypatch):
    arrowpool.delete(*[put_full(i, LARGE) for i in range(3)])
    assert held()[0] == 3
    room = 8 * LARGE * 3
    monkeypatch.setattr(limits, "headroom", lambda fd: room - held()[1])
    key = arrowpool.put(np.zeros(2 * LARGE))
    assert held()[0] == 1
    with pytest.raises(ArenaFullError):
        arrowpool.put(np.zeros(4 * LARGE))
    assert held()[0] == 1, "nothing is left of what failed"
    arrowpool.delete(key)


def _spares_and_a_full_table():
    owner.Owner._wake = lambda self: None  # its thread opens nothing meanwhile
    arrowpool.delete(*[put_full(i, LARGE) for i in range(4)])
    before = held()[0]
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    filled = []
    with contextlib.suppress(OSError):
        while True:
            filled.append(os.dup(0))
    key = put_full(7, 3 * LARGE)  # more than any spare
    for fd in filled:
        os.close(fd)
    return before, held()[0], sum_of(key)


def test_spares_go_where_descriptors_are_short(elsewhere_process):
    assert elsewhere_process().do(_spares_and_a_full_table) == (4, 1, 7 * 3 * LARGE)


def test_large_objects_share_files_where_descriptors_are_short(monkeypatch, elsewhere_process):
    monkeypatch.setattr(places, "_OWN_FILES", 2)
    frames = [pd.DataFrame({"a": np.full(LARGE, float(i)), "b": np.arange(LARGE) + i}) for i in range(8)]
    names = [arrowpool.put(frame) for frame in frames]
    assert held()[0] <= 4
    reader = elsewhere_process()
    for name, frame in zip(names, frames, strict=True):
        pd.testing.assert_frame_equal(arrowpool.get(name), frame)
        assert reader.do(_frame_sum, name) == frame["b"].sum()
        path = arrowpool.info(name).path
        assert path == arrowpool.info(name).path
        with pa.memory_map(path) as source:
            assert pa.ipc.open_file(source).read_all()["b"].to_pylist()[3] == frame["b"][3]
    mine = arrowpool.get(names[5])
    arrowpool.delete(*names[2:7])
    with_reader = held()[1]
    pd.testing.assert_frame_equal(mine, frames[5])
    others_put = [arrowpool.put(frame) for frame in frames[:3]]
    pd.testing.assert_frame_equal(mine, frames[5])
    arrowpool.delete(*others_put)
    del mine
    gc.collect()
    deadline = time.monotonic() + 10
    while held()[1] > with_reader - 4 * 16 * LARGE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held()[1] <= with_reader - 4 * 16 * LARGE
    pd.testing.assert_frame_equal(arrowpool.get(names[7]), frames[7])
    arrowpool.delete(names[0], names[1], names[7])
    arrowpool.delete_all()
    assert held()[1] == 0


def _frame_sum(key):
    return arrowpool.get(key)["b"].sum()


def test_small_objects_use_the_same_pages_again():
    """The file does not grow with the objects that come and go while one stays."""
    first = put_full(0)
    sizes = set()
    for _ in range(20):
        arrowpool.delete(*[put_full(i, count) for i, count in enumerate([100, 1_000, 5_000, 10_000])])
        name = next(n for n in os.listdir("/proc/self/fd") if "arrowpool-shelf" in _link(n))
        sizes.add(os.stat(f"/proc/self/fd/{name}").st_size)
    assert len(sizes) == 1
    assert sum_of(first) == 0


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_finalizer_may_delete_in_the_middle_of_anything(monkeypatch, count):
    """Also while this thread holds the locks that a put or another delete holds."""
    keys = [put_full(i, count) for i in range(8)]

    def delete_one():
        if keys:
            arrowpool.delete(keys.pop())

    for module, name in [
        (files, "create"),
        (limits, "memory"),
        (catalogue, "_pack"),
        (part_files.platform, "is_exclusive"),
    ]:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, original=original: (delete_one(), original(*a))[1])
    put_full(1, 3 * count)
    arrowpool.delete(put_full(2, 2 * count))
    while keys:
        arrowpool.delete(put_full(2, 2 * count))
    monkeypatch.undo()
    arrowpool.delete_all()
    assert held()[1] == 0


ROOM = os.path.dirname(arrowpool.shelf.__file__)


def interrupted(work, at, handle):
    """`work`, and `handle` as a signal handler would, before the `at`th line of the shelf; whether there was such a line."""
    lines = 0

    def count(frame, event, _):
        nonlocal lines
        if os.path.dirname(frame.f_code.co_filename) != ROOM:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                sys.settrace(None)
                handle()
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines >= at


def _put_in_the_middle_of(what):
    signal.alarm(30)  # where it waits for itself
    count = SMALL if what in ("small", "persistent") else LARGE
    arrowpool.put(np.zeros(1))
    for at in range(1, 10_000):
        keys = {}

        def put(number, keys=keys, count=count):
            persist = what == "persistent"
            key = arrowpool.put(np.full(count, number), persist=persist, key="k" if persist else None)
            keys.setdefault(key, set()).add(number * count)

        if what == "the first":
            this_process.close()
        else:
            put(0)
        if what == "deletes":
            outer = functools.partial(arrowpool.delete, keys.popitem()[0])
        else:
            outer = functools.partial(put, 1)
        goes_on = interrupted(outer, at, functools.partial(put, 2))
        for key, numbers in keys.items():
            assert sum_of(key) in numbers  # of one that is persistent, the last one
        arrowpool.delete(*keys)
        assert len(this_process.current().records()) == (what != "the first")
        assert Shelf("default").list_keys() == []
        if not goes_on:
            break
    assert at > 20
    arrowpool.delete_all()
    this_process.current().objects._places.give_back()
    assert held()[1] == 0
    os._exit(0)


@pytest.mark.parametrize("what", ["small", "large", "persistent", "deletes", "the first"])
def test_a_signal_handler_may_put_in_the_middle_of_anything(what):
    child = os.fork()
    if child == 0:
        try:
            _put_in_the_middle_of(what)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_deleted_while_another_thread_holds_the_lock_is_given_back():
    keys = [put_full(i, LARGE) for i in range(3)]
    mine = this_process.current().objects._places
    with mine._lock:
        deleter = threading.Thread(target=arrowpool.delete, args=keys)
        deleter.start()
        deleter.join(30)
        assert not deleter.is_alive(), "it waits for nobody"
        assert held()[0] == 3
    mine.give_back()
    assert held() == (0, 0)


def test_a_forked_child_has_nothing_of_it_open():
    keys = [put_full(i, LARGE) for i in range(3)] + [put_full(1)]
    arrowpool.delete(keys[0])
    child = os.fork()
    if child == 0:
        os._exit(held()[0] + sum("catalogue" in one for one in _links()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sum_of(keys[1]) == LARGE


@pytest.fixture
def stuck_at(monkeypatch):
    """Stop a thread that does `work` where it calls ``module.name``, for the time of a with block."""

    @contextlib.contextmanager
    def stuck_at(module, name, work):
        original, arrived, goes_on = getattr(module, name), threading.Event(), threading.Event()

        def wait(*arguments):
            if threading.current_thread() is thread:
                arrived.set()
                goes_on.wait(60)
            return original(*arguments)

        thread = threading.Thread(target=work)
        monkeypatch.setattr(module, name, wait)
        thread.start()
        assert arrived.wait(60)
        try:
            yield
        finally:
            goes_on.set()
            thread.join()

    return stuck_at


@pytest.mark.parametrize(
    ("module", "name"), [(reader, "take"), (part_files.platform, "map_shared"), (places.limits, "headroom")]
)
def test_a_forked_child_has_nothing_open_that_other_threads_are_at(stuck_at, module, name):
    key = arrowpool.put(pd.DataFrame({"x": np.ones(LARGE)}))
    with open(arrowpool.info(key).path, "rb") as mine, stuck_at(module, name, lambda: sum_of(put_full(2, 2 * LARGE))):
        assert held()[0] >= 3
        child = os.fork()
        if child == 0:
            links = [_link(str(mine.fileno())), *_links()]
            os._exit(sum("arrowpool-shelf" in one or "catalogue" in one for one in links))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2, "but for what a user has opened"
    assert arrowpool.get(key)["x"].sum() == LARGE


def test_a_child_that_is_forked_in_the_middle_of_a_get_goes_on(elsewhere_process):
    key = elsewhere_process().do(put_full, 3, LARGE)
    for at in range(1, 1_000, 3):
        sums, children = [], []
        try:
            goes_on = interrupted(
                lambda sums=sums: sums.append(sum_of(key)), at, lambda children=children: children.append(os.fork())
            )
        finally:
            if children == [0]:
                os._exit(sums != [3 * LARGE])
        if not goes_on:
            break
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        assert sums == [3 * LARGE]
    assert at > 10


def test_a_forked_child_lets_go_of_what_it_has_read():
    key = put_full(1, LARGE)
    array = arrowpool.get(key)
    child = os.fork()
    if child == 0:
        total = array.sum()
        del array
        gc.collect()
        os._exit(total != LARGE or "arrowpool-shelf" in Path("/proc/self/maps").read_text())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert array.sum() == LARGE


def test_a_forked_child_does_not_hold_what_another_thread_has_locked(stuck_at, own_shelf):
    """Also when its parent is killed in the middle of that."""
    arrowpool.put(1, persist=True, key="k")
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        with stuck_at(store, "_put_under", lambda: arrowpool.put(2, persist=True, key="k")):
            child = os.fork()
            if child == 0:
                os.close(reader)
                signal.pause()
            os.write(writer, b"%d" % child)
            os.kill(os.getpid(), signal.SIGKILL)
    child = int(os.read(reader, 20))
    try:
        os.waitpid(parent, 0)
        directory = os.open(own_shelf / "default", os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(directory)
        store.Store("default").clean()
        assert [path.name for path in (own_shelf / "default").iterdir()] == ["k"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def _links():
    return [_link(name) for name in os.listdir("/proc/self/fd")]


def _link(name):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{name}")
    return ""


# Readers while it changes


def _change(pipe):
    kept = []
    pipe.send(os.getpid())
    number = 0
    while not pipe.poll():
        number += 1
        kept.append(arrowpool.put(np.full(LARGE if number % 2 else SMALL, number)))
        if len(kept) > 6:
            arrowpool.delete(kept.pop(0))


def test_readers_of_an_owner_that_deletes_and_puts(way, monkeypatch):
    """What they get is one object, whole; and the owner is not ended by those who open what it looks at."""
    pipe, theirs = fork.Pipe()
    changer = fork.Process(target=_change, args=(theirs,))
    changer.start()
    pid = pipe.recv()
    read, gone = 0, 0
    until = time.monotonic() + 2
    held = []
    while time.monotonic() < until or not read:
        for key in arrowpool.list_keys():
            if key.startswith(f"{pid}-"):
                try:
                    array = arrowpool.get(key)
                except ShelfKeyError:
                    gone += 1
                    continue
                assert array[0] > 0
                assert (array == array[0]).all()
                held = [*held[-3:], (array, int(array[0]))]
                read += 1
        assert all((array == number).all() for array, number in held)
        assert changer.is_alive()
    pipe.send("enough")
    changer.join()
    assert changer.exitcode == 0
    changer.close()
    pipe.close()
    theirs.close()
    assert read > 20


def test_an_open_while_the_kernel_is_asked_who_else_has_it_open():
    """The kernel tells the owner by a signal, whose default is to end it."""
    child = os.fork()
    if child == 0:
        file = part_files.MemoryFile(4096)
        fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        me = os.getpid()
        opener = os.fork()
        if opener == 0:
            with contextlib.suppress(BlockingIOError):
                os.open(f"/proc/{me}/fd/{file.fd}", os.O_RDONLY | os.O_NONBLOCK)
                os._exit(1)
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(opener, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_path_is_made_when_it_is_asked_for(elsewhere_process):
    frame = pd.DataFrame({"a": [1.5, 2.5]})
    key = arrowpool.put(frame)
    before = held()[0]
    about = arrowpool.info(key)
    assert held()[0] == before
    assert elsewhere_process().do(_path_of, key) == about.path
    assert held()[0] == before + 1
    arrowpool.delete(key)
    with pytest.raises(ShelfKeyError):
        assert about.path


def _path_of(key):
    return arrowpool.info(key).path


# Systems with less

WITHOUT = """
    import numpy as np, os, subprocess
    frame = {i: np.full(count, float(i)) for i, count in enumerate([10, 5_000, 50_000, 400_000])}
    names = [arrowpool.put(one) for one in frame.values()]
    names += [arrowpool.put(one, persist=True) for one in frame.values()]
    def read(names):
        return [float(arrowpool.get(name).sum()) for name in names]
    expected = [float(one.sum()) for one in frame.values()] * 2
    assert read(names) == expected
    child = os.fork()
    if child == 0:
        assert read(names) == expected
        assert set(names) <= set(arrowpool.list_keys())
        arrowpool.delete(names[1], names[5])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not arrowpool.exists(names[1])
    for i in range(20):
        held = arrowpool.get(names[2]), arrowpool.get(names[6])
        arrowpool.delete(names[2], names[6])
        names[2] = arrowpool.put(np.full(50_000, 2.0))
        names[6] = arrowpool.put(np.full(50_000, 2.0), persist=True)
        assert all((one == 2.0).all() for one in held)
    arrowpool.delete_all()
    print("well")
"""


@pytest.mark.parametrize("missing", ["memfd", "lease", "fallocate", "proc", "memfd,lease,fallocate,proc"])
def test_a_shelf_on_a_system_with_less(elsewhere, monkeypatch, missing):
    monkeypatch.setenv("ARROWPOOL_WITHOUT", missing)
    assert elsewhere(WITHOUT) == "well"


# Strangers


def squat(address, *, listens=True):
    """Be another user's process that has taken an address, and takes no connection; return how to end that."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server, contextlib.ExitStack() as full:
            server.bind(address)
            server.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    one = full.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    one.setblocking(False)
                    one.connect(address)
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"x"

    def end():
        for fd in (*ready, *go):
            os.close(fd)
        os.waitpid(child, 0)

    return end


@root_only
@pytest.mark.parametrize("kernel_tells", [True, False])
def test_a_stranger_takes_a_name_like_ours(request, monkeypatch, elsewhere_process, kernel_tells):
    if not kernel_tells:
        monkeypatch.setattr(addresses, "listeners", lambda: None)
    one = elsewhere_process()
    key = one.do(put_full, 3)
    _, pid, token = addresses.parse_address(next(a for a in _our_addresses() if f"/{one.process.pid}/".encode() in a))
    for user in ("65534", "00", "1000", "0/0"):
        request.addfinalizer(squat(f"{addresses._PREFIX}/{user}/{pid}/{token}"))
    request.addfinalizer(squat(f"{addresses._PREFIX}/0/{pid}/ffffffff"))
    began = time.monotonic()
    assert sum_of(key) == 3 * SMALL
    if kernel_tells:
        assert key in arrowpool.list_keys()
        with pytest.raises(ShelfKeyError, match="has ended"):
            arrowpool.get(f"{pid}-ffffffff-1")
        assert time.monotonic() - began < 2
    arrowpool.delete(key)
    assert not arrowpool.exists(key)


def _our_addresses():
    with open("/proc/net/unix") as file:
        return [b"\0" + line.split()[-1][1:].encode() for line in file if "@arrowpool-shelf/" in line]


@root_only
@pytest.mark.parametrize("kernel_tells", [True, False])
def test_a_stranger_under_the_name_of_an_owner_that_has_ended(request, monkeypatch, elsewhere_process, kernel_tells):
    if not kernel_tells:
        monkeypatch.setattr(addresses, "listeners", lambda: None)
        monkeypatch.setattr(client, "_STRANGER_SECONDS", 0.2)
    one = elsewhere_process()
    key = one.do(put_full, 3)
    living = keys.parse(key)
    one.process.kill()
    one.process.join()
    request.addfinalizer(squat(addresses.address_of(0, living.pid, living.token)))
    began = time.monotonic()
    if kernel_tells:
        with pytest.raises(ShelfKeyError, match="has ended or never had it"):
            arrowpool.get(key)
        assert key not in arrowpool.list_keys()
    else:
        with pytest.raises((ShelfKeyError, TimeoutError)):
            arrowpool.get(key)
    assert time.monotonic() - began < 3


@root_only
def test_keys_of_another_users_living_process(monkeypatch):
    key = arrowpool.put("it")

    def spy():
        try:
            arrowpool.get(key)
        except PermissionError as error:
            return str(error)
        return "read"

    assert "process of another user (0)" in as_nobody(spy)


def test_addresses_of_listeners_as_the_kernel_tells_them():
    arrowpool.put("it")
    mine = addresses.address_of(os.geteuid(), os.getpid(), this_process.current().token).encode()
    told = addresses.listeners()
    if told is None:
        pytest.skip("this kernel does not tell")
    assert told[mine] == os.geteuid()
    assert mine in _our_addresses()
    assert addresses.parse_address(mine) == (os.geteuid(), os.getpid(), this_process.current().token)


@pytest.mark.parametrize(
    "address", ["/0/1", "/00/1/ab", "/0/1/ab/c", "/x/1/ab", "/0/-1/ab", "/\u0660/1/ab", "x/0/1/ab", ""]
)
def test_addresses_of_another_form(address):
    assert addresses.parse_address((addresses._PREFIX + address).encode()) is None


# The catalogue


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=60))
def test_a_catalogue_is_a_dictionary(steps):
    """Add, or remove one of those that are there; no number comes twice."""
    kept = Catalogue(7, "abcdabcd")
    model, ever = {}, set()
    try:
        for step in steps:
            if step is None:
                parts = {"exact.bin": Location(3, 1 << 40, 4096 * len(ever), 5)}
                record = kept.add("Größe" * len(ever), 1.5, parts)
                assert record.number not in ever
                ever.add(record.number)
                model[record.number] = parts
            elif step < len(model):
                number = list(model)[step]
                assert catalogue.has(kept.fd, number)
                kept.remove(number)
                del model[number]
                assert not catalogue.has(kept.fd, number)
            assert {record.number: record.parts for record in catalogue.read(kept.fd)} == model
        for number in ever:
            found = catalogue.find(kept.fd, number)
            assert (found is not None) == (number in model)
        assert catalogue.is_of(kept.fd, 7, "abcdabcd")
        assert not catalogue.is_of(kept.fd, 8, "abcdabcd")
        assert os.fstat(kept.fd).st_size <= 256 * (1 + len(steps))
    finally:
        kept.close()


@pytest.mark.parametrize("number", [0, -1, 1, 1 << 24, 1 << 70])
def test_a_number_that_nothing_has(number):
    kept = Catalogue(7, "abcdabcd")
    try:
        assert catalogue.find(kept.fd, number) is None
    finally:
        kept.close()


def test_a_slot_that_is_read_while_it_is_written():
    kept = Catalogue(7, "abcdabcd")
    try:
        record = kept.add("ndarray", 1.5, {"exact.bin": Location(3, 4, 5, 6)})
        os.pwrite(kept.fd, b"\xff", 256 + 60)
        with pytest.raises(OSError, match="cannot be read"):
            catalogue.find(kept.fd, record.number)
        kept.remove(record.number)
        assert list(catalogue.read(kept.fd)) == []
    finally:
        kept.close()


def test_an_error_of_the_owner_is_not_its_end(elsewhere_process, monkeypatch):
    monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
    one = elsewhere_process()
    key = one.do(_put_and_fail)
    with pytest.raises(OSError, match=r"failed: .*too many"):
        arrowpool.get(key)
    with Shelf() as shelf:
        assert shelf.list_keys() == []


def _put_and_fail():
    key = put_full(3)

    def fail(fd):
        raise OSError(errno.EMFILE, "too many open files")

    files.read_only = fail
    return key
