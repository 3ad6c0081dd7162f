"""polars: through Arrow where dtypes come back exactly, by polars' own pickling where they do not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from arrowpool.codecs import kept, polars, settle
from arrowpool.transport import reducer
from arrowpool.tuning import INLINE_LIMIT
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


@pytest.mark.parametrize("dtype", [pl.Boolean, pl.Int64, pl.String], ids=str)
@pytest.mark.parametrize(
    "lengths", [[300_000, 300_000], [200_000, 200_000], [100_000] * 6, [130_000] * 4, [500_000, 9]]
)
def test_large_chunks_stay_chunks(dtype: pl.DataType, lengths: list[int]) -> None:
    parts = [pl.Series("a", np.arange(length) % 2).cast(dtype) for length in lengths]
    series = pl.concat(parts, rechunk=False)
    for obj in (series, series.to_frame()):
        moved, expected = move(obj).obj, as_the_stdlib_does(obj)
        one, other = (x if isinstance(x, pl.Series) else x["a"] for x in (moved, expected))
        assert [len(chunk) for chunk in one.get_chunks()] == [len(chunk) for chunk in other.get_chunks()]
        assert one.equals(other)


@pytest.mark.parametrize(("width", "rows", "is_shared"), [(3, 1500, False), (300, 20, False), (3, 5000, True)])
def test_frames_with_little_in_each_column_are_pickled(width: int, rows: int, is_shared: bool) -> None:
    """That is faster: each column costs something, whatever is in it."""
    frame = pl.DataFrame({f"c{at}": np.arange(float(rows)) for at in range(width)})
    assert frame.estimated_size() > INLINE_LIMIT
    stream, units = reducer.dumps(frame, inline_limit=INLINE_LIMIT)
    assert (b"rebuild_frame" in stream) == is_shared
    assert facts(reducer.loads(stream, [unit.contents() for unit in units])) == facts(as_the_stdlib_does(frame))


def test_categories_of_enums_are_not_kept() -> None:
    def sent(number: int) -> None:
        names = [f"{number} {at}" for at in range(100)]
        for dtype in (pl.Enum(names), pl.List(pl.Enum(names)), pl.Struct({"a": pl.Enum(names)})):
            series = pl.Series("a", [None] * 300_000, dtype=dtype)
            assert facts(move(series).obj) == facts(as_the_stdlib_does(series))

    sent(0)
    before = len(polars._answers)
    sent(1)
    assert len(polars._answers) == before
    assert not any(isinstance(kind, pl.Enum) for kind in polars._answers)


def test_what_is_known_of_lists_arrives() -> None:
    frame = pl.DataFrame({"n": range(N), "l": [[1, i] for i in range(N)], "x": range(N), "e": [[1], []] * (N // 2)})
    assert frame["l"].flags["FAST_EXPLODE"]
    assert not frame["e"].flags["FAST_EXPLODE"]
    for obj in (frame, frame[5:-5], frame["l"], frame.select("l"), frame.select("l", "n")):
        assert facts(move(obj).obj) == facts(as_the_stdlib_does(obj))
    assert move(frame).rooms


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


def test_the_room_is_free_as_soon_as_the_frame_goes() -> None:
    """Also while nothing collects garbage."""
    gc.disable()
    try:
        for make in (pl.DataFrame, lambda data: pl.DataFrame(data)["a"]):
            moved = move(make({"a": range(N)}))
            alive = weakref.ref(moved.rooms.pop().base)
            assert alive() is not None
            del moved
            assert alive() is None
        moved = move(pl.DataFrame({"a": range(N), "b": range(N)}))
        alive = weakref.ref(moved.rooms.pop().base)
        column = moved.obj["b"][5:10]
        del moved
        settle()
        assert alive() is not None
        del column
        settle()
        assert alive() is None
    finally:
        gc.enable()


def test_of_many_frames_each_is_let_go_of_by_itself() -> None:
    keeper = kept.keeper()
    gc.collect()
    before = len(keeper)
    frames = [move(pl.DataFrame({"a": [i] * 100})).obj for i in range(1000)]
    columns = [frame["a"] for frame in frames[::2]]
    assert len(keeper) == before + 1000
    del frames
    assert len(keeper) == before + 500
    assert [column[0] for column in columns] == list(range(0, 1000, 2))
    del columns
    gc.collect()
    assert len(keeper) == before


FREED_BY_OTHERS = """
import pickle, sys, threading
import numpy as np
import polars as pl
import pyarrow as pa
from arrowpool.codecs import polars

class Owner:
    elsewhere = freed = 0

    def __init__(self, memory):
        self.memory = memory

    def __del__(self):
        Owner.freed += 1
        Owner.elsewhere += threading.current_thread() is not threading.main_thread()

def of_python(array):
    # The same array over memory that only who holds the interpreter's lock can free.
    children = [of_python(array.values)] if pa.types.is_large_list(array.type) else []
    buffers = array.buffers()[: 2 if children else None]
    foreign = [None if b is None else pa.foreign_buffer(b.address, b.size, Owner(b)) for b in buffers]
    return pa.Array.from_buffers(array.type, len(array), foreign, children=children)

def frame(rows):
    lists = pa.array([[1, 2, i] for i in range(rows)], pa.large_list(pa.int64()))
    texts = pa.array([str(i) for i in range(rows)], pa.large_string())
    columns = {"n": pa.array(np.arange(rows)), "x": pa.array(np.arange(float(rows))), "s": texts, "l": lists}
    return polars.rebuild_frame(pa.table({name: of_python(column) for name, column in columns.items()}), {})

for _ in range(20):
    one = frame(20_000)
    one.extend(one.clone())
    pickle.dumps(one)
    one.lazy().filter(pl.col("n") > 7).group_by("x").agg(pl.col("l").first(), pl.col("s").last()).collect()
    several = pl.concat([frame(1000) for _ in range(3)], rechunk=False)
    pickle.dumps(several)
    del one, several
import gc
gc.collect()
assert Owner.freed == 20 * 4 * 6, Owner.freed
assert Owner.elsewhere == 0, Owner.elsewhere
sys.held = frame(1000), frame(1000)["x"], frame(1000).lazy()  # until after the interpreter's end
"""


def test_polars_may_let_go_in_any_thread() -> None:
    """Some calls hold the interpreter's lock and wait for polars' threads, so these must not want it."""
    environment = {**os.environ, "POLARS_MAX_THREADS": "4"}
    subprocess.run([sys.executable, "-c", FREED_BY_OTHERS], check=True, timeout=60, env=environment)


def test_writes_do_not_reach_the_room() -> None:
    moved = move(pl.DataFrame({"a": range(N)}))
    before = [room.copy() for room in moved.rooms]
    moved.obj[0, "a"] = 99
    assert moved.obj[0, "a"] == 99
    assert all((room == was).all() for room, was in zip(moved.rooms, before, strict=True))


def test_subclasses_and_odd_dtypes_go_by_pickle() -> None:
    if hasattr(pl, "Int128"):
        assert move(pl.Series("i", [1] * N, dtype=pl.Int128)).rooms == []
    assert move(pl.DataFrame({"s": [{}] * N}, schema={"s": pl.Struct({})})).rooms == []
