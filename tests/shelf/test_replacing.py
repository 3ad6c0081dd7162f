"""Objects that are replaced while others read them, and objects that move to another root."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import time
import weakref

import pandas as pd

import arrowpool
from arrowpool import Shelf
from arrowpool.memory import platform
from arrowpool.shelf import store
from tests.shelf.conftest import everything_in, number_of, value

fork = multiprocessing.get_context("fork")


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
    """Each read gives a whole frame, the old one or the new one."""
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
    """The file system reported free space, and has none at the write: a quota, or another process was faster."""
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
