"""What newcomers write first, and what the pool answers: frames as items, lengths that are wrong, chunk sizes, no guard."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import arrowpool
from tests import programs
from tests.pool import tasks

LIMIT = 60
FRAMES = {
    "more rows than columns": pd.DataFrame({"a": range(10), "b": range(10)}),
    "more columns than rows": pd.DataFrame([[1, 2, 3, 4]]),
    "empty": pd.DataFrame(),
    "polars": pl.DataFrame({"a": range(10)}),
    "a table": pa.table({"a": range(10)}),
    "a batch": pa.record_batch({"a": range(10)}),
    "a subclass": type("Mine", (pd.DataFrame,), {})({"a": range(10)}),
}
METHODS = ("map", "starmap", "map_async", "starmap_async", "imap", "imap_unordered")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_as_items_is_an_error_with_the_remedy(our_pool, method, kind):
    remedy = r"not its rows.*pool\.i?map(_unordered)?\(f, arrowpool\.split\(frame, 8\)\)"
    with pytest.raises(TypeError, match=remedy) as caught:
        getattr(our_pool, method)(tasks.identity, FRAMES[kind])
    assert ("pool.map_groups(" in str(caught.value)) == isinstance(FRAMES[kind], pd.DataFrame)


def test_groups_and_labels_are_items(pool):
    frame = pd.DataFrame({"ticker": ["B", "A", "B"], "close": [1.0, 2.0, 3.0]})
    for groups in (frame.groupby("ticker"), frame.groupby("ticker")["close"], frame.groupby(["ticker", "close"])):
        for method in (pool.map, pool.imap):
            for (key, got), (expected_key, expected) in zip(method(tasks.identity, groups), groups, strict=True):
                assert key == expected_key
                assert got.equals(expected)
        assert pool.starmap(rows_of, groups) == [(key, len(group)) for key, group in groups]
        assert sorted(key for key, _ in pool.imap_unordered(tasks.identity, groups)) == [key for key, _ in groups]
    for labels in (frame.columns, frame.columns[:0], pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), frame["close"]):
        assert pool.map(tasks.identity, labels) == list(labels)
        assert list(pool.imap(tasks.identity, labels)) == list(labels)


def rows_of(key, group):
    return key, len(group)


def test_an_error_of_a_map_over_groups_says_what_the_items_are(our_pool):
    groups = pd.DataFrame({"ticker": ["B", "A"], "close": [1.0, 2.0]}).groupby("ticker")
    with pytest.raises(Exception, match=r".") as raised:
        our_pool.map(tasks.fail, groups)
    assert "pool.starmap(f, groups) calls f(key, frame)" in raised.value.__notes__[-1]


class Sized:
    """Says one length and has another number of items."""

    def __init__(self, length, items):
        self.length, self.items = length, items

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(range(self.items) if isinstance(self.items, int) else self.items)


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
@pytest.mark.parametrize("method", ["map_async", "starmap_async"])
@pytest.mark.parametrize(("length", "items"), [(0, 1), (1, 0), (1, 2), (10, 9), (9, 10), (100, 5), (5, 100)])
def test_a_wrong_length_is_an_error(our_pool, method, length, items, chunksize):
    items = items if method == "map_async" else [(one,) for one in range(items)]
    with pytest.raises(ValueError, match=r"the iterable has (fewer|more) items than its"):
        getattr(our_pool, method)(abs, Sized(length, items), chunksize).get(LIMIT)


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_a_right_length_is_none(pool, count, chunksize):
    assert pool.map(abs, Sized(count, count), chunksize) == list(range(count))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunksize", [0, -1, np.int64(0), 2.5, 2.0, "2"])
def test_chunk_sizes_that_are_none(our_pool, method, chunksize):
    with pytest.raises((TypeError, ValueError), match=r"Chunksize must be 1\+, not|chunksize must be an int, not"):
        getattr(our_pool, method)(tasks.identity, [1, 2, 3], chunksize)


@pytest.mark.parametrize("chunksize", [1, True, np.int64(2), 2**70])
def test_chunk_sizes_of_any_integer_type(our_pool, chunksize):
    assert our_pool.map(abs, [-1, -2, -3], chunksize) == [1, 2, 3]


def test_a_chunk_size_computed_for_an_empty_list(pool):
    assert pool.map(abs, [], 0) == []


def test_sharing_without_a_block_warns(our_pool):
    frame = np.ones(10)
    with pytest.warns(RuntimeWarning, match=r"write `with pool\.share\(x\)"):
        our_pool.share(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with our_pool.share(frame):
            pass
        block = our_pool.share(frame)
        with block:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            block.__enter__()
        with pytest.raises(TypeError, match="cannot be shared"):
            our_pool.share([frame])
        gc.collect()


def test_an_unknown_argument_is_one_error(capfd):
    with pytest.raises(TypeError, match="n_jobs"):
        arrowpool.Pool(n_jobs=2)
    gc.collect()
    assert capfd.readouterr().err == ""


UNGUARDED = """
import multiprocessing
from arrowpool import Pool
pool = Pool(2, context=multiprocessing.get_context({method!r}))
print(pool.map(abs, [-1, -2, -3]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard(tmp_path, method):
    script = Path(tmp_path) / "script.py"
    script.write_text(UNGUARDED.format(method=method))
    ran = programs.run([script], timeout=LIMIT)
    assert ran.returncode == 1
    assert ran.stderr.count("Traceback") == 1
    assert ran.stderr.count('below the main guard: if __name__ == "__main__":') == 1
    assert len([line for line in ran.stderr.splitlines() if line.strip(" ~^")]) < 25


def test_a_script_without_a_guard_that_another_library_starts(tmp_path):
    script = Path(tmp_path) / "script.py"
    script.write_text(
        "import multiprocessing\nfrom arrowpool import Pool\n"
        "if multiprocessing.current_process().name != 'MainProcess':\n    Pool(2, context=multiprocessing.get_context('spawn'))\n"
        "else:\n    child = multiprocessing.get_context('spawn').Process(target=abs, args=(1,))\n"
        "    child.start(); child.join(); raise SystemExit(child.exitcode)\n"
    )
    ran = programs.run([script], timeout=LIMIT)
    assert ran.returncode == 113
    assert ran.stderr.count("main guard") == 1
