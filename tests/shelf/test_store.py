"""Persistent objects: a dictionary that many processes write to, any of which may end at any point."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

import arrowpool
from arrowpool import Shelf, ShelfKeyError
from arrowpool.errors import ArenaFullError
from arrowpool.memory import platform
from arrowpool.shelf import directories, entries, keys, locks, store, this_process
from tests.shelf.conftest import as_nobody, in_a_child, root_only

fork = multiprocessing.get_context("fork")


@pytest.fixture(params=["exchange", "no exchange"])
def renames(request, monkeypatch):
    """Where two names can be exchanged in one step, and where they cannot."""
    if request.param == "no exchange":
        monkeypatch.setattr(directories, "exchange", lambda directory, one, other: False)


@pytest.fixture
def two_roots(tmp_path, monkeypatch):
    """Two places for shelves; what is large goes to the second."""
    places = [tmp_path / "memory", tmp_path / "disk"]
    monkeypatch.setattr(directories, "roots", lambda: (places, False))
    fits = store._fits

    def fits_like_that(directory, nbytes):
        is_first = os.path.realpath(f"/proc/self/fd/{directory}").startswith(str(places[0]))
        return fits(directory, nbytes) and (nbytes < 100_000 or not is_first)

    monkeypatch.setattr(store, "_fits", fits_like_that)
    return places


def value(number, *, large=False):
    return np.full(30_000 if large else 5_000, number, dtype=np.int64)


def number_of(array):
    assert (array == array[0]).all()
    return int(array[0])


def everything_in(*roots):
    return sorted(str(path.relative_to(root)) for root in roots for path in root.glob("*/*"))


class AsADictionary(RuleBasedStateMachine):
    """What is done to a shelf and to a dictionary has the same effect."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.model = {}
        self.held = []
        self.shelves = {name: Shelf(name) for name in ("default", "features")}

    @rule(
        target=names, name=st.one_of(st.from_regex(r"[a-c0-9_][a-c0-9.-]{0,2}", fullmatch=True), st.just("2024-01-15"))
    )
    def named(self, name):
        return name

    @rule(shelf=st.sampled_from(["default", "features"]), name=names, number=st.integers(0, 99), large=st.booleans())
    def put(self, shelf, name, number, large):
        full = self.shelves[shelf].put(value(number, large=large), name)
        assert full == (name if shelf == "default" else f"features/{name}")
        self.model[shelf, name] = number

    @rule(shelf=st.sampled_from(["default", "features"]), name=names)
    def get(self, shelf, name):
        for ask in self.ways(shelf, name, "get"):
            if (shelf, name) in self.model:
                array = ask()
                assert number_of(array) == self.model[shelf, name]
                self.held = [*self.held[-3:], (array, self.model[shelf, name])]
            else:
                with pytest.raises(ShelfKeyError):
                    ask()

    @rule(shelf=st.sampled_from(["default", "features"]), name=names)
    def look(self, shelf, name):
        assert {ask() for ask in self.ways(shelf, name, "exists")} == {(shelf, name) in self.model}
        for ask in self.ways(shelf, name, "info") if (shelf, name) in self.model else ():
            assert ask().key == (name if shelf == "default" else f"features/{name}")

    @rule(shelf=st.sampled_from(["default", "features"]), name=consumes(names), by_full_key=st.booleans())
    def delete(self, shelf, name, by_full_key):
        ask = self.ways(shelf, name, "delete")[by_full_key]
        if self.model.pop((shelf, name), None) is None:
            with pytest.raises(ShelfKeyError):
                ask()
        else:
            ask()

    @rule(shelf=st.sampled_from(["default", "features"]))
    def delete_all(self, shelf):
        self.shelves[shelf].delete_all()
        self.model = {key: number for key, number in self.model.items() if key[0] != shelf}

    def ways(self, shelf, name, what):
        full = f"{shelf}/{name}"
        return [lambda: getattr(self.shelves[shelf], what)(name), lambda: getattr(arrowpool, what)(full)]

    @invariant()
    def same_keys(self):
        listed = {key for shelf in self.shelves.values() for key in shelf.list_keys()}
        assert listed == {name if shelf == "default" else f"{shelf}/{name}" for shelf, name in self.model}

    @invariant()
    def what_was_read_stays(self):
        assert all(number_of(array) == number for array, number in self.held)

    def teardown(self):
        self.held.clear()
        for shelf in self.shelves.values():
            shelf.delete_all()


def test_a_shelf_is_a_dictionary(renames, two_roots):
    run_state_machine_as_test(
        AsADictionary,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert everything_in(*two_roots) == []


# Replacing


def _write_for_ever(number):
    while True:
        arrowpool.put(
            pd.DataFrame({"a": value(number), "b": value(number), "word": [f"w{number}"] * 5_000}),
            persist=True,
            key="k",
        )
        number += 10


def _move_for_ever(number):
    while True:
        arrowpool.put(value(number, large=number % 2 == 0), persist=True, key="k")
        number += 1


@contextlib.contextmanager
def running(target, arguments):
    processes = [fork.Process(target=target, args=(argument,)) for argument in arguments]
    for process in processes:
        process.start()
    try:
        yield processes
        assert all(process.is_alive() for process in processes), "a writer has failed"
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()


def test_readers_while_two_writers_replace_an_object(renames, own_shelf):
    """A frame is read whole, old or new; never in between, never none."""
    frame = pd.DataFrame({"a": value(0), "b": value(0), "word": ["w0"] * 5_000})
    arrowpool.put(frame, persist=True, key="k")
    seen = set()
    with running(_write_for_ever, [1, 2]):
        until = time.monotonic() + 1.5
        while time.monotonic() < until or len(seen) < 5:
            got = arrowpool.get("k")
            seen.add((number_of(got["a"].to_numpy()), number_of(got["b"].to_numpy()), got["word"].iloc[0]))
            assert arrowpool.exists("k")
    assert all(a == b and word == f"w{a}" for a, b, word in seen)
    arrowpool.put(1, persist=True, key="k")
    assert everything_in(own_shelf) == ["default/k"]


def test_readers_while_an_object_moves_from_root_to_root(renames, two_roots):
    arrowpool.put(value(0), persist=True, key="k")
    seen = set()
    with running(_move_for_ever, [1, 1000]):
        until = time.monotonic() + 1.5
        while time.monotonic() < until or len(seen) < 5:
            seen.add(number_of(arrowpool.get("k")))
            assert arrowpool.Shelf("default").list_keys() in (["k"], [])  # a listing may pass it while it moves
    arrowpool.put(1, persist=True, key="k")
    assert everything_in(*two_roots) == ["default/k"]


def test_an_object_that_no_longer_fits_its_root_is_in_one_only(two_roots):
    for number, large in enumerate([False, True, False, True, True]):
        arrowpool.put(value(number, large=large), persist=True, key="k")
        assert number_of(arrowpool.get("k")) == number
        assert Shelf("default").list_keys() == ["k"]
        assert everything_in(*two_roots) == ["default/k"]
    arrowpool.delete("k")
    assert not arrowpool.exists("k")
    assert everything_in(*two_roots) == []


def test_a_root_that_fails_is_passed_over(two_roots, monkeypatch):
    """The file system said that there was room, and then there was none: a quota, or somebody was faster."""
    monkeypatch.setattr(store, "_fits", lambda directory, nbytes: True)
    reserve = platform.reserve

    def full(fd, offset, size):
        if os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(two_roots[0])):
            raise MemoryError("no room")
        reserve(fd, offset, size)

    monkeypatch.setattr(platform, "reserve", full)
    array = value(3)
    alive = weakref.ref(array)
    gc.disable()
    try:
        arrowpool.put(array, persist=True, key="k")
        del array
        assert alive() is None, "the error of the first root keeps it"
    finally:
        gc.enable()
    assert number_of(arrowpool.get("k")) == 3
    assert everything_in(two_roots[0]) == []


#: What changes a directory, or who has locked it; between two of these all moments are alike for others.
CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "fcntl.flock")


def ends_at(step, work):
    """Fork a child that does `work`, and is gone before its so-manieth change of the file system; whether it was."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event, arguments):
            nonlocal left
            if event in CHANGES or (event == "open" and arguments[2] & os.O_CREAT):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        exchange = directories.exchange
        directories.exchange = lambda *arguments: (count("os.rename", ()), exchange(*arguments))[1]
        sys.addaudithook(count)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("moves", [False, True], ids=["stays", "moves"])
def test_a_writer_that_is_gone_at_any_point(renames, two_roots, moves):
    """The old object is there, or the new one; the next writer finds nothing in its way, and leaves nothing lying about."""
    step = 0
    seen = set()
    while True:
        step += 1
        arrowpool.put(value(1), persist=True, key="k")
        has_ended = ends_at(step, lambda: arrowpool.put(value(2, large=moves), persist=True, key="k"))
        found = number_of(arrowpool.get("k"))
        seen.add((found, has_ended))
        assert found in ((1, 2) if has_ended else (2,))
        assert Shelf("default").list_keys() == ["k"]
        if not has_ended:
            break
        if step % 3 == 0:  # deleted is deleted: nothing older is there
            arrowpool.delete("k")
            assert not arrowpool.exists("k")
        arrowpool.put(value(3), persist=True, key="k")
        assert number_of(arrowpool.get("k")) == 3
        store.Store("default").clean()
        assert everything_in(*two_roots) == ["default/k"]
        assert len([one for root in two_roots for one in root.glob("default/k/*")]) == 2
    assert seen == {(1, True), (2, True), (2, False)}


def test_a_deleter_that_is_gone_at_any_point(two_roots):
    step = 0
    while True:
        step += 1
        arrowpool.put(value(1), persist=True, key="k")
        has_ended = ends_at(step, lambda: arrowpool.delete("k"))
        if arrowpool.exists("k"):
            assert has_ended
            assert number_of(arrowpool.get("k")) == 1
            arrowpool.delete("k")
        store.Store("default").clean()
        assert everything_in(*two_roots) == []
        if not has_ended:
            break
    assert step > 4


def test_what_is_being_written_is_not_cleaned_away(own_shelf):
    """Not even by a process that cannot see the writer, from another container say."""
    arrowpool.put(1, persist=True, key="one")
    name = ".new-4190000-1234567-abcd"
    (own_shelf / "default" / name).mkdir()
    directory = os.open(own_shelf / "default", os.O_RDONLY)
    building = directories.open_one(directory, name)
    try:
        with locks.locked([building]):
            assert store.Store("default").clean() == []
        assert store.Store("default").clean() == [own_shelf / "default" / name]
    finally:
        os.close(building)
        os.close(directory)


@pytest.mark.parametrize("moment", ["open", "flock"])
def test_a_writer_that_is_taken_for_dead_begins_again(own_shelf, monkeypatch, moment):
    """A writer that others do not see, in another container say, and that has not locked yet what it has made."""
    monkeypatch.setattr(entries, "is_abandoned", lambda name: True)
    arrowpool.put(1, persist=True, key="k")
    module = os if moment == "open" else locks.fcntl
    original = getattr(module, moment)
    cleaned = []

    def clean_first(what, *arguments, **named):
        if not cleaned and (moment == "flock" or ".new-" in str(what)):
            cleaned.append(1)
            cleaned.extend(store.Store("default").clean())
        return original(what, *arguments, **named)

    monkeypatch.setattr(module, moment, clean_first)
    arrowpool.put(2, persist=True, key="k")
    monkeypatch.undo()
    assert len(cleaned) == 2
    monkeypatch.setenv("ARROWPOOL_SHELF_DIR", str(own_shelf))
    assert arrowpool.get("k") == 2
    assert everything_in(own_shelf) == ["default/k"]


@pytest.mark.parametrize("what", ["get", "info", "exists", "delete", "put"])
def test_a_process_without_a_descriptor_left_does_not_say_that_there_is_nothing(what):
    arrowpool.put(1, persist=True, key="k")
    work = {"put": lambda: arrowpool.put(2, persist=True, key="k")}.get(what, lambda: getattr(arrowpool, what)("k"))

    def without():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        opened = []
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        errors = set()
        while True:  # none left, then one, and so on
            try:
                return work() is not False, sorted(errors)
            except OSError as error:
                errors.add(errno.errorcode[error.errno])
            os.close(opened.pop())

    assert in_a_child(without) == [True, ["EMFILE"]]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_the_last_moment(own_shelf, monkeypatch, number):
    arrowpool.put(1, persist=True, key="k")

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directories, "write_file", fail)
    with pytest.raises(ArenaFullError, match=os.strerror(number)):
        arrowpool.put(2, persist=True, key="k")
    assert arrowpool.get("k") == 1
    assert everything_in(own_shelf) == ["default/k"]


@pytest.mark.parametrize("put_many", [arrowpool.put_many, Shelf().put_many, Shelf("named").put_many])
@pytest.mark.parametrize("persist", [False, True])
def test_of_many_that_cannot_all_be_put_none_stays(own_shelf, put_many, persist):
    if put_many is arrowpool.put_many:
        put_many = functools.partial(put_many, persist=persist)

    def objects():
        yield np.zeros(50_000)
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        put_many(objects())
    with pytest.raises(TypeError):
        put_many([np.zeros(50_000), threading.Lock()])
    mine = this_process.current()
    assert mine is None or mine.records() == []
    assert everything_in(own_shelf) == []


# Keys

ODD = [
    "2024-01-15",
    "20240115-12345678-1",
    "2024-01-15-close",
    "1-2",
    "1-2-3",
    "_",
    "x" * 100,
    "a.b",
    "a..",
    "CON",
    "default",
    "1234-abcd123-1",
    "1234-ABCD1234-1",
    "0123-abcd1234-1",
    "x",
    "-x",
    ".x",
    "..",
    "",
    "x/y",
    "x\n",
    "é",
    "日本",
    "x y",
    "x\0",
    "\ud800",
    "x" * 101,
    "1234-abcd1234-1",
    "1-00000000-1",
    None,
    5,
    b"x",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("shelf", ["default", "features"])
def test_what_put_accepts_is_found_and_all_else_refused(shelf, name):
    one = Shelf(shelf)
    if name is None:
        full = one.put("it")
        name = full.rpartition("/")[2]
    else:
        try:
            keys.check_name(name)
        except ValueError:
            with pytest.raises(ValueError, match=r"letters|a process holds"):
                one.put("it", name)
            assert not one.list_keys()
            with pytest.raises(ShelfKeyError):
                one.get(name)
            return
        full = one.put("it", name)
    for ask, key in [(arrowpool, full), (one, full), (one, name), (Shelf("other"), f"{shelf}/{name}")]:
        assert ask.get(key) == "it"
        assert ask.exists(key)
        assert ask.info(key).key == full
        assert ask.memory_usage(key) > 0
    assert one.list_keys() == [full]
    assert full in arrowpool.list_keys()
    one.delete(name)
    assert not one.exists(name)
    assert not arrowpool.exists(full)


def test_keys_are_refused_in_the_words_of_the_rule():
    with pytest.raises(ValueError, match="the form of a key of an object that a process holds"):
        arrowpool.put(1, persist=True, key="1234-abcd1234-1")
    assert isinstance(keys.parse("2024-01-15"), keys.PersistentKey)


@pytest.mark.parametrize(
    ("shelf", "key", "found"),
    [
        ("module", "x", "default's"),
        ("module", "default/x", "default's"),
        ("module", "features/x", "features'"),
        ("module", "living", "the process's"),
        ("default", "x", "default's"),
        ("default", "features/x", "features'"),
        ("default", "living", "the process's"),
        ("features", "x", "features'"),
        ("features", "features/x", "features'"),
        ("features", "default/x", "default's"),
        ("features", "living", "the process's"),
        ("other", "x", None),
        ("other", "features/x", "features'"),
        ("private", "x", None),
        ("private", "default/x", "default's"),
        ("private", "living", "the process's"),
    ],
)
def test_on_which_shelf_a_key_is_looked_for(shelf, key, found):
    everything = {
        arrowpool.put("default's", persist=True, key="x"),
        Shelf("features").put("features'", "x"),
        living := arrowpool.put("the process's"),
    }
    asked = arrowpool if shelf == "module" else Shelf(None if shelf == "private" else shelf)
    key = living if key == "living" else key
    assert asked.exists(key) == (found is not None)
    if found is None:
        for what in (asked.get, asked.info, asked.delete, asked.get_arrow, asked.get_numpy, asked.memory_usage):
            with pytest.raises(ShelfKeyError):
                what(key)
    else:
        assert asked.get(key) == found
        full = asked.info(key).key
        asked.delete(key)
        assert not arrowpool.exists(full)
        everything.remove(full)
    assert everything <= set(arrowpool.list_keys()), "nothing else is deleted"


def test_a_named_shelf_has_all_that_the_module_has():
    shelf = Shelf("features")
    frame = pd.DataFrame({"a": np.arange(5)})
    assert shelf.put(frame, "x") == "features/x"
    assert shelf.get_arrow("x").column_names == ["a"]
    assert shelf.get_numpy("x", "a").tolist() == [0, 1, 2, 3, 4]
    assert shelf.get_many(["x", "features/x"])[1].equals(frame)
    assert len(shelf.put_many([1, 2])) == 2
    assert shelf.memory_usage("x") < shelf.memory_usage()
    shelf.delete("x")
    assert len(shelf.list_keys()) == 2


def test_a_child_that_leaves_the_block_of_a_private_shelf_takes_nothing_along():
    with Shelf() as shelf:
        key = shelf.put("it")
        child = os.fork()
        if child == 0:
            shelf.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert shelf.get(key) == "it"
    assert not arrowpool.exists(key)


# Damage, and others


@pytest.mark.parametrize(
    "written",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"",
        b"[" * 50_000,
        b'{"kind": "x"}',
        {"kind": None},
        {"created": "today"},
        {"created": float("inf")},
        {"created": float("nan")},
        {"created": 1e300},
        {"created": 10**400},
        {"nbytes": -1},
        {"nbytes": True},
        {"files": []},
        {"files": {}},
        {"files": {"table.arrow": "5"}},
        {"files": {"table.arrow": 1 << 70}},
        {"names": {"table.arrow": "../../../etc/passwd"}},
        {"names": {"table.arrow": "\0"}},
        {"names": {"table.arrow": 5}},
        {"names": {"table.arrow": ".."}},
        {"names": []},
        None,
        "directory",
        "fifo",
    ],
    ids=lambda written: repr(written)[:40],
)
def test_damage_is_one_damaged_object(own_shelf, written):
    for key in ("a", "b", "c"):
        arrowpool.put(pd.DataFrame({"x": [1, 2]}), persist=True, key=key)
    about = own_shelf / "default" / "b" / "about.json"
    described = json.loads(about.read_text())
    about.unlink()
    if written == "directory":
        about.mkdir()
    elif written == "fifo":
        os.mkfifo(about)
    elif written is not None:
        about.write_bytes(written if isinstance(written, bytes) else json.dumps({**described, **written}).encode())
    for ask in (arrowpool.get, arrowpool.get_arrow):
        with pytest.raises(ShelfKeyError, match="damaged"):
            ask("b")
    assert {"a", "c"} <= set(arrowpool.list_keys())
    assert arrowpool.memory_usage() >= arrowpool.memory_usage("a") + arrowpool.memory_usage("c")
    arrowpool.put("well", persist=True, key="b")
    assert arrowpool.get("b") == "well"
    assert {"a", "b", "c"} <= set(arrowpool.list_keys())


def test_what_is_damaged_can_be_deleted(own_shelf):
    for key in ("a", "b", "c"):
        arrowpool.put(1, persist=True, key=key)
    for key in ("a", "b"):
        (own_shelf / "default" / key / "about.json").write_text("{")
    (own_shelf / "default" / "empty").mkdir()
    (own_shelf / "default" / "file").write_text("")
    (own_shelf / "default" / "link").symlink_to("/etc")
    (own_shelf / "file").write_text("")
    assert Shelf("default").list_keys() == ["c"]
    assert store.stores() == ["default"]
    arrowpool.delete("a")
    arrowpool.delete_all()
    assert everything_in(own_shelf) == []
    assert os.path.exists("/etc")


@root_only
@pytest.mark.parametrize("kind", ["directory", "link", "file", "closed directory"])
def test_another_user_takes_the_name_of_our_directory(monkeypatch, kind, request):
    """It is passed over, whatever it is; the next place serves."""
    public = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(public))
    public.chmod(0o755)
    shm, ours = public / "shm", public / "ours"
    for place in (shm, ours):
        place.mkdir()
        place.chmod(0o1777)
    monkeypatch.setattr(directories, "roots", lambda: ([shm / "arrowpool-0", ours / "arrowpool-0"], False))

    def take():
        if kind == "link":
            os.symlink(ours, shm / "arrowpool-0")
        elif kind == "file":
            (shm / "arrowpool-0").write_text("mine")
        else:
            (shm / "arrowpool-0").mkdir(mode=0o700 if kind == "closed directory" else 0o777)
            os.chmod(shm / "arrowpool-0", 0o700 if kind == "closed directory" else 0o777)
            (shm / "arrowpool-0" / "default").mkdir()
            (shm / "arrowpool-0" / "default" / "mine").mkdir()

    assert not arrowpool.exists("x")
    as_nobody(take)
    assert (shm / "arrowpool-0").lstat().st_uid == 65534
    assert arrowpool.put("it", persist=True, key="x") == "x"
    assert arrowpool.get("x") == "it"
    assert Shelf("default").list_keys() == ["x"]
    assert store.stores() == ["default"]
    assert (ours / "arrowpool-0" / "default" / "x").is_dir()
    arrowpool.delete("x")
    shutil.rmtree(ours)
    with pytest.raises((OSError, MemoryError)):  # nowhere else to go
        arrowpool.put("it", persist=True, key="x")


def test_where_shelves_lie(tmp_path, monkeypatch):
    monkeypatch.delenv("ARROWPOOL_SHELF_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    paths, is_chosen = directories.roots()
    assert not is_chosen
    assert paths[0] == Path(f"/dev/shm/arrowpool-{os.geteuid()}")
    assert paths[1] == tmp_path / "arrowpool"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert all(path.is_absolute() for path in directories.roots()[0])


@root_only
def test_where_strangers_have_taken_every_name_the_error_says_what_to_set(monkeypatch, tmp_path):
    names = [Path(f"{tempfile.mkdtemp()}/arrowpool-0") for _ in range(2)]
    missing = tmp_path / "missing" / "arrowpool"
    for name in names:
        name.mkdir()
        os.chown(name, 65534, 65534)
    for paths in (names, [names[0], missing, names[1]]):
        monkeypatch.setattr(directories, "roots", lambda paths=paths: (paths, False))
        with pytest.raises(PermissionError, match=r"other users have taken .*arrowpool-0.*set ARROWPOOL_SHELF_DIR"):
            arrowpool.put(1, persist=True, key="k")
    for name in names:
        shutil.rmtree(name.parent)


def test_a_long_name_of_a_type_is_cut(own_shelf):
    """Its description can be read nevertheless."""
    cls = type("C" * 70_000, (), {"__reduce__": lambda self: (int, (7,))})
    assert arrowpool.get(arrowpool.put(cls(), persist=True)) == 7
    kind = arrowpool.info(arrowpool.put(cls())).kind
    assert kind == "C" * len(kind)


def test_a_private_shelf_forgets_the_keys_that_others_have_deleted():
    with Shelf() as shelf:
        kept = shelf.put("kept")
        for number in range(100):
            arrowpool.delete(shelf.put(number))
        by_another_process = shelf.put("it")
        assert in_a_child(lambda: arrowpool.delete(by_another_process)) is None
        assert shelf._keys == {kept}
        assert shelf.list_keys() == [kept]
