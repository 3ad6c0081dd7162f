"""The memory and the descriptors of an owner: how little it takes, and when it gives them back."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import arrowpool
import arrowpool.shelf
from arrowpool.errors import ArenaFullError
from arrowpool.memory import limits
from arrowpool.shelf import (
    owner,
    places,
    remote,
)
from tests.shelf.processes import LARGE, SMALL, held, link, put_full, sum_of


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
        name = next(n for n in os.listdir("/proc/self/fd") if "arrowpool-shelf" in link(n))
        sizes.add(os.stat(f"/proc/self/fd/{name}").st_size)
    assert len(sizes) == 1
    assert sum_of(first) == 0
