"""`map_groups`, `imap_groups` and `map_frame`, with `groupby.apply` as the oracle."""

from __future__ import annotations

import functools
import re
import sys
import threading
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

import arrowpool
from arrowpool.frames.groups import Groups
from arrowpool.frames.stack import Stack
from arrowpool.frames.work import ApplyToRun
from tests.conftest import across_methods

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
#: pandas 2 gives the key columns to the function, too, unless it is asked not to. It makes an Index of a RangeIndex.
IS_PANDAS_3 = pd.__version__ >= "3"
WITHOUT_KEYS = {} if IS_PANDAS_3 else {"include_groups": False}


def size(group):
    return len(group)


def named(group):
    return (group.name, len(group))


def total(group):
    return group.sum(numeric_only=True)


def scaled(group):
    return group.select_dtypes("number") * 2


def column(group):
    return group["x"].cumsum()


def head(group):
    return group.head(2)


def some(group):
    return None if len(group) < 2 else group


def nothing(group):
    return None


def several(group):
    return pd.DataFrame({"low": [group["x"].min()], "high": [group["x"].max()]})


def written(group):
    group = group.copy()
    group["y"] = group["x"] + 1
    return group


def numbered(group):
    return group.reset_index(drop=True)


def index_renamed(group):
    group.index.names = ["changed"] * group.index.nlevels
    return group[["x"]]


def dated(group):
    days = pd.date_range("2024-01-01", periods=len(group), freq="D")
    return pd.DataFrame({"x": group["x"].to_numpy()}, index=days)


def labelled(group):
    return group[["x"]].set_axis([f"{group.name} {row}" for row in range(len(group))])


def two_levels(group):
    return group[["x", "s"]].set_index("s", append=True)


def sorted_rows(group):
    return group.sort_values("x", ascending=False)


def some_integers(group):
    return group[["x"]].astype("int64") if len(group) % 2 else group[["x"]]


def other_columns(group):
    return group[["x"]] if len(group) % 2 else group[["s", "x"]]


def categories(group):
    return pd.DataFrame({"c": pd.Categorical(group["s"], categories=sorted(group["s"], reverse=len(group) % 2 == 0))})


def a_row(group):
    return group.select_dtypes("number").iloc[0]


def frame_or_row(group):
    return group[["x"]] if len(group) % 2 else group["x"]


def objects(group):
    count = min(3, len(group))
    index = pd.Index([1, True, 2.0][:count], dtype=object)
    return pd.DataFrame({"o": pd.array([1, "a", None][:count], dtype=object)}, index=index)


def with_attrs(group):
    group = group[["x"]].copy()
    group.attrs["source"] = "test"
    return group


FUNCTIONS = (
    size, named, total, scaled, column, head, some, nothing, several, written, numbered, index_renamed, dated, labelled,
    two_levels, sorted_rows, some_integers, other_columns, categories, a_row, frame_or_row, objects, with_attrs,
)  # fmt: skip


def assert_same(got, expected):
    assert type(got) is type(expected)
    exact = {"rtol": 0, "atol": 0, "check_index_type": "exact" if IS_PANDAS_3 else "equiv"}
    (assert_frame_equal if isinstance(expected, pd.DataFrame) else assert_series_equal)(got, expected, **exact)
    assert got.attrs == expected.attrs
    levels = [getattr(one.index, "levels", [one.index]) for one in (got, expected)]
    for level, other in zip(*levels, strict=True):
        assert type(level) is type(other) or not IS_PANDAS_3
        assert level.equals(other)
        assert getattr(level, "freq", None) == getattr(other, "freq", None)


def outcome(call):
    """The result of a call, or the type of its exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except Exception as error:
        return type(error)


def here(function, frame, by, parts, chunksize=None, **options):
    """As `map_groups`, in this process."""
    groups = Groups(frame, by, options)
    return groups.joined([ApplyToRun(function, stacks=True)(run) for run in groups.runs(parts, chunksize)])


KEYS = {
    "text": lambda draw: pd.array(draw(st.sampled_from(["b", "a", None])), dtype="str"),
    "floats": lambda draw: np.array(draw(st.sampled_from([2.0, 1.0, np.nan])), dtype=float),
    "categories": lambda draw: pd.Categorical(
        draw(st.sampled_from(["b", "a", None])), categories=["unused", "b", "a", "never"]
    ),
    "ordered": lambda draw: pd.Categorical(draw(st.sampled_from(["b", "a"])), categories=["b", "x", "a"], ordered=True),
    "times": lambda draw: pd.to_datetime(draw(st.sampled_from(["2024-01-02", "2024-01-01", None]))),
    "sorted": lambda draw: np.sort(np.array(draw(st.integers(0, 3)), dtype=np.int64)),
}


@st.composite
def cases(draw):
    rows = draw(st.integers(0, 12))

    def listed(strategy):
        return draw(st.lists(strategy, min_size=rows, max_size=rows))

    names = draw(st.lists(st.sampled_from(list(KEYS)), min_size=1, max_size=2, unique=True))
    frame = pd.DataFrame({name: KEYS[name](listed) for name in names})
    frame["x"] = np.arange(rows, dtype=float)
    frame["s"] = pd.array([f"row {row}" for row in range(rows)], dtype="str")
    index = draw(st.sampled_from(["range", "duplicates", "text", "two levels"]))
    if index == "duplicates":
        frame.index = pd.Index(listed(st.integers(0, 2)), dtype=np.int64)
    elif index == "text":
        frame.index = pd.Index([f"i{row}" for row in range(rows)][::-1], name="label")
    elif index == "two levels":
        frame.index = pd.MultiIndex.from_arrays([range(rows), [0] * rows], names=["one", None])
    options = {
        name: draw(st.booleans())
        for name in draw(st.sets(st.sampled_from(["sort", "dropna", "group_keys", "as_index"])))
    }
    options["observed"] = draw(st.booleans())
    by = names[0] if len(names) == 1 and draw(st.booleans()) else names
    return frame, by, options


@given(
    case=cases(), function=st.sampled_from(FUNCTIONS), parts=st.integers(1, 5), chunksize=st.sampled_from([None, 1, 3])
)
@settings(max_examples=600, deadline=None)
def test_the_answer_is_that_of_groupby_apply(case, function, parts, chunksize):
    frame, by, options = case
    before = frame.copy()
    expected = outcome(lambda: frame.groupby(by, **options).apply(function, **WITHOUT_KEYS))
    got = outcome(lambda: here(function, frame, by, parts, chunksize, **options))
    if isinstance(expected, type):
        assert got is expected
    else:
        assert_same(got, expected)
    assert_frame_equal(frame, before)


@functools.cache
def prices_of(groups):
    rng = np.random.default_rng(1)
    tickers = [f"T{number}" for number in rng.permutation(np.repeat(np.arange(groups), 30))]
    rows = len(tickers)
    words = [f"row {row}" for row in range(rows)]
    return pd.DataFrame({"ticker": tickers, "x": rng.random(rows), "y": rng.random(rows), "s": words})


@pytest.fixture
def prices():
    return prices_of(200)


@pytest.fixture
def few_prices():
    """Of as many groups as are several runs, the last of them shorter, for each worker."""
    return prices_of(60)


#: What each of the functions gives; computed once for all pools and sizes of chunks.
@functools.cache
def expected_of(function):
    return prices_of(60).groupby("ticker").apply(function, **WITHOUT_KEYS)


#: All functions with each size of chunks.
IN_WORKERS = {f"{one.__name__}-{chunksize}": (one, chunksize) for chunksize in (None, 1, 7) for one in FUNCTIONS}


@across_methods(("ours", "case"), IN_WORKERS, few=8)
def test_groups_in_workers(our_pool, few_prices, case):
    function, chunksize = IN_WORKERS[case]
    assert_same(our_pool.map_groups(function, few_prices, by="ticker", chunksize=chunksize), expected_of(function))


def test_a_groupby_has_its_keys_and_options(our_pool, prices):
    for grouped in (
        prices.groupby("ticker", sort=False)["x"],
        prices.groupby("ticker")[["x"]],
        prices["x"].groupby(prices["ticker"]),
        prices.set_index("ticker").groupby(level=0),
    ):
        expected = grouped.apply(total_of_x, **({} if grouped.ndim == 1 else WITHOUT_KEYS))
        assert_same(our_pool.map_groups(total_of_x, grouped), expected)
    with pytest.raises(TypeError, match="has its keys"):
        our_pool.map_groups(size, prices.groupby("ticker"), by="ticker")


def total_of_x(group):
    return float((group if isinstance(group, pd.Series) else group["x"]).sum())


def test_a_lambda_over_a_series(our_pool):
    series = pd.Series([1.0, 2.0, 3.0], index=["b", "a", "b"])
    assert_same(our_pool.map_groups(lambda group: group.max(), series, level=0), series.groupby(level=0).max())


def test_groups_one_by_one(our_pool, prices):
    grouped = prices.groupby("ticker")
    pairs = our_pool.imap_groups(total_of_x, prices, by="ticker")
    assert list(pairs) == [(key, pytest.approx(value)) for key, value in grouped["x"].sum().items()]
    first = our_pool.imap_groups(size, prices, by=["ticker", "x"], chunksize=1)
    key, count = next(first)
    assert (key, count) == (next(iter(prices.groupby(["ticker", "x"])))[0], 1)
    first.close()
    assert list(our_pool.imap_groups(size, prices[:0], by="ticker")) == []


@pytest.mark.parametrize("by", ["ticker", ["ticker"], ["ticker", "x"]])
def test_keys_are_those_of_iteration(our_pool, prices, by):
    few = prices[:300]
    assert [key for key, _ in our_pool.imap_groups(size, few, by)] == [key for key, _ in few.groupby(by)]
    assert [key for key, _ in our_pool.imap_groups(size, few.groupby(by))] == [key for key, _ in few.groupby(by)]


@pytest.mark.parametrize("level", ["ticker", ["ticker"], ["ticker", "x"]])
def test_keys_of_levels_are_those_of_iteration(our_pool, prices, level):
    few = prices[:300].set_index(["ticker", "x"])
    expected = [key for key, _ in few.groupby(level=level)]
    assert [key for key, _ in our_pool.imap_groups(size, few, level=level)] == expected


def name_as_text(group):
    return str(group.name)


@pytest.mark.parametrize("chunksize", [None, 1])
def test_keys_have_the_types_that_pandas_gives_them(our_pool, chunksize):
    """Of several keys, integers are floats if one is missing: in all groups, also in those of a message without a missing one."""
    keys = pd.DataFrame({"a": [1, 1, 2, 2], "c": pd.Categorical([3, None, 2, 3])})
    options = {"dropna": False, "observed": False}
    expected = [str(key) for key, _ in keys.groupby(["a", "c"], **options)]
    pairs = list(our_pool.imap_groups(name_as_text, keys, ["a", "c"], chunksize, **options))
    assert [str(key) for key, _ in pairs] == expected
    assert [name for _, name in pairs] == expected


def number_of(group):
    return int(group.name)


def test_threads_that_share_an_iterator_get_whole_pairs(ours):
    """Not a key with the result of another group: a pair is taken in one step."""
    frame = pd.DataFrame({"k": np.arange(1000), "v": 1})
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ours.pool(2) as pool:
            pairs, shared = [], pool.imap_groups(number_of, frame, "k", 1)
            threads = [threading.Thread(target=lambda: pairs.extend(shared)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(pairs) == [(number, number) for number in range(1000)]


def fail_at_t7(group):
    if group.name == "T7":
        raise ValueError("no price")
    return len(group)


def test_an_error_names_the_group(our_pool, prices):
    for call in (
        lambda: our_pool.map_groups(fail_at_t7, prices, by="ticker"),
        lambda: list(our_pool.imap_groups(fail_at_t7, prices, by="ticker")),
    ):
        with pytest.raises(ValueError, match="no price") as raised:
            call()
        if sys.version_info >= (3, 11):
            assert raised.value.__notes__ == ["in the group 'T7' (30 rows)"]


def write(group):
    group["x"] = 0.0
    return float(group["x"].sum())


def test_a_function_may_write_to_its_group(our_pool, prices):
    before = prices.copy()
    assert (our_pool.map_groups(write, prices, by="ticker") == 0).all()
    assert_frame_equal(prices, before)


@pytest.mark.parametrize("function", [written, sorted_rows, labelled, some], ids=lambda function: function.__name__)
def test_frames_of_one_kind_travel_as_one(prices, function):
    groups = Groups(prices, "ticker", {})
    (run,) = groups.runs(1, None)
    stack = ApplyToRun(function, stacks=True)(run).values
    assert isinstance(stack, Stack)
    pieces = stack.pieces(groups._indexes(0, len(groups)))
    for piece, result in zip(pieces, ApplyToRun(function)(run).values, strict=True):
        assert_same(piece, result)


@pytest.mark.parametrize("function", [some_integers, other_columns, with_attrs, size, nothing, frame_or_row])
def test_results_of_several_kinds_travel_as_they_are(prices, function):
    prices = prices[:3001]
    (run,) = Groups(prices, "ticker", {}).runs(1, None)
    assert isinstance(ApplyToRun(function, stacks=True)(run).values, list)


def test_many_groups_in_a_message(ours, prices):
    with ours.pool(2) as pool:
        pool.map_groups(size, prices, by="ticker")
        assert pool.stats().tasks <= 8


@pytest.mark.parametrize(
    ("frame", "by", "message"),
    [
        (pd.DataFrame({"a": [1]}), None, "by= is missing"),
        (pl.DataFrame({"a": [1]}), "a", r"not of a DataFrame of polars.*split\(frame, by="),
        (pa.table({"a": [1]}), "a", r"not of a Table of pyarrow.*split\(frame, by="),
        ([1, 2], "a", "not of a list"),
        (None, None, "not of a NoneType"),
    ],
)
def test_what_has_no_groups(our_pool, frame, by, message):
    for method in (our_pool.map_groups, our_pool.imap_groups):
        with pytest.raises(TypeError, match=message):
            method(size, frame, by=by)
    with pytest.raises(KeyError):
        our_pool.map_groups(size, pd.DataFrame({"a": [1]}), by="b")


def doubled(part):
    return part * 2


def added(part):
    return pa.chunked_array([[value.as_py() + 1 for value in part]])


def test_a_frame_row_by_row(our_pool, prices):
    numbers = prices[["x", "y"]]
    for rows in (None, 17):
        assert_frame_equal(our_pool.map_frame(doubled, numbers, rows=rows), numbers * 2)
        assert_series_equal(our_pool.map_frame(doubled, prices["x"], rows=rows), prices["x"] * 2)
        array = numbers.to_numpy()
        assert np.array_equal(our_pool.map_frame(doubled, array, rows=rows), array * 2)
        frame = pl.from_pandas(numbers)
        # Not computed with: the threads of polars are not in a forked worker.
        assert our_pool.map_frame(as_it_is, frame, rows=rows).equals(frame)
    table = pa.table({"x": range(100)})
    assert our_pool.map_frame(as_it_is, table).equals(table)
    assert our_pool.map_frame(as_it_is, table.to_batches()[0]).equals(table)
    assert our_pool.map_frame(added, table["x"]).to_pylist() == list(range(1, 101))
    assert_frame_equal(our_pool.map_frame(doubled, numbers[:0]), numbers[:0])
    with pytest.raises(TypeError, match="of type int cannot be put"):
        our_pool.map_frame(size, numbers)
    with pytest.raises(TypeError, match="not list"):
        our_pool.map_frame(size, [1, 2])


def as_it_is(part):
    return part


@pytest.mark.parametrize(
    "labels", [[1, 2.5, None], [1, 2, 3], [True, False, True], ["a", 1, ()], [pd.Timestamp(0), pd.Timestamp(1), pd.NaT]]
)
def test_the_objects_of_an_index_stay(our_pool, labels):
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=pd.Index(labels, dtype=object, name="i"))
    assert_frame_equal(our_pool.map_frame(as_it_is, frame, rows=1), frame, check_exact=True)
    assert_series_equal(our_pool.map_frame(as_it_is, frame["x"], rows=2), frame["x"], check_exact=True)


def test_masks_stay(our_pool):
    masked = np.ma.array(np.arange(6), mask=[0, 1, 0, 0, 1, 0])
    answer = our_pool.map_frame(abs, masked)
    assert answer.tolist() == masked.tolist()


@pytest.mark.parametrize("method", ["map_groups", "imap_groups"])
def test_windows_and_resamplers_are_not_groups(our_pool, method):
    frame = pd.DataFrame({"k": [1, 1, 2], "x": [1.0, 2, 3]}, index=pd.date_range("2020", periods=3))
    for other in (frame.resample("D"), frame.groupby("k").rolling(2), frame.groupby("k").resample("D")):
        with pytest.raises(TypeError, match="not of a"):
            getattr(our_pool, method)(len, other)


def test_a_closed_pool():
    pool = arrowpool.Pool(1)
    pool.close()
    pool.join()
    for call in (pool.map_groups, pool.imap_groups, pool.map_frame):
        with pytest.raises(ValueError, match="not running"):
            call(size, None)


AWKWARD = {
    "all": lambda group: group,
    "columns twice": lambda group: pd.concat([group[["x"]], group[["x"]]], axis=1),
    "times as index": lambda group: group.set_index("time")[["x"]],
    "categories as index": lambda group: group.set_index("c")[["x"]],
    "intervals as index": lambda group: group.set_index("interval")[["x"]],
    "a frequency": lambda group: group.set_index("time")[["x"]].resample("7D").mean(),
    "empty": lambda group: group.iloc[:0],
    "some empty": lambda group: group.iloc[: len(group) % 2],
    "own categories": lambda group: pd.DataFrame({"c": group["c"].cat.remove_unused_categories()}),
    "columns of tuples": lambda group: pd.DataFrame({("a", 1): group["x"], ("b", 2): group["x"]}),
    "on its side": lambda group: group[["x"]].T,
    "counts": lambda group: group["c"].value_counts(),
    "a flag": lambda group: group[["x"]].set_flags(allows_duplicate_labels=False),
    "own name of the index": lambda group: group[["x"]].rename_axis(str(group.name)),
    "own name of the columns": lambda group: group[["x"]].rename_axis(columns=str(group.name)),
    "equal objects": lambda group: pd.DataFrame({"v": [1.0]}, pd.Index([1 if len(group) % 2 else True], dtype=object)),
    "integers as objects": lambda group: pd.DataFrame({"v": [1.0]}, pd.Index([len(group)], dtype=object)),
    "none first": lambda group: None if group.name < 4 else group[["x"]],
    "no columns": lambda group: group[[]],
    "two dtypes": lambda group: group[["x"]].astype("float32" if group.name < 5 else "float64"),
    "two time zones": lambda group: pd.DataFrame({"t": group["time"].dt.tz_convert("Asia/Tokyo" if group.name < 5 else "UTC")}),
}  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_results(name):
    rng, rows = np.random.default_rng(0), 60
    frame = pd.DataFrame(
        {
            "key": rng.integers(0, 9, rows),
            "x": rng.random(rows),
            "time": pd.date_range("2024", periods=rows, tz="UTC"),
            "c": pd.Categorical(rng.choice(list("abc"), rows)),
            "interval": pd.interval_range(0, rows),
            "sparse": pd.arrays.SparseArray(rng.integers(0, 2, rows)),
            "objects": [[row] for row in range(rows)],
        }
    )
    for one in (frame, frame.set_index("time", drop=False).rename_axis("when"), frame.sort_values("key")):
        for options in ({}, {"group_keys": False}, {"as_index": False}, {"sort": False}):
            expected = outcome(lambda o=options, f=one: f.groupby("key", **o).apply(AWKWARD[name], **WITHOUT_KEYS))
            got = outcome(lambda o=options, f=one: here(AWKWARD[name], f, "key", 3, **o))
            if isinstance(expected, type):
                assert got is expected
                continue
            assert_same(got, expected)
            assert got.flags == expected.flags
            for axis, other in zip(got.axes, expected.axes, strict=True):
                assert [type(label) for label in axis] == [type(label) for label in other]


@pytest.mark.parametrize("way", ["map_groups", "imap_groups", "map_frame"])
def test_what_cannot_be_pickled_is_named_in_the_users_terms(our_pool, way):
    lock = threading.Lock()
    frame = pd.DataFrame({"key": np.arange(40) // 4, "o": [None] * 22 + [lock] + [None] * 17}, dtype=object)
    frame = frame.astype({"key": "int64"})

    def called(function, data):
        if way == "map_frame":
            return our_pool.map_frame(function, data)
        return list(getattr(our_pool, way)(function, data, by="key"))

    def holds_a_lock(group):
        return lock

    with pytest.raises(TypeError) as raised:
        called(holds_a_lock, frame[["key"]])
    (note,) = raised.value.__notes__[-1:]
    assert re.match(r"the function [\w.<>]*holds_a_lock, captured variable 'lock': a _thread.lock", note)
    with pytest.raises(TypeError) as raised:
        called(len, frame)
    where, item = raised.value.__notes__[-2:]
    start = "argument 0" if way == "map_frame" else "the frame"
    assert re.match(rf"{start}, column 'o', row \d+: a _thread.lock, which cannot be pickled", where)
    assert item.startswith("part 4" if way == "map_frame" else "in the group")
    assert way == "map_frame" or re.search(r"in the groups? 5|in the groups [0-5] to [5-9]", item), (
        "not the first group of the message"
    )
