"""Finalizers, signal handlers and forks in the middle of the shelf's code."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import arrowpool
import arrowpool.shelf
from arrowpool import Shelf
from arrowpool.memory import limits
from arrowpool.shelf import (
    catalogue,
    entries,
    files,
    part_files,
    places,
    reader,
    store,
    this_process,
)
from tests.shelf.processes import LARGE, SMALL, held, link, links, put_full, sum_of


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
        os._exit(held()[0] + sum("catalogue" in one for one in links()))
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
            seen = [link(str(mine.fileno())), *links()]
            os._exit(sum("arrowpool-shelf" in one or "catalogue" in one for one in seen))
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
        with stuck_at(entries, "put_under", lambda: arrowpool.put(2, persist=True, key="k")):
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
