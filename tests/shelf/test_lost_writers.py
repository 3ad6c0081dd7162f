"""Writers and deleters that end at any point, and how others clean up."""

from __future__ import annotations

import os
import signal
import sys

import pytest

import arrowpool
from arrowpool import Shelf
from arrowpool.memory import platform
from arrowpool.shelf import directories, entries, locks, store
from tests.shelf.conftest import everything_in, number_of, value

#: Events that change a directory, or its lock. Between two of them, other processes see no difference.
CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "fcntl.flock")


def ends_at(step, work):
    """Fork a child that does `work` and is killed before change number `step` of the file system. Return whether it was killed."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event, arguments):
            nonlocal left
            if event in CHANGES or (event == "open" and arguments[2] & os.O_CREAT):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        exchange = platform.exchange
        platform.exchange = lambda *arguments: (count("os.rename", ()), exchange(*arguments))[1]
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
    """The old object is there, or the new one. The next writer is not hindered, and leaves nothing behind."""
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
    """Also by a process that cannot see the writer, for example from another container."""
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


@pytest.mark.parametrize("moment", ["open", "lock_file"])
def test_a_writer_that_is_taken_for_dead_begins_again(own_shelf, monkeypatch, moment):
    """Others do not see the writer, for example in another container, and it has not locked its directory yet."""
    monkeypatch.setattr(entries, "is_abandoned", lambda name: True)
    arrowpool.put(1, persist=True, key="k")
    module = os if moment == "open" else platform
    original = getattr(module, moment)
    cleaned = []

    def clean_first(what, *arguments, **named):
        if not cleaned and (moment == "lock_file" or ".new-" in str(what)):
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
