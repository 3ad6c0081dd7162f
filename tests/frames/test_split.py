"""`split`: parts that are views, in order, even, with whole groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowpool import split
from arrowpool.frames.cuts import even_runs, runs_of_size

ROWS = 1000
FRAME = pd.DataFrame(
    {"k": np.arange(ROWS) // 10, "x": np.arange(ROWS, dtype=float), "s": [f"row {n}" for n in range(ROWS)]}
)
KINDS = {
    "pandas": FRAME,
    "series": FRAME["x"],
    "index": FRAME.set_index("s").index,
    "polars": pl.from_pandas(FRAME),
    "polars series": pl.Series("x", range(ROWS)),
    "table": pa.Table.from_pandas(FRAME),
    "batch": pa.RecordBatch.from_pandas(FRAME),
    "arrow array": pa.array(range(ROWS)),
    "chunked": pa.chunked_array([list(range(400)), list(range(400, ROWS))]),
    "array": np.arange(3.0 * ROWS).reshape(ROWS, 3),
}


def rows_of(part):
    """The rows as Python objects."""
    if isinstance(part, pd.DataFrame):
        return [tuple(row) for row in part.itertuples()]
    if isinstance(part, (pl.DataFrame,)):
        return part.rows()
    if isinstance(part, (pa.Table, pa.RecordBatch)):
        return part.to_pylist()
    return part.to_pylist() if hasattr(part, "to_pylist") else part.tolist() if hasattr(part, "tolist") else list(part)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"n": 3}, [334, 333, 333]),
        ({"n": 1}, [ROWS]),
        ({"n": 2000}, [1] * ROWS),
        ({"rows": 300}, [300, 300, 300, 100]),
        ({"rows": np.int64(5000)}, [ROWS]),
    ],
)
def test_parts(kind, options, sizes):
    frame = KINDS[kind]
    parts = split(frame, **options)
    assert [len(part) for part in parts] == sizes
    assert all(type(part) is type(frame) for part in parts)
    assert [row for part in parts for row in rows_of(part)] == rows_of(frame)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind):
    empty = KINDS[kind][:0]
    for options in ({"n": 3}, {"rows": 3}, {"by": "k"}, {"by": "k", "n": 2}):
        (part,) = split(empty, **options)
        assert len(part) == 0
        assert type(part) is type(empty)


def test_parts_are_views():
    frame = pd.DataFrame({"k": [1, 1, 2, 2], "x": [1.0, 2.0, 3.0, 4.0]})
    for parts in (split(frame, 2), split(frame, rows=1), split(frame, by="k")):
        assert all(np.shares_memory(part["x"].to_numpy(), frame["x"].to_numpy()) for part in parts)
    array = np.ones((100, 2))
    assert all(np.shares_memory(part, array) for part in split(array, 7))
    table = pa.table({"x": range(100)})
    whole = table["x"].chunk(0).buffers()[1].address
    assert {part["x"].chunk(0).buffers()[1].address for part in split(table, 7)} == {whole}


@pytest.mark.parametrize("kind", ["pandas", "polars", "table", "batch"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_groups_stay_whole(kind, shuffled):
    frame = FRAME.sample(frac=1, random_state=1) if shuffled else FRAME
    same = {"pandas": lambda: frame, "polars": lambda: pl.from_pandas(frame), "table": lambda: pa.Table.from_pandas(frame),
            "batch": lambda: pa.RecordBatch.from_pandas(frame)}[kind]()  # fmt: skip
    parts = split(same, 7, by="k")
    assert {type(part) for part in parts} == {type(same)}
    keys = [set(np.asarray(part["k"]).tolist()) for part in parts]
    assert len(parts) == 7
    assert sum(map(len, keys)) == len(set.union(*keys)) == 100
    assert max(map(len, parts)) - min(map(len, parts)) <= 10
    assert sorted(np.concatenate([np.asarray(part["x"]) for part in parts])) == list(range(ROWS))


@given(
    keys=st.lists(st.sampled_from(["a", "b", "c", None, "d"]), max_size=30),
    n=st.one_of(st.none(), st.integers(1, 6)),
    rows=st.one_of(st.none(), st.integers(1, 6)),
    kind=st.sampled_from(["pandas", "polars", "table", "array", "categorical"]),
)
@settings(max_examples=150, deadline=None)
def test_groups_of_any_keys(keys, n, rows, kind):
    n = None if rows is not None else n
    frame = pd.DataFrame({"k": pd.array(keys, dtype="str"), "x": np.arange(len(keys))}, index=np.zeros(len(keys)))
    by = "k"
    if kind == "categorical":
        frame["k"] = pd.Categorical(keys, categories=["z", "d", "c", "b", "a"])
    elif kind == "polars":
        frame = pl.DataFrame({"k": pl.Series(keys, dtype=pl.String), "x": np.arange(len(keys))})
    elif kind == "table":
        frame = pa.table({"k": pa.array(keys, pa.string()), "x": pa.array(range(len(keys)), pa.int64())})
    elif kind == "array":
        frame, by = np.arange(len(keys)), np.array([str(key) for key in keys], dtype=str)
    parts = split(frame, n, rows=rows, by=by)
    numbers = [np.asarray(part if kind == "array" else part["x"]).tolist() for part in parts]
    together = [number for part in numbers for number in part]
    # Groups in the order of their first rows, each with its rows in order.
    first = {key: keys.index(key) for key in keys}
    assert together == sorted(range(len(keys)), key=lambda number: (first[keys[number]], number))
    where = [{keys[number] for number in part} for part in numbers]
    assert sum(map(len, where)) == len(set(keys))
    if n is not None:
        assert len(parts) <= n
    elif rows is not None:
        assert all(len(part) <= rows or len(there) == 1 for part, there in zip(parts, where, strict=True))
    else:
        assert len(parts) == max(1, len(set(keys)))
    assert keys == [] or all(len(part) for part in parts)


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=40), parts=st.integers(1, 10))
def test_runs_are_even(weights, parts):
    bounds = np.concatenate(([0], np.cumsum(weights)))
    runs = even_runs(bounds, parts)
    assert [group for first, end in runs for group in range(first, end)] == list(range(len(weights)))
    assert len(runs) <= parts
    assert all(first < end for first, end in runs)
    sums = [bounds[end] - bounds[first] for first, end in runs]
    assert max(sums) <= sum(weights) / parts + max(weights) + 1e-9
    assert even_runs(np.array([0]), parts) == []


@given(sizes=st.lists(st.integers(1, 50), max_size=40), size=st.integers(1, 60))
def test_runs_of_a_size(sizes, size):
    bounds = np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)
    runs = runs_of_size(bounds, size)
    assert [group for first, end in runs for group in range(first, end)] == list(range(len(sizes)))
    for first, end in runs:
        assert bounds[end] - bounds[first] <= size or end == first + 1
        assert end == len(sizes) or bounds[end + 1] - bounds[first] > size  # as many as fit


def test_keys_of_several_columns_and_of_their_own():
    frame = pd.DataFrame({"a": [1, 1, 2, 2], "b": [1, 2, 1, 1]})
    assert [len(part) for part in split(frame, by=["a", "b"])] == [1, 1, 2]
    assert [len(part) for part in split(pl.from_pandas(frame), by=["a", "b"])] == [1, 1, 2]
    assert [len(part) for part in split(pa.Table.from_pandas(frame), by=["a", "b"])] == [1, 1, 2]
    assert [part.tolist() for part in split(np.arange(4), by=np.array([1, 0, 1, 0]))] == [[0, 2], [1, 3]]
    assert [part.tolist() for part in split(frame["a"], by=np.array([1, 0, 1, 0]))] == [[1, 2], [1, 2]]
    assert [part["b"].to_list() for part in split(pl.from_pandas(frame), by=pl.Series([1, 0, 1, 0]))] == [
        [1, 1],
        [2, 1],
    ]


@pytest.mark.parametrize(
    ("arguments", "options", "kind"),
    [
        ((FRAME,), {}, TypeError),
        ((FRAME, 2), {"rows": 3}, TypeError),
        ((FRAME, 0), {}, ValueError),
        ((FRAME, -1), {}, ValueError),
        ((FRAME, 2.5), {}, TypeError),
        ((FRAME,), {"rows": 0}, ValueError),
        ((FRAME,), {"by": "missing"}, KeyError),
        (([1, 2, 3], 2), {}, TypeError),
        ((FRAME.groupby("k"), 2), {}, TypeError),
        ((np.array(1.0), 2), {}, TypeError),
        ((np.arange(3), 2), {"by": np.arange(2)}, ValueError),
        ((np.arange(3), 2), {"by": "k"}, TypeError),
    ],
)
def test_what_cannot_be_split(arguments, options, kind):
    with pytest.raises(kind):
        split(*arguments, **options)


BEYOND = 2**53
NAN, ANOTHER_NAN = np.array([0x7FF8000000000000, 0x7FF8000000000001], np.int64).view(np.float64)
EXACT = {
    "integers next to a null": [BEYOND, BEYOND + 1, None, BEYOND, BEYOND + 1],
    "times to a nanosecond": pa.array([1, 2, None, 1, 2], pa.time64("ns")),
    "far times": pa.array([2**50, 2**50 + 1, None, 2**50, 2**50 + 1], pa.timestamp("s")),
    "views of strings": pa.array(["a", "b", None, "a", "b"], pa.string_view()) if hasattr(pa, "string_view") else ["a", "b", None, "a", "b"],
    "floats": [1.5, 2.5, None, 1.5, 2.5],
    "what is no number": pa.array([NAN, 2.5, None, ANOTHER_NAN, 2.5]),
    "both zeros": pa.array([0.0, 2.5, None, -0.0, 2.5]),
    "categories": pa.array(["a", "b", None, "a", "b"]).dictionary_encode(),
    "a null among categories": pa.array(["a", "b", None, "a", "b"]).dictionary_encode(null_encoding="encode"),
    "bytes": [b"a", b"b", None, b"a", b"b"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["table", "chunks", "polars", "array by them", "array by a list"])
@pytest.mark.parametrize("name", EXACT)
def test_keys_are_told_apart_exactly(name, kind):
    if name == "views of strings" and kind in ("table", "chunks"):
        pytest.skip("pyarrow cannot put rows with such views in another order")
    keys = EXACT[name] if isinstance(EXACT[name], pa.Array) else pa.array(EXACT[name])
    table = pa.table({"k": keys, "x": range(5)})
    if kind == "array by a list":
        if isinstance(EXACT[name], pa.Array):
            pytest.skip("no Python objects")
        parts = split(np.arange(5), by=EXACT[name])
    elif kind == "array by them":
        parts = split(np.arange(5), by=keys)
    elif kind == "polars":
        if name in ("far times", "categories", "a null among categories"):
            pytest.skip("another type in polars")
        parts = [part["x"].to_numpy() for part in split(pl.from_arrow(table), by="k")]
    else:
        table = pa.concat_tables([table[:2], table[2:]]) if kind == "chunks" else table
        parts = [part["x"].to_numpy() for part in split(table, by="k")]
    assert [part.tolist() for part in parts] == [[0, 3], [1, 4], [2]]


def test_keys_of_several_types():
    assert [part.tolist() for part in split(np.arange(4), by=[1, "1", 1, None])] == [[0, 2], [1], [3]]


@pytest.mark.parametrize("keys", [[[1], [2]], [{"a": 1}, {"a": 2}]], ids=["lists", "structs"])
def test_keys_that_rows_cannot_be_grouped_by(keys):
    with pytest.raises(TypeError, match="cannot be grouped by keys of the type"):
        split(pa.table({"k": keys}), by="k")
