"""Frames by template arrive as by pickle: alone, together, sharing what they share, and however they differ from one before."""

from __future__ import annotations

import copyreg
import gc
import pickle
import sys
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arrowpool.codecs import pandas as codec
from arrowpool.codecs.recent import Recent
from arrowpool.codecs.templates import rebuild, tokens
from arrowpool.transport import by_type, reducer
from tests import programs
from tests.codecs.awkward import AWKWARD, Awkward
from tests.codecs.harness import as_the_stdlib_does, move
from tests.codecs.sameness import facts, memory_of
from tests.codecs.test_buffers import VALUES

PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3
LIMITS = [1, 200, 32 << 10]


@pytest.fixture
def without_templates(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(codec, "encoder_of_frame", lambda cls: None)
    monkeypatch.setattr(codec, "encoder_of_index", lambda cls: None)
    monkeypatch.setattr(codec, "encoder_of_array", lambda cls, otherwise: otherwise)
    monkeypatch.setattr(codec, "encoder_of_categories", lambda cls: None)
    by_type.ways.clear()
    yield
    by_type.ways.clear()


@pytest.mark.usefixtures("without_templates")
@pytest.mark.parametrize("inline_limit", [1, 64 << 10])
@pytest.mark.parametrize("awkward", [a for a in AWKWARD if a.library == "pandas"], ids=str)
def test_without_templates_objects_arrive_as_by_pickle_too(awkward: Awkward, inline_limit: int) -> None:
    obj = awkward.make(40)
    assert b"templates" not in pickle_of(obj)
    assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj))


def pickle_of(obj: Any) -> bytes:
    return reducer.dumps(obj, inline_limit=1 << 15)[0]


def _frame(**changes: Any) -> pd.DataFrame:
    rows = changes.pop("rows", 5)
    frame = pd.DataFrame({"a": np.arange(rows), "b": np.arange(rows) * 0.5, "c": np.arange(rows) * 1.5, **changes})
    frame.index = pd.date_range("2020", periods=rows, freq="D", name="when")
    return frame


# ------------------------------------------------------------------------------------------------ what is shared


def _shared(obj: Any) -> list[int]:
    """Numbers for what an object is made of: the same number where it is the same object."""
    numbers: dict[int, int] = {}
    seen: list[Any] = []  # kept alive, so that ids stay

    def visit(one: Any) -> Iterator[int]:
        seen.append(one)
        yield numbers.setdefault(id(one), len(numbers))
        for part in _parts(one):
            yield from visit(part)

    return list(visit(obj))


def _parts(one: Any) -> list[Any]:
    if isinstance(one, (tuple, list)):
        return list(one)
    if isinstance(one, (pd.DataFrame, pd.Series)):
        return [one._mgr, *one._mgr.blocks, *(b.values for b in one._mgr.blocks), *one._mgr.axes, one.attrs]
    if isinstance(one, pd.MultiIndex):
        return [*one.levels, *one.codes]
    if isinstance(one, pd.RangeIndex):
        return []
    if isinstance(one, pd.Index):
        return [one._data]
    if isinstance(one, pd.Categorical):
        return [one._ndarray, one.dtype, one.dtype.categories]
    if hasattr(one, "_pa_array"):  # whose `_data` older versions warn of
        return []
    names = ("_ndarray", "_data", "_mask", "_left", "_right")
    return [part for name in names if _is_array(part := getattr(one, name, None))]


def _is_array(one: Any) -> bool:
    return isinstance(one, (np.ndarray, pd.api.extensions.ExtensionArray))


def _two_of_one_block() -> Any:
    frame = _frame()
    return frame, frame.copy(deep=False)


def _multi() -> pd.MultiIndex:
    # In older versions, texts are objects, which leave the stream as Arrow strings.
    labels: list[Any] = list("ab") if PANDAS_3 else [7, 8]
    return pd.MultiIndex.from_product([[1.5, 2.5], labels, pd.date_range("2020", periods=2)], names=["f", None, "t"])


def _read(frame: pd.DataFrame) -> pd.DataFrame:
    """What leaves caches behind that refer to blocks and labels."""
    frame.dtypes, frame.values, frame.iloc[0], frame["a"], frame.loc[frame.index[0], "b"], repr(frame)
    return frame


def _with_categories() -> Any:
    frame = _frame(k=pd.Categorical(list("abcab")))
    return frame, frame["k"].copy(), frame["k"].cat.categories, frame["k"].dtype


TOGETHER: dict[str, Callable[[], Any]] = {
    "the same twice": lambda: (frame := _frame(), frame, [frame]),
    "frame and its index": lambda: (frame := _frame(), frame.index),
    "index and its frame": lambda: ((frame := _frame()).index, frame),
    "frame and its columns": lambda: (frame := _frame(), frame.columns),
    "two frames with one index": lambda: ((frame := _frame()), pd.DataFrame({"x": 1.0}, index=frame.index)),
    "two frames with equal indexes": lambda: (_frame(), _frame()),
    "groups with one columns index": lambda: tuple(group for _, group in _frame(rows=9).groupby([0, 1, 2] * 3)),
    "two of one block": _two_of_one_block,
    "frame and its manager": lambda: ((frame := _frame()), frame._mgr),
    "frame and its block": lambda: ((frame := _frame()), frame._mgr.blocks[0]),
    "block and its frame": lambda: ((frame := _frame())._mgr.blocks[1], frame),
    "frame and its blocks": lambda: ((frame := _frame()), frame._mgr.blocks),
    "frame and its values": lambda: ((frame := _frame()), frame._mgr.blocks[0].values),
    "values and their frame": lambda: ((frame := _frame())._mgr.blocks[1].values, frame),
    "frame and its axes": lambda: ((frame := _frame()), frame._mgr.axes),
    "columns and their frame": lambda: ((frame := _frame()).columns, frame),
    "frame and its dates": lambda: ((frame := _frame()), frame.index._data),
    "frame and the memory of its dates": lambda: ((frame := _frame()), frame.index._data._ndarray),
    "frame and the name of its index": lambda: (
        (frame := pd.DataFrame({"a": [1]}, index=pd.Index([1], name=("x", 1.5)))),
        frame.index.name,
    ),
    "series and its index": lambda: ((series := pd.Series([1.5], index=["x"])), series.index),
    "two series over one index": lambda: ((series := pd.Series([1.5], index=["x"])), series * 2),
    "frame and its column": lambda: ((frame := _frame()), frame["a"], frame["a"]),
    "frame and its empty attrs": lambda: ((frame := _frame()), frame.attrs),
    "series that was read, and its block": lambda: (
        (series := pd.Series([1.5, 2])),
        series.values.sum() and series._mgr.blocks[0],
    ),
    "series and its empty attrs": lambda: ((series := pd.Series([1.5, 2])), series.attrs),
    "series and its array": lambda: ((s := pd.Series(pd.date_range("2020", periods=3))), s.array),
    "series and its masked array": lambda: ((s := pd.Series([1, None], dtype="Int64")), s.array, s.array._mask),
    "masked array's mask and series": lambda: ((s := pd.Series([1, None], dtype="boolean")).array._mask, s),
    "series and its strings": lambda: ((s := pd.Series(["a", "b"])), s.array),
    "index and its array": lambda: ((i := pd.date_range("2020", periods=3)), i._data, i._data._ndarray),
    "index of numbers and its array": lambda: ((i := pd.Index([3, 1, 2])), i._data),
    "index and its view": lambda: ((i := pd.Index([3, 1, 2])), i.view()),
    "index of objects and its array": lambda: ((i := pd.Index([3, "x", None])), i._data, i.view()),
    "index of categories and its view": lambda: ((i := pd.CategoricalIndex(list("ab"))), i._data, i.view()),
    "index of texts in Arrow and its view": lambda: (
        (i := pd.Index(list("ab"), dtype="string[pyarrow]")),
        i._data,
        i.view(),
    ),
    "index in Arrow and its view": lambda: (
        (i := pd.Index(pd.array([1, None], pd.ArrowDtype(pa.int32())))),
        i._data,
        i.view(),
    ),
    "series in Arrow and its array": lambda: (
        (s := pd.Series([1, None], dtype=pd.ArrowDtype(pa.int32()))),
        s.array,
        s.array,
    ),
    "index of many texts and its view": lambda: ((i := pd.Index(["a"] * 300, dtype="string[pyarrow]")), i.view()),
    "index of masked numbers and its view": lambda: ((i := pd.Index([1, None], dtype="Int8")), i._data, i.view()),
    "index of booleans and its view": lambda: ((i := pd.Index([True, False])), i._data, i.view()),
    "index over a series": lambda: ((s := pd.Series([3.0, 1.0])), pd.Index(s, copy=False)),
    "categories": _with_categories,
    "multiindex": lambda: ((frame := _frame().set_index("a", append=True)), frame.index, frame.index.levels[0]),
    "multiindex and its levels": lambda: ((i := _multi()), i.levels),
    "multiindex and its own levels": lambda: ((i := _multi()), i._levels),
    "multiindex and one of its own levels": lambda: ((i := _multi()), i._levels[1]),
    "a level and its multiindex": lambda: ((i := _multi()).levels[2], i),
    "multiindex and its codes": lambda: ((i := _multi()), i.codes),
    "multiindex and some of its codes": lambda: ((i := _multi()), i.codes[1]),
    "codes and their multiindex": lambda: ((i := _multi()).codes[0], i),
    "multiindex and the values of a level": lambda: ((i := _multi()), i.levels[0]._data, i.levels[2]._data),
    "multiindex and its view": lambda: ((i := _multi()), i.view()),
    "multiindex under other names": lambda: ((i := _multi()), i.rename(["x", "y", None])),
    "multiindex and half of it": lambda: ((i := _multi()), i[::2], i[:3]),
    "multiindex over an index": lambda: ((j := pd.Index([7, 5])), pd.MultiIndex.from_product([j, list("ab")])),
    "two frames with one multiindex": lambda: ((i := _multi()), pd.DataFrame(index=i), pd.Series(1.5, index=i)),
    "multiindex that was looked up": lambda: ((i := _multi()), i.get_loc(i[2]), i.is_unique, i.values[0]),
    "frame that was read and its blocks": lambda: ((frame := _read(_frame())), frame._mgr.blocks),
    "frame that was read and what pandas remembers": lambda: (
        (frame := _read(_frame())),
        *(getattr(frame._mgr, name, None) for name in ("_dtypes_cache", "_interleaved_dtype")),
    ),
    "index that was looked up and its values": lambda: ((i := pd.Index([3, 1])), i.get_loc(1), i._data),
    "index that was looked up and its view": lambda: ((i := pd.Index([3, "a"])), i.get_loc("a"), i.view()),
    "values and their index that was looked up": lambda: ((i := pd.Index([3, 1]))._data, i.get_loc(1), i),
    "intervals": lambda: ((index := pd.interval_range(0, 3)), index._data, index.left, index),
    "intervals and one end": lambda: ((index := pd.interval_range(0, 3)), index.right),
    "intervals and their array": lambda: ((index := pd.interval_range(0, 3)), index._data),
    "intervals and the other end of their array": lambda: ((index := pd.interval_range(0, 3)), index._data._left),
    "intervals and their index": lambda: ((index := pd.interval_range(0, 3))._data, index),
    "intervals and their view": lambda: ((index := pd.interval_range(0, 3)), index.view(), index.rename("x")),
    "intervals that were looked up": lambda: ((i := pd.interval_range(0, 3)), i.get_loc(1.5), i.mid, i.left),
    "one end of intervals": lambda: ((index := pd.interval_range(0, 3))._data._left, index, index._data._right),
    "intervals of times": lambda: ((index := pd.interval_range(pd.Timestamp("2020"), periods=3)), index.left._data),
    "intervals of times and their ends": lambda: ((i := pd.interval_range(pd.Timestamp("2020"), periods=3)).right, i),
    "intervals of times and their array": lambda: ((i := pd.interval_range(pd.Timestamp("2020"), periods=3)), i._data),
    "intervals of one array": lambda: ((a := np.arange(3)), pd.arrays.IntervalArray.from_arrays(a, a)),
    "intervals of one array that is not theirs": lambda: (pd.IntervalIndex.from_arrays((a := np.arange(3)), a), a),
    "series and its intervals": lambda: ((s := pd.Series(pd.interval_range(0, 3))), s.array, s.array._left),
    "intervals of a series": lambda: ((s := pd.Series(pd.interval_range(0, 3))).array._right, s),
    "series and an index of its intervals": lambda: ((s := pd.Series(pd.interval_range(0, 3))), pd.Index(s)),
    "index of intervals and its series": lambda: (pd.Index(s := pd.Series(pd.interval_range(0, 3))), s),
    "what was cut": lambda: (
        (s := pd.cut(pd.Series(range(9)), 3)),
        s.cat.categories,
        s.groupby(s, observed=True).size(),
    ),
    "a level of intervals": lambda: (
        (index := pd.MultiIndex.from_product([pd.interval_range(0, 2), [1.5]])),
        index.levels[0],
        index._levels[0]._data,
    ),
    "an index that was looked up": lambda: ((frame := _frame()), frame.index.get_loc(frame.index[2]), frame.index),
}


if PANDAS_3:  # in older versions they are objects, which leave the stream as Arrow strings
    # In older versions, it depends on which object a dtype is whether the ordinals are one array or two over the same memory.
    TOGETHER["index of periods and its view"] = lambda: (
        (i := pd.period_range("2020", periods=3)),
        i._data,
        i.view(),
    )
    TOGETHER["index of texts and its view"] = lambda: ((i := pd.Index(list("ab"))), i._data, i.view())


def _objects() -> tuple[np.ndarray, pd.Index]:
    array = np.array(["a", "b", "c"], dtype=object)
    return array, pd.Index(array, dtype=object, copy=False)


#: What cannot be told by which objects are the same.
ONE_MEMORY = {
    **TOGETHER,
    "index of objects that are texts and its view": lambda: (
        (i := pd.Index(list("ab"), dtype=object)),
        i._data,
        i.view(),
    ),
    "frame and its labels": lambda: ((frame := _frame()), frame.columns._data),
    "labels and their frame": lambda: ((frame := _frame()).columns._data, frame),
    "objects and their index": lambda: _objects(),
    "index of objects and these": lambda: _objects()[::-1],
    "index of objects and its view": lambda: ((i := _objects()[1]), i.view()),
    "index of objects under two names": lambda: ((i := _objects()[1]), i.rename("other")),
    "numbers and their index": lambda: ((a := np.arange(3)), pd.Index(a, copy=False)),
    "times and their index": lambda: ((a := np.arange(3).view("M8[ns]")), pd.DatetimeIndex(a, copy=False)),
    "numbers and their masked array": lambda: ((a := np.arange(3)), pd.arrays.IntegerArray(a, a == 1)),
}
for internal in (
    "frame and its manager",
    "frame and its block",
    "block and its frame",
    "frame and its blocks",
    "frame that was read and its blocks",
    "frame that was read and what pandas remembers",
    "frame and its axes",
):
    del ONE_MEMORY[internal]


@pytest.mark.parametrize("inline_limit", LIMITS)
@pytest.mark.parametrize("name", TOGETHER)
def test_what_is_one_object_stays_one(name: str, inline_limit: int) -> None:
    obj = TOGETHER[name]()
    expected = as_the_stdlib_does(obj)
    if isinstance(obj[0], (pd.DataFrame, pd.Series, pd.Index)):
        assert facts(move(obj, inline_limit).obj[0]) == facts(expected[0])
    assert _shared(move(obj, inline_limit).obj) == _shared(expected)


def _writable_memory(obj: Any) -> list[np.ndarray]:
    """The memory that shows in several places when it is written to, in one order for equal objects."""
    objs = obj if isinstance(obj, (tuple, list)) else [obj]
    pieces = [piece for one in objs for piece in memory_of(one)]
    # Arrow's memory is not to be written to, and arrives read-only.
    return [piece for piece in pieces if not isinstance(getattr(piece.base, "obj", piece.base), pa.Buffer)]


@pytest.mark.parametrize("inline_limit", LIMITS)
@pytest.mark.parametrize("name", ONE_MEMORY)
def test_what_has_one_memory_still_has(name: str, inline_limit: int) -> None:
    obj = ONE_MEMORY[name]()
    shared = []
    for arrived in (as_the_stdlib_does(obj), move(obj, inline_limit).obj):
        pieces = _writable_memory(arrived)
        shared.append([[np.shares_memory(one, other) for other in pieces] for one in pieces])
    assert shared[0] == shared[1]


@pytest.mark.parametrize("inline_limit", LIMITS)
def test_a_cell_may_refer_to_its_frame(inline_limit: int) -> None:
    frame = _frame(o=[None, 1, "x", [], {}])
    frame.iat[3, 3].append(frame)
    arrived = move(frame, inline_limit).obj
    assert arrived.iat[3, 3][0] is arrived
    series = pd.Series([[], 1, None], dtype=object)
    series.iat[0].append(series)
    arrived = move(series, inline_limit).obj
    assert arrived.iat[0][0] is arrived
    attrs: dict[str, Any] = {}
    frame = _frame()
    object.__setattr__(frame, "_attrs", attrs)
    attrs["self"] = frame
    arrived = move(frame, inline_limit).obj
    assert arrived.attrs["self"] is arrived


# ---------------------------------------------------------------------------------------------- what is different


def _renamed(frame: pd.DataFrame) -> None:
    frame.columns.name = "columns"
    frame.index.name = "other"


def _without_freq(frame: pd.DataFrame) -> None:
    frame.index = pd.DatetimeIndex(frame.index, freq=None).delete(0).insert(0, frame.index[0])
    frame.index.freq = None


def _text(chunked: pa.ChunkedArray) -> Any:
    """An array of strings over these chunks, as other libraries and older versions leave them."""
    values = pd.array([], "string[pyarrow]")
    values._pa_array = chunked
    return values


def _in_arrow(chunked: pa.ChunkedArray) -> Any:
    return pd.arrays.ArrowExtensionArray(chunked)


def _with_metadata() -> pa.ChunkedArray:
    """Whose type compares equal to one without metadata."""
    field = pa.field("a", pa.int8(), metadata={"unit": "m"})
    return pa.chunked_array([pa.array([{"a": number} for number in range(5)], pa.struct([field]))])


def _with_another_type() -> Any:
    values = _in_arrow(pa.chunked_array([[1, 2, 3, 4, 5]]))
    values._dtype = pd.ArrowDtype(pa.int32())
    return values


def _with_wide_codes(index: pd.Index) -> pd.MultiIndex:
    """With codes that pandas would not make itself, and takes as they are."""
    multi = pd.MultiIndex.from_arrays([index, range(len(index))])
    multi._codes = type(multi._codes)([multi._codes[0].astype(np.int64), multi._codes[1]])
    return multi


CHANGES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "nothing": lambda frame: None,
    "names in place": _renamed,
    "freq": _without_freq,
    "another freq": lambda frame: setattr(frame, "index", pd.date_range("2020", periods=len(frame), freq="2D")),
    "business days": lambda frame: setattr(frame, "index", pd.date_range("2020", periods=len(frame), freq="B")),
    "week": lambda frame: setattr(frame, "index", pd.date_range("2020", periods=len(frame), freq="W-WED")),
    "zone": lambda frame: setattr(frame, "index", frame.index.tz_localize("Asia/Tokyo")),
    "another zone": lambda frame: setattr(frame, "index", frame.index.tz_localize(zoneinfo.ZoneInfo("Asia/Seoul"))),
    "offset zone": lambda frame: setattr(frame, "index", frame.index.tz_localize("+01:30")),
    "utc": lambda frame: setattr(frame, "index", frame.index.tz_localize("UTC")),
    "unit": lambda frame: setattr(frame, "index", frame.index.as_unit("s")),
    "periods": lambda frame: setattr(frame, "index", frame.index.to_period("D")),
    "periods of months": lambda frame: setattr(frame, "index", frame.index.to_period("M")),
    "timedeltas": lambda frame: setattr(frame, "index", pd.timedelta_range(0, periods=len(frame), freq="h")),
    "range": lambda frame: setattr(frame, "index", pd.RangeIndex(1, 2 * len(frame) + 1, 2, name=("a", 1))),
    "masked index": lambda frame: setattr(frame, "index", pd.Index(pd.array(range(len(frame)), "Int32"))),
    "categories": lambda frame: setattr(frame, "index", pd.CategoricalIndex(list("abcab"), list("cba"), ordered=True)),
    "multi": lambda frame: setattr(frame, "index", pd.MultiIndex.from_product([list("xyzuv"), [1.5]])),
    **{
        f"levels of {name}": lambda frame, level=level: setattr(
            frame, "index", pd.MultiIndex.from_arrays([level, [1, 1, 2, 2, 3]], names=["a", None])
        )
        for name, level in {
            "floats": pd.Index([1.5, 2.5, 3.5, 4.5, None]),
            "texts": pd.Index(list("vwxyz")),
            "objects": pd.Index([1, "a", None, 2.5, (1, 2)]),
            "times": pd.date_range("2020", periods=5, freq="2D"),
            "zoned times": pd.date_range("2020", periods=5, tz="Asia/Tokyo"),
            "periods": pd.period_range("2020", periods=5, freq="M"),
            "durations": pd.timedelta_range(0, periods=5),
            "categories": pd.CategoricalIndex(list("abcab"), list("cba")),
            "masked numbers": pd.Index(pd.array([1, None, 3, 4, 5], "Int32")),
            "intervals": pd.interval_range(0, 5),
            "a range": pd.RangeIndex(1, 11, 2),
        }.items()
    },
    "one level": lambda frame: setattr(frame, "index", pd.MultiIndex.from_arrays([list("vwxyz")])),
    "many labels in a level": lambda frame: setattr(
        frame, "index", pd.MultiIndex.from_product([range(200), ["a"]], names=["n", ("t", 1)])[100:105]
    ),
    "unused levels": lambda frame: setattr(frame, "index", pd.MultiIndex.from_product([range(5), list("ab")])[::2]),
    "sorted levels": lambda frame: setattr(
        frame, "index", pd.MultiIndex.from_product([range(5), ["a"]]).sortlevel(1)[0]
    ),
    "wide codes": lambda frame: setattr(frame, "index", _with_wide_codes(frame.index)),
    "columns of levels": lambda frame: setattr(
        frame, "columns", pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=[None, "n"])
    ),
    "intervals": lambda frame: setattr(frame, "index", pd.interval_range(0, len(frame))),
    "intervals closed on the left": lambda frame: setattr(
        frame, "index", pd.interval_range(0, len(frame), closed="left", name="i")
    ),
    "intervals closed on both sides": lambda frame: setattr(
        frame, "index", pd.interval_range(0.5, len(frame) + 0.5, closed="both")
    ),
    "intervals of zoned times": lambda frame: setattr(
        frame, "index", pd.interval_range(pd.Timestamp("2020", tz="Asia/Tokyo"), periods=len(frame), freq="3h")
    ),
    "intervals of durations": lambda frame: setattr(
        frame, "index", pd.interval_range(pd.Timedelta(0), periods=len(frame), freq="h")
    ),
    "intervals without some": lambda frame: setattr(
        frame, "index", pd.IntervalIndex([pd.Interval(0, 1), None, pd.Interval(2, 3), None, pd.Interval(2, 5)])
    ),
    "a level of intervals": lambda frame: setattr(
        frame, "index", pd.MultiIndex.from_arrays([pd.interval_range(0, len(frame)), list("aabbc")])
    ),
    "a column of intervals": lambda frame: frame.insert(1, "v", pd.interval_range(1, len(frame) + 1, closed="neither")),
    "a column that was cut": lambda frame: frame.insert(1, "v", pd.cut(frame["b"], 3)),
    "texts": lambda frame: setattr(frame, "index", pd.Index(list("vwxyz"))),
    "texts as objects": lambda frame: setattr(frame, "index", pd.Index(list("vwxyz"), dtype=object)),
    "mixed objects": lambda frame: setattr(frame, "index", pd.Index([1, "a", None, 2.5, (1, 2)])),
    "columns": lambda frame: setattr(frame, "columns", ["x", "y", "z"]),
    "duplicate columns": lambda frame: setattr(frame, "columns", ["x", "x", 0]),
    "columns of objects": lambda frame: setattr(frame, "columns", pd.Index(list("abc"), dtype=object)),
    "columns in Arrow": lambda frame: setattr(frame, "columns", pd.Index(list("abc"), dtype="string[pyarrow]")),
    "columns in Python": lambda frame: setattr(frame, "columns", pd.Index(list("abc"), dtype="string[python]")),
    "a column without a label": lambda frame: setattr(
        frame, "columns", pd.Index(["a", None, "c"], dtype="string[pyarrow]")
    ),
    "an empty label": lambda frame: setattr(frame, "columns", ["a", "", "c"]),
    "labels of NumPy": lambda frame: setattr(frame, "columns", pd.Index([np.str_("a"), "b", "c"], dtype=object)),
    "half of a character": lambda frame: setattr(frame, "columns", pd.Index(["\ud800", "b", "c"], dtype=object)),
    "long labels": lambda frame: setattr(frame, "columns", ["a" * 3000, "b", "c"]),
    "small offsets": lambda frame: setattr(
        frame, "columns", pd.Index(_text(pa.chunked_array([["a", "b", "c"]], pa.string())))
    ),
    "labels in chunks": lambda frame: setattr(frame, "columns", pd.Index(_text(pa.chunked_array([["a"], ["b", "c"]])))),
    "columns of numbers": lambda frame: setattr(frame, "columns", [1.0, 2.0, 3.0]),
    "columns of booleans": lambda frame: setattr(frame, "columns", [True, False, True]),
    "columns of 1 and True": lambda frame: setattr(frame, "columns", pd.Index([1, True, 1.0], dtype=object)),
    "attrs": lambda frame: frame.attrs.update(source="x"),
    "flags": lambda frame: setattr(frame.flags, "allows_duplicate_labels", False),
    "dtype": lambda frame: frame.isetitem(0, np.arange(len(frame), dtype=np.int32)),
    "placement": lambda frame: frame.isetitem(1, np.arange(len(frame))),
    "one by one": lambda frame: frame.insert(1, "new", 1.5),
    "signed zero": lambda frame: frame.isetitem(2, np.full(len(frame), -0.0)),
    "categorical": lambda frame: frame.isetitem(2, pd.Categorical(list("xyzxy"))),
    "ordered": lambda frame: frame.isetitem(2, pd.Categorical(list("xyzxy"), ordered=True)),
    "other categories": lambda frame: frame.isetitem(2, pd.Categorical([1, 2, 1, 2, None])),
    "masked": lambda frame: frame.isetitem(0, pd.array([1, None, 3, 4, 5], "UInt8")),
    "masked floats": lambda frame: frame.isetitem(0, pd.array([1, None, 3, 4, 5], "Float32")),
    "masked booleans": lambda frame: frame.isetitem(0, pd.array([True, None, True, True, False], "boolean")),
    "zoned column": lambda frame: frame.isetitem(0, pd.date_range("2020", periods=5, tz="Asia/Tokyo")),
    "other zone": lambda frame: frame.isetitem(0, pd.date_range("2020", periods=5, tz="UTC")),
    "times": lambda frame: frame.isetitem(0, pd.date_range("2020", periods=5, unit="s")),
    "durations": lambda frame: frame.isetitem(0, pd.timedelta_range(0, periods=5)),
    "strings": lambda frame: frame.isetitem(0, pd.array(["a", "", None, "é", "b"], "string[pyarrow]")),
    "strings in Python": lambda frame: frame.isetitem(0, pd.array(["a", "", None, "é", "b"], "string[python]")),
    "empty strings": lambda frame: frame.isetitem(0, pd.array([""] * 5, "string[pyarrow]")),
    "strings that are missing": lambda frame: frame.isetitem(0, pd.array([None] * 5, "string[pyarrow]")),
    "strings in chunks": lambda frame: frame.isetitem(0, _text(pa.chunked_array([["a"], ["b", "c", None, ""]]))),
    "strings with small offsets": lambda frame: frame.isetitem(
        0, _text(pa.chunked_array([list("abcde")], pa.string()))
    ),
    **{
        f"{type_} in Arrow{note}": lambda frame, array=array: frame.isetitem(
            0, _in_arrow(pa.chunked_array([array.slice(3, 5)]))
        )
        for type_, values in VALUES.items()
        for note, array in {
            "": pa.array(values, type_),
            ", some missing": pa.array([None, *values[1:4], None, *values[5:]], type_),
            ", all missing": pa.nulls(8, type_),
        }.items()
    },
    "lists in Arrow": lambda frame: frame.isetitem(0, _in_arrow(pa.chunked_array([[[1], [], None, [2], [3]]]))),
    "dictionary in Arrow": lambda frame: frame.isetitem(
        0, _in_arrow(pa.chunked_array([pa.array(list("abcab")).dictionary_encode()]))
    ),
    "a type with metadata in Arrow": lambda frame: frame.isetitem(0, _in_arrow(_with_metadata())),
    "chunks in Arrow": lambda frame: frame.isetitem(0, _in_arrow(pa.chunked_array([[1], [2, 3, None, 5]]))),
    "another type than the dtype": lambda frame: frame.isetitem(0, _with_another_type()),
    "index in Arrow": lambda frame: setattr(
        frame, "index", pd.Index(_in_arrow(pa.chunked_array([[5, None, 3, 1, 2]])))
    ),
    "index of texts in Arrow": lambda frame: setattr(
        frame, "index", pd.Index(_in_arrow(pa.chunked_array([list("vwxyz")])))
    ),
    "objects": lambda frame: frame.isetitem(0, np.array([1, "a", None, [], 2.5], dtype=object)),
}


if PANDAS_3:  # older versions cannot take every other row of it
    CHANGES["foreign order"] = lambda frame: frame.isetitem(2, np.arange(len(frame)).astype(">f8"))


@pytest.mark.parametrize("inline_limit", LIMITS)
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_a_frame_never_gets_the_template_of_another(order: int, inline_limit: int) -> None:
    for name in list(CHANGES)[::order]:
        frame = _frame()
        assert facts(move(frame, inline_limit).obj) == facts(as_the_stdlib_does(frame))
        CHANGES[name](frame)
        for obj in (frame, frame.copy(), frame[1:4], frame[::-2], frame.iloc[:, 1:], frame.iloc[:, 0], frame.T):
            assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj)), name


def test_a_frame_whose_axis_was_renamed_in_place_has_the_new_name() -> None:
    frame = _frame()
    for name in ("a", ("b", 1), None, "c", 1, True, 1.0):
        frame.columns.name = frame.index.name = name
        arrived = move(frame).obj
        assert [type(arrived.columns.name), arrived.columns.name] == [type(name), name]
        assert [type(arrived.index.name), arrived.index.name] == [type(name), name]


def test_columns_that_take_the_place_of_others_in_memory_are_not_mistaken() -> None:
    for number in range(300):
        frame = pd.DataFrame({f"{number} {name}": [1.5] for name in "abc"})
        assert list(move(frame).obj.columns) == [f"{number} {name}" for name in "abc"]
        zone = zoneinfo.ZoneInfo(("UTC", "Asia/Tokyo", "Europe/Paris")[number % 3])
        series = pd.Series(pd.DatetimeIndex([0, 1], tz=zone))
        assert str(move(series).obj.dt.tz) == zone.key
        del frame, series
        gc.collect(0)


def test_labels_in_memory_that_changes_are_not_mistaken() -> None:
    characters = np.frombuffer(b"abc", "u1").copy()
    offsets = pa.py_buffer(np.arange(4, dtype="i8"))
    array = pa.Array.from_buffers(pa.large_string(), 3, [None, offsets, pa.py_buffer(characters)], 0)
    index = pd.Index(_text(pa.chunked_array([array])))
    assert move(index).obj.tolist() == list("abc")
    characters[1] = ord("x")
    assert move(index).obj.tolist() == list("axc")


@pytest.mark.parametrize("count", [1, 100, 101])
def test_labels_of_one_template_are_not_shared(count: int) -> None:
    labels = [f"column {number}" for number in range(count)]
    for index in (pd.Index(labels), pd.Index(labels, dtype=object), pd.Index(labels, dtype="string[pyarrow]")):
        for _ in range(2):
            arrived = move(index).obj
            assert facts(arrived) == facts(as_the_stdlib_does(index))
            assert index.equals(arrived)
            arrived._data[0] = "changed"
            arrived.name = "changed"


@pytest.mark.skipif(not PANDAS_3, reason="older versions have no arrays that are read-only")
@pytest.mark.parametrize("inline_limit", LIMITS)
@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string[pyarrow]", "M8[ns, UTC]", "category"])
def test_what_is_read_only_stays_so(dtype: str, inline_limit: int) -> None:
    values: list[Any] = (
        [True, None, False] if dtype == "boolean" else ["1", None] if dtype == "string[pyarrow]" else [1, 2]
    )
    for obj in (array := pd.Index(pd.array(values, dtype)).array, array[:1], array.copy()):
        assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj))
    assert array._readonly


@pytest.mark.parametrize("inline_limit", LIMITS)
def test_nothing_is_shared_between_frames_of_one_template(inline_limit: int) -> None:
    frame = _frame(k=pd.Categorical(list("abcab")), m=pd.array([1, None, 2, 3, 4], "Int64"))
    expected = facts(as_the_stdlib_does(frame))
    for _ in range(3):
        arrived = move(frame, inline_limit).obj
        assert facts(arrived) == expected
        arrived.columns.name = arrived.index.name = "changed"
        arrived["k"].cat.categories.name = "changed"
        arrived.attrs["changed"] = True
        arrived.flags.allows_duplicate_labels = False
        arrived.index.freq = None
        arrived.iloc[0, :3] = 77
        arrived.loc[:, "m"] = 9
        arrived["new"] = 1
    assert facts(as_the_stdlib_does(frame)) == expected


@pytest.mark.parametrize("inline_limit", [32 << 10, sys.maxsize])
@pytest.mark.parametrize(("columns", "rows"), [(1, 20_000), (30, 1_000)])
def test_texts_for_which_the_heap_has_no_room(columns: int, rows: int, inline_limit: int) -> None:
    """Some of the columns, or the only one: with an unlimited message, as where there is no shared memory, and without."""
    frame = pd.DataFrame({f"word{i}": [f"word {row}" for row in range(rows)] for i in range(columns)})
    assert facts(move(frame, inline_limit).obj) == facts(as_the_stdlib_does(frame))


@pytest.mark.parametrize("cls", [pd.DataFrame, pd.Series])
def test_metadata_that_others_have_added_to_the_class_arrives(cls: type, monkeypatch) -> None:
    monkeypatch.setattr(cls, "_metadata", [*cls._metadata, "unit"])
    obj = cls([1.5, 2.5])
    object.__setattr__(obj, "unit", "cm")
    assert move(obj).obj.unit == "cm"


@pytest.mark.parametrize(
    "kind",
    [
        *(pd.Categorical, pd.DatetimeIndex, pd.arrays.IntegerArray, pd.RangeIndex),
        *(pd.IntervalIndex, pd.arrays.IntervalArray, pd.MultiIndex),
    ],
)
def test_a_reducer_that_is_registered_for_a_part_of_a_frame_is_asked(kind: type, monkeypatch: Any) -> None:
    intervals = pd.interval_range(0, 2)
    frame = pd.DataFrame({"c": pd.Categorical(["x", "y"]), "i": pd.array([1, None], "Int64"), "v": intervals})
    other = frame.set_index(pd.date_range("2020", periods=2))
    other = other, frame.set_index(intervals), frame.set_index(["c", "v"])
    move((frame, other))  # with templates
    asked = []

    def reduce(obj: Any) -> Any:
        asked.append(obj)
        return obj.__reduce__()

    monkeypatch.setitem(copyreg.dispatch_table, kind, reduce)
    moved = move((frame, other)).obj
    count = len(asked)
    assert facts(moved) == facts(as_the_stdlib_does((frame, other)))
    assert len(asked) == 2 * count > 0


@pytest.mark.parametrize(
    "values",
    [
        pd.array([1, None], "Int8"),
        pd.Categorical(["a"]),
        pd.date_range("2020", periods=2),
        pd.period_range("2020", periods=2),
    ],
    ids=lambda values: type(values).__name__,
)
def test_a_reducer_that_is_registered_for_arrays_is_asked_for_those_inside_of_others(
    values: Any, monkeypatch: Any
) -> None:
    asked = []

    def reduce(array: Any) -> Any:
        asked.append(array)
        return array.__reduce__()

    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, reduce)
    for obj in (values, pd.Series(values)):
        asked.clear()
        moved = move(obj).obj
        assert asked
        assert facts(moved) == facts(as_the_stdlib_does(obj))


@pytest.mark.skipif(
    not PANDAS_3,
    reason="in older versions, frames remember columns that were read, and so share their index with these",
)
def test_frames_and_indexes_that_were_read_still_have_templates() -> None:
    for frame in (_frame(), _frame().set_axis([7, 5, 3, 1, 2]), _frame().set_axis(["e", 1, None, "b", "a"])):
        fresh = pickle_of(frame)
        _read(frame)
        assert len(pickle_of(frame)) <= len(fresh)
        assert facts(move(frame).obj) == facts(as_the_stdlib_does(frame))


def test_series_that_were_read_still_have_templates() -> None:
    for series in (pd.Series([1.5, 2.5]), pd.Series([1, None], dtype="Int64"), _frame()["a"].copy()):
        fresh = pickle_of(series)
        series.values, series.size, series.iloc[0], repr(series), series.mean()
        assert len(pickle_of(series)) <= len(fresh)
        assert facts(move(series).obj) == facts(as_the_stdlib_does(series))


def test_templates_are_written_once_a_message() -> None:
    frames = [_frame() for _ in range(50)]
    stream = pickle_of(frames)
    assert stream.count(b"\x04fill") == 1
    one, two = (len(pickle_of(frames[:count])) for count in (1, 2))
    assert len(stream) < one + 49 * 1.1 * (two - one)


def test_templates_are_bounded() -> None:
    for number in range(3000):
        frame = pd.DataFrame({"a": [1.5]}, index=pd.date_range("2020", periods=1, freq=f"{number + 1}s"))
        frame.columns = [f"column {number}"]
        for column in range(number % 40):
            frame.isetitem(0, np.zeros(1, "f4" if column % 2 else "i2"))
        move(frame)
    for cache in (rebuild._templates, rebuild._plans, tokens._known):
        assert len(cache) <= 2 * rebuild.TEMPLATES


@pytest.mark.parametrize("storage", [pa.large_string(), pa.string()], ids=str)
def test_a_few_strings_of_a_long_column_are_remembered_without_the_column(storage: pa.DataType) -> None:
    rebuild._templates.clear()
    column = pa.array(["a", "b", *[""] * 100_000], storage)
    few = _text(pa.chunked_array([column[:2]]))
    assert facts(move(few).obj) == facts(as_the_stdlib_does(few))
    remembered = [part for _, key in rebuild._templates._new for part in key if isinstance(part, bytes)]
    assert remembered
    assert max(map(len, remembered)) < 1000


def test_what_is_looked_up_again_is_not_forgotten() -> None:
    recent: Recent[int, str] = Recent(3)
    recent.put(-1, "kept")
    for number in range(100):
        recent.put(number, "x")
        assert recent.get(-1) == "kept"
        assert len(recent) <= 6
    assert recent.get(0) is None
    recent.clear()
    assert len(recent) == 0


def test_entries_are_forgotten_by_their_bytes_too() -> None:
    recent: Recent[int, bytes] = Recent(100, 1000, lambda _, value: len(value))
    for number in range(100):
        recent.put(number, bytes(300))
        assert len(recent) <= 6
    assert recent.get(99) is not None
    recent.put(100, bytes(5000))  # more than the limit
    assert recent.get(100) is not None
    recent.put(101, bytes(1000))
    recent.put(102, b"x")
    assert recent.get(100) is None


def test_templates_of_wide_frames_do_not_pile_up() -> None:
    """Each has its columns in an order of its own, so that its template is as long as itself."""
    rebuild._templates.clear()
    rebuild._plans.clear()
    random = np.random.default_rng(0)
    half = 10_000
    both = pd.concat([pd.DataFrame(np.zeros((1, half))), pd.DataFrame(np.zeros((1, half), bool))], axis=1)
    for _ in range(60):
        frame = both.iloc[:, random.permutation(2 * half)]
        assert move(frame).obj.dtypes.equals(frame.dtypes)
    remembered = sum(map(len, [*rebuild._plans._new, *rebuild._plans._old]))
    assert 0 < remembered <= 2 * rebuild.TEMPLATE_BYTES


# ---------------------------------------------------------------------------------------------------- at random

#: Older versions of pandas cannot take slices of foreign byte order.
ENDIANNESS: Any = "?" if PANDAS_3 else "="
TEXTS: Any = ["string[python]", "string[pyarrow]", *(["str"] if PANDAS_3 else [])]
NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness=ENDIANNESS) | hnp.floating_dtypes(endianness=ENDIANNESS)


KINDS = ["numbers", "times", "zoned", "masked", "categories", "text", "periods", "objects", "intervals"]


@st.composite
def _columns(draw: st.DrawFn, rows: int) -> Any:
    kind = draw(st.sampled_from(KINDS))
    ints = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 5)))
    if kind == "numbers":
        return draw(hnp.arrays(draw(NUMBERS), rows))
    if kind == "times":
        return pd.Series(
            ints.astype(f"{draw(st.sampled_from('Mm'))}8[{draw(st.sampled_from(['s', 'ms', 'ns']))}]")
        ).array
    if kind == "zoned":
        return pd.DatetimeIndex(ints, tz=draw(st.sampled_from(["UTC", "Asia/Tokyo", "+02:00"]))).array
    if kind == "masked":
        values = [None if number == 0 else int(number) for number in ints]
        return pd.array(values, draw(st.sampled_from(["Int8", "UInt64", "Float32"])))
    if kind == "intervals":
        ends = draw(st.sampled_from([ints, ints * 0.5, pd.DatetimeIndex(ints, tz="UTC"), pd.TimedeltaIndex(ints)]))
        return pd.arrays.IntervalArray.from_arrays(ends, ends, draw(st.sampled_from(["left", "right", "both"])))
    if kind == "categories":
        return pd.Categorical(ints, ordered=draw(st.booleans()))
    if kind == "text":
        texts = [None if number == 0 else "x" * (number - 1) for number in ints]
        array = pd.array(texts, draw(st.sampled_from(TEXTS)))
        # Rows before the first visible one, any number of them.
        hidden = draw(st.integers(0, 9))
        return pd.concat([pd.Series(["é", None, "z"] * 3, dtype=array.dtype)[:hidden], pd.Series(array)]).array[hidden:]
    if kind == "periods":
        return pd.PeriodIndex.from_ordinals(ints, freq=draw(st.sampled_from(["D", "M"]))).array if PANDAS_3 else ints
    return np.array([None if number == 0 else [int(number)] for number in ints] + [0], dtype=object)[:-1]


def _slices(length: int) -> st.SearchStrategy[slice]:
    return st.slices(length).filter(lambda one: abs(one.step or 1) < 1 << 62)  # which Arrow cannot count


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), rows=st.integers(0, 12), inline_limit=st.sampled_from([1, 50, 1 << 16]))
def test_any_frames_together_arrive_as_by_pickle(data: st.DataObject, rows: int, inline_limit: int) -> None:
    columns = data.draw(st.lists(_columns(rows), max_size=6))
    frame = pd.DataFrame(dict(enumerate(columns)), index=range(rows))
    frame.columns = data.draw(
        st.just(frame.columns)
        | st.just([f"c{i % 3}" for i in range(len(columns))])
        | st.just(list(range(len(columns))))
    )
    if data.draw(st.booleans()):
        values = data.draw(_columns(rows))
        if getattr(values.dtype, "str", "")[1:] != "f2":  # of which pandas has no index
            frame.index = pd.Index(values, name="i")
    slices = data.draw(st.lists(st.tuples(_slices(rows), _slices(len(columns))), max_size=3))
    obj = [
        frame,
        *(frame.iloc[by] for by in slices),
        frame.index,
        frame.columns,
        *(frame.iloc[:, i] for i in range(len(columns))),
    ]
    if data.draw(st.booleans()):
        obj.insert(0, obj.pop())
    expected = as_the_stdlib_does(obj)
    arrived = move(obj, inline_limit).obj
    assert facts(arrived) == facts(expected)
    assert _shared(arrived) == _shared(expected)
    again = move(arrived, inline_limit).obj
    assert facts(again) == facts(pickle.loads(pickle.dumps(expected, 4)))


PATCHED = """
import multiprocessing as mp
import sys

import pandas as pd

import arrowpool


def rebuild(*args):
    return "patched"


def name(obj):
    return type(obj).__name__


if __name__ == "__main__":
    for obj in (pd.Series([1]), pd.Index([1, 3]), pd.RangeIndex(3), pd.CategoricalIndex(["a"]), pd.DataFrame({"x": [1]})):
        type(obj).__reduce__ = lambda self: (rebuild, ())
        with mp.Pool(1) as theirs, arrowpool.Pool(1) as ours:
            assert theirs.apply(name, (obj,)) == ours.apply(name, (obj,)) == "str", type(obj)
    print("as with the standard library")
"""


def test_pickling_that_was_replaced_before_the_first_object_is_used(tmp_path: Any) -> None:
    script = tmp_path / "program.py"
    script.write_text(PATCHED)
    ran = programs.run([str(script)], timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "as with the standard library" in ran.stdout
