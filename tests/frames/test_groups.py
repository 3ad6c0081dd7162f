"""`map_groups`, `imap_groups` and `map_frame`, with `groupby.apply` as the oracle."""

from __future__ import annotations

import sys
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
from arrowpool.frames.work import ApplyToRun

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
#: pandas 2 gives the key columns to the function, too, unless it is asked not to.
WITHOUT_KEYS = {} if pd.__version__ >= "3" else {"include_groups": False}


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


FUNCTIONS = (size, named, total, scaled, column, head, some, nothing, several, written)


def assert_same(got, expected):
    assert type(got) is type(expected)
    (assert_frame_equal if isinstance(expected, pd.DataFrame) else assert_series_equal)(got, expected)


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
    return groups.joined([ApplyToRun(function)(run) for run in groups.runs(parts, chunksize)])


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
@settings(max_examples=400, deadline=None)
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


@pytest.fixture(scope="module")
def prices():
    rng = np.random.default_rng(1)
    tickers = [f"T{number}" for number in rng.permutation(np.repeat(np.arange(200), 30))]
    return pd.DataFrame({"ticker": tickers, "x": rng.random(6000), "y": rng.random(6000)})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_groups_in_workers(our_pool, prices, function, chunksize):
    expected = prices.groupby("ticker").apply(function, **WITHOUT_KEYS)
    assert_same(our_pool.map_groups(function, prices, by="ticker", chunksize=chunksize), expected)


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


def test_many_groups_in_a_message(ours, prices):
    with ours.pool(2) as pool:
        pool.map_groups(size, prices, by="ticker")
        assert pool.stats().tasks <= 8


@pytest.mark.parametrize(
    ("frame", "by", "message"),
    [
        (pd.DataFrame({"a": [1]}), None, "by= is missing"),
        (pl.DataFrame({"a": [1]}), "a", r"split\(frame, by="),
        (pa.table({"a": [1]}), "a", r"split\(frame, by="),
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
