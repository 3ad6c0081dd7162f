"""polars: through Arrow where dtypes come back exactly, by polars' own pickling where they do not."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tests.codecs.harness import as_the_stdlib_does, move
from tests.codecs.sameness import facts

pl = pytest.importorskip("polars")

N = 20_000


def test_a_slice_ships_only_itself() -> None:
    frame = pl.DataFrame({"f": np.arange(float(N)), "s": [f"a text of some length {i}" for i in range(N)]})
    part = frame[1000:2000]
    moved = move(part)
    assert facts(moved.obj) == facts(as_the_stdlib_does(part))
    assert moved.nbytes < 1000 * (8 + 16 + 30) + 4096


def test_what_is_known_of_the_order_arrives() -> None:
    frame = pl.DataFrame({"up": range(N), "down": range(N, 0, -1), "other": [3, 1] * (N // 2)})
    frame = frame.with_columns(pl.col("up").set_sorted(), pl.col("down").set_sorted(descending=True))
    moved = move(frame)
    assert moved.rooms
    assert facts(moved.obj) == facts(as_the_stdlib_does(frame))
    assert moved.obj["up"].flags["SORTED_ASC"]
    assert moved.obj["down"].flags["SORTED_DESC"]


def test_chunks_arrive_as_one() -> None:
    series = pl.concat([pl.Series("a", range(N))] * 2, rechunk=False)
    assert move(series).obj.n_chunks() == as_the_stdlib_does(series).n_chunks() == 1


def test_the_room_lives_as_long_as_the_column() -> None:
    moved = move(pl.DataFrame({"a": range(N), "b": range(N)}))
    alive = weakref.ref(moved.rooms.pop().base)  # NumPy lets views refer to the owner itself
    column = moved.obj["b"][5:10]
    del moved
    gc.collect()
    assert alive() is not None
    assert column.to_list() == [5, 6, 7, 8, 9]
    del column
    gc.collect()
    assert alive() is None


def test_writes_do_not_reach_the_room() -> None:
    moved = move(pl.DataFrame({"a": range(N)}))
    before = [room.copy() for room in moved.rooms]
    moved.obj[0, "a"] = 99
    assert moved.obj[0, "a"] == 99
    assert all((room == was).all() for room, was in zip(moved.rooms, before, strict=True))


def test_subclasses_and_odd_dtypes_go_by_pickle() -> None:
    assert move(pl.Series("i", [1] * N, dtype=pl.Int128)).rooms == []
    assert move(pl.DataFrame({"s": [{}] * N}, schema={"s": pl.Struct({})})).rooms == []
