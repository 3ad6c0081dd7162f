"""Frames: copied once on the way out, not at all on the way in, and as free to be written to as after pickle."""

from __future__ import annotations

import tracemalloc
from typing import Any

import hypothesis.extra.pandas as hpd
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrowpool.codecs import extents
from arrowpool.transport import reducer
from tests.codecs.awkward import Measured, _one_by_one
from tests.codecs.harness import as_the_stdlib_does, move, room_of
from tests.codecs.sameness import facts

N = 5_000


def _frame() -> pd.DataFrame:
    return pd.DataFrame({name: np.arange(float(N)) for name in "abc"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frame=hpd.data_frames(
        [
            hpd.column("i", dtype=np.int32),
            hpd.column("f", dtype=np.float64),
            hpd.column(
                "t", elements=st.datetimes(min_value=pd.Timestamp(1970, 1, 2), max_value=pd.Timestamp(2200, 1, 1))
            ),
            hpd.column("s", elements=st.text(max_size=3) | st.none()),
            hpd.column("b", dtype=np.bool_),
        ],
        index=hpd.range_indexes(max_size=8) | hpd.indexes(dtype=np.int64, max_size=8),
    ),
    rows=st.slices(8),
    columns=st.lists(st.sampled_from("iftsb"), max_size=6),
    inline_limit=st.sampled_from([1, 50, 1 << 16]),
)
def test_any_slice_of_any_frame_arrives_as_by_pickle(
    frame: pd.DataFrame, rows: slice, columns: list[str], inline_limit: int
) -> None:
    obj = frame[rows][columns]
    assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj))


@pytest.mark.parametrize("rows", [slice(100, N), slice(None, None, 2), slice(None, None, -1)], ids=str)
def test_strided_rows_are_not_copied_before_they_are_placed(rows: slice) -> None:
    frame = pd.concat([_frame()] * 20, ignore_index=True)
    obj = frame[rows]
    reducer.dumps(obj, inline_limit=1)
    tracemalloc.start()
    try:
        reducer.dumps(obj, inline_limit=1)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert move(obj).nbytes < obj["a"].nbytes * 3 + 1000


def test_nothing_is_copied_on_arrival() -> None:
    frame = _frame().set_index("a")
    moved = move(frame)
    assert all(any(np.shares_memory(b.values, r) for r in moved.rooms) for b in moved.obj._mgr.blocks)
    assert any(np.shares_memory(moved.obj.index._data, r) for r in moved.rooms)
    assert len(moved.obj._mgr.blocks) == len(frame._mgr.blocks)


@pytest.mark.parametrize("make", [_frame, lambda: _one_by_one(N)], ids=["one-block", "many-blocks"])
def test_writes_stay_private(make: Any) -> None:
    frame = make()
    before = facts(as_the_stdlib_does(frame))
    stream, units = reducer.dumps(frame, inline_limit=10_000)
    arrived = []
    for _ in range(2):
        rooms = [room_of(unit.nbytes) for unit in units]
        for unit, room in zip(units, rooms, strict=True):
            for copy in unit.copies_to(room, unit.nbytes):
                copy()
        arrived.append(reducer.loads(stream, rooms))
    one, other = arrived
    first = one.columns[0]
    kept = one[first].copy()
    view = one[first]
    one.iloc[0, 0] = -1
    one[first] += 1
    one.loc[3, first] = -3
    one["new"] = 5
    assert facts(as_the_stdlib_does(frame)) == before
    assert facts(other) == before
    if int(pd.__version__.split(".")[0]) >= 3:
        pd.testing.assert_series_equal(view, kept)


def test_columns_can_be_written_to_as_after_pickle() -> None:
    frame = _frame()
    moved, expected = move(frame).obj, as_the_stdlib_does(frame)
    assert moved["a"].to_numpy().flags.writeable == expected["a"].to_numpy().flags.writeable
    assert moved.to_numpy().flags.writeable == expected.to_numpy().flags.writeable
    assert moved._mgr.blocks[0].values.flags.writeable
    assert moved.index.values.flags.writeable == expected.index.values.flags.writeable


def test_many_small_blocks_leave_the_stream_together() -> None:
    frame = _one_by_one(500)
    moved = move(frame, 32 << 10)
    assert facts(moved.obj) == facts(as_the_stdlib_does(frame))
    assert len(moved.rooms) == 1
    assert moved.nbytes >= frame.iloc[:, :3].memory_usage(index=False).sum() // 3 * 20


def test_a_series_ships_its_index_once() -> None:
    series = pd.Series(np.arange(N), index=pd.Index(np.arange(N) * 2))
    assert sum(room.nbytes for room in move(series).rooms) == 2 * 8 * N


def test_the_same_frame_twice_is_one_frame() -> None:
    frame = _frame()
    moved = move([frame, {"again": frame}, frame["a"]])
    assert moved.obj[0] is moved.obj[1]["again"]
    assert moved.nbytes < 1.5 * frame.memory_usage(index=False).sum()


def test_an_arrow_backed_column_is_not_copied_before_it_is_placed() -> None:
    series = pd.Series([f"text {i}" for i in range(N)], dtype="string[pyarrow]")
    chunk = series.array._pa_array.chunk(0)
    rooms = move(series[10:-10]).rooms
    assert len(rooms) == 1
    assert rooms[0].nbytes < chunk.nbytes + 1000
    assert facts(move(series[10:-10]).obj) == facts(as_the_stdlib_does(series[10:-10]))


def test_metadata_of_a_subclass_may_be_large_too() -> None:
    frame = Measured(_frame())
    frame.unit = np.arange(N)
    moved = move(frame)
    assert isinstance(moved.obj, Measured)
    assert any(np.shares_memory(moved.obj.unit, room) for room in moved.rooms)


@pytest.mark.parametrize(
    "index",
    [
        pd.date_range("2020", periods=5000, freq="h"),
        pd.period_range("2020", periods=5000, freq="h"),
        pd.CategoricalIndex(["a", "b"] * 20_000),
        pd.Index(np.arange(5000)),
        pd.Index([f"row {i}" for i in range(5000)]),
        pd.interval_range(0, 5000),
    ],
    ids=lambda index: type(index).__name__,
)
def test_looking_at_the_memory_of_an_index_leaves_nothing_behind(index: pd.Index) -> None:
    """A view that pandas keeps would count as another owner, and the index would not go by template."""
    frame = pd.DataFrame({"a": np.arange(float(len(index)))}, index=index)
    before = dict(frame.index._cache)
    assert list(extents(frame))
    assert frame.index._cache == before
