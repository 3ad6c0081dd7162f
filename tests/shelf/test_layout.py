"""`get` returns every awkward object as it was put. Plain Arrow reads those that Arrow can express."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from arrowpool import ShelfKeyError
from arrowpool.shelf import layout
from arrowpool.shelf.layout import EXACT, TABLE
from tests.codecs.awkward import AWKWARD
from tests.codecs.harness import as_the_stdlib_does
from tests.codecs.sameness import facts, memory_of

SMALL, LARGE = 40, 12_000


@pytest.fixture(autouse=True)
def _census():
    """Nothing here outlives a test: no process, file or descriptor."""


@pytest.fixture(autouse=True)
def own_shelf():
    """Nothing is put anywhere."""


def stored(obj):
    """The object's files in private memory, by name."""
    files = {}
    for file in layout.plan(obj).parts:
        files[file.name] = memory = np.zeros(file.size, dtype=np.uint8)
        file.write(memory)
    return files


def rebuilt(files):
    return layout.rebuild(files.get(TABLE), files.get(EXACT))


@pytest.mark.filterwarnings("ignore:Setting an item of incompatible dtype")  # some cannot be made empty without it
@pytest.mark.parametrize("size", [0, SMALL, LARGE])
@pytest.mark.parametrize("awkward", AWKWARD, ids=str)
def test_every_object_comes_back(awkward, size):
    try:
        obj = awkward.make(size)
        expected = as_the_stdlib_does(obj)
    except (ValueError, IndexError, ZeroDivisionError):
        pytest.skip("there is no such object of this size")
    came = rebuilt(stored(obj))
    if isinstance(obj, pa.Table):
        # How a table is cut into chunks is not part of what it is.
        assert came.schema.equals(expected.schema, check_metadata=True)
        assert len(came) == len(expected)
        if len(came):
            assert facts(came.combine_chunks()) == facts(expected.combine_chunks())
    elif type(obj) is pd.DataFrame:
        assert type(came) is pd.DataFrame
        pd.testing.assert_frame_equal(came, expected, check_freq=True, check_flags=True)
        assert repr(came.attrs) == repr(expected.attrs)
        assert all(block.values.flags.writeable for block in came._mgr.blocks if type(block.values) is np.ndarray)
    else:
        assert facts(came) == facts(expected)


def numbers(rows=LARGE):
    return pd.DataFrame({f"c{i}": np.arange(rows) * 1.5 + i for i in range(4)}).copy()


def in_memory_of(obj, files):
    pieces = [piece for piece in memory_of(obj) if piece.nbytes >= 1 << 15]
    assert pieces
    return [{name for name, file in files.items() if np.shares_memory(piece, file)} for piece in pieces]


@pytest.mark.parametrize(
    "frame",
    [
        numbers(),
        numbers()[["c2", "c0"]],
        numbers().iloc[100:9000],
        numbers().assign(when=pd.date_range("2024", periods=LARGE, freq="s", tz="Europe/Berlin"), k=np.arange(LARGE)),
        numbers().assign(word=pd.Series([f"word {i}" for i in range(LARGE)], dtype="string[pyarrow]")),
        numbers().set_index(pd.date_range("2024", periods=LARGE, freq="s")),
        numbers().astype({"c1": "float32", "c3": "int16"}),
        numbers(LARGE + 1).astype("float32"),
        numbers().where(lambda f: f > 500),
    ],
    ids=["plain", "chosen", "rows", "datetimes", "strings", "index", "mixed", "odd", "nans"],
)
def test_a_frame_is_rebuilt_over_the_table(frame):
    """No second copy is kept of what Arrow represents by the same bytes, and none is made on the way out."""
    files = stored(frame)
    assert files[EXACT].nbytes < 40_000
    came = rebuilt(files)
    pd.testing.assert_frame_equal(came, frame)
    assert all(found == {TABLE} for found in in_memory_of(came, files))
    came.iloc[0, 0] = -5.0
    assert came.iloc[0, 0] == -5.0


@pytest.mark.parametrize("copies", [1, 4])
def test_columns_over_the_same_memory_stay_apart(copies):
    """The columns of one block, of several, and the index: what is written to one shows in no other."""
    numbers = np.arange(float(LARGE))
    index = pd.Index(numbers, copy=False)
    block = pd.DataFrame(np.broadcast_to(numbers, (copies, LARGE)).T, index, list("abcd"[:copies]), copy=False)
    series = pd.Series(numbers, block.index, copy=False)
    frame = pd.concat([block, series.rename("s"), series.rename("t")], axis=1)
    came = rebuilt(stored(frame))
    pd.testing.assert_frame_equal(came, frame)
    came._mgr.blocks[0].values[0, 3] = -1.0
    assert np.count_nonzero(came.to_numpy() == -1.0) == 1
    assert np.count_nonzero(came.index == -1.0) == 0


def test_properties_that_arrow_cannot_express_are_kept_next_to_the_table():
    frame = pd.DataFrame(
        {
            "flag": np.arange(LARGE) % 3 == 0,
            "count": pd.array([1, None, 3] * (LARGE // 3), dtype="Int64"),
            "kind": pd.Categorical.from_codes(np.arange(LARGE) % 4, list("abcd"), ordered=True),
            "when": pd.Series(pd.date_range("2024", periods=LARGE, freq="s")).where(np.arange(LARGE) % 5 != 0),
            "object": [None, 1.5, "x"] * (LARGE // 3),
        }
    )
    plain = frame.drop(columns="object")
    files = stored(plain)
    table = layout.open_table(files[TABLE])
    pd.testing.assert_frame_equal(rebuilt(files), plain)
    # Others get what pandas itself would have written.
    assert table.to_pydict() == pa.Table.from_pandas(plain).to_pydict()
    # With a column that Arrow has no type for, the frame is kept exactly, and only that.
    files = stored(frame)
    assert list(files) == [EXACT]
    pd.testing.assert_frame_equal(rebuilt(files), frame)


@pytest.mark.parametrize("awkward", [a for a in AWKWARD if a.library == "pandas"], ids=str)
def test_other_readers_see_what_pandas_would_have_written(awkward):
    frame = awkward.make(SMALL)
    files = stored(frame)
    if TABLE not in files:
        pytest.skip("it is kept exactly, and only that")
    assert type(frame) is pd.DataFrame
    table = layout.open_table(files[TABLE])
    attrs, frame.attrs = frame.attrs, {}
    expected = pa.Table.from_pandas(frame)
    frame.attrs = attrs
    assert table.column_names == expected.column_names
    # But that NaN stays NaN, where pandas makes it null.
    pd.testing.assert_frame_equal(table.to_pandas(), expected.to_pandas(), check_dtype=False)


@pytest.mark.parametrize("cut", [0, 5, 30, 100, -100, -1])
def test_a_damaged_object_is_a_clear_error(cut):
    files = stored(numbers())
    for name in (TABLE, EXACT):
        damaged = {**files, name: files[name][:cut].copy()}
        with pytest.raises(ShelfKeyError):
            rebuilt(damaged)
    scribbled = files[EXACT].copy()
    scribbled[:8] = 0
    with pytest.raises(ShelfKeyError, match="not an object of a shelf"):
        rebuilt({**files, EXACT: scribbled})
