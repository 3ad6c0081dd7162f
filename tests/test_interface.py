"""The public face: names, errors and figures, the types that a type checker sees, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import os
import pkgutil
import subprocess
import sys
import textwrap
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

import arrowpool
from arrowpool import errors
from tests.conftest import exceptions_pickled_as_before

LIMIT = 100

TYPED = """
import multiprocessing.pool
from collections.abc import AsyncIterable, Awaitable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import assert_type

import arrowpool
from arrowpool import Pool, ProcessPoolExecutor, progress
from arrowpool.pool import ApplyResult, GroupIterator, IMapIterator, MapResult

def length(text: str) -> int:
    return len(text)

def add(left: int, right: float) -> float:
    return left + right

def total(frame: pd.DataFrame) -> float:
    return float(frame.to_numpy().sum())

texts = ["a", "bc"]
pairs = [(1, 2.0), (3, 4.0)]

def stock(pool: multiprocessing.pool.Pool) -> list[int]:
    return pool.map(length, texts)

with Pool(2, max_bytes=np.int64(1 << 30)) as pool:
    assert_type(pool, arrowpool.ArrowPool)
    assert_type(pool.map(length, texts), list[int])
    assert_type(pool.map(length, texts, 3), list[int])
    assert_type(pool.map(partial(add, 1), [2.0]), list[float])
    assert_type(pool.map(lambda text: text.upper(), texts), list[str])
    assert_type(pool.map(total, [pd.DataFrame()]), list[float])
    assert_type(pool.starmap(add, pairs), list[float])
    assert_type(pool.apply(length, ("a",)), int)
    assert_type(pool.apply_async(length, ("a",)), ApplyResult[int])
    assert_type(pool.apply_async(length, ("a",)).get(timeout=1), int)
    assert_type(pool.apply_async(length, ("a",), callback=lambda value: print(value + 1)), ApplyResult[int])
    assert_type(pool.map_async(length, texts), MapResult[int])
    assert_type(pool.map_async(length, texts).get(), list[int])
    assert_type(pool.starmap_async(add, pairs), MapResult[float])
    assert_type(pool.imap(length, texts), IMapIterator[int])
    assert_type(pool.imap_unordered(length, texts), IMapIterator[int])
    assert_type(pool.imap(length, texts).next(1.0), int)
    assert_type(next(pool.imap(length, texts)), int)
    assert_type([value for value in pool.imap(length, texts)], list[int])
    assert_type(pool.map(length, texts, on_error="raise"), list[int])
    assert_type(pool.map(length, texts, on_error="return"), list[int | BaseException])
    assert_type(pool.starmap(add, pairs, 2, on_error="return"), list[float | BaseException])
    assert_type(pool.map_async(length, texts, on_error="return"), MapResult[int | BaseException])
    assert_type(pool.starmap_async(add, pairs, on_error="return").get(), list[float | BaseException])
    assert_type(pool.imap(length, texts, on_error="return"), IMapIterator[int | BaseException])
    assert_type(next(pool.imap_unordered(length, texts, on_error="return")), int | BaseException)
    assert_type(pool.imap_groups(total, pd.DataFrame(), "a"), GroupIterator[float])
    assert_type(pool.imap_groups(total, pd.DataFrame(), "a", on_error="return"), GroupIterator[float | BaseException])
    assert_type(progress.map(pool, length, texts), list[int])
    assert_type(progress.starmap(pool, add, pairs), list[float])
    assert_type(list(progress.imap(pool, length, texts)), list[int])
    assert_type(list(progress.imap_unordered(pool, length, texts)), list[int])
    for key, value in progress.imap_groups(pool, total, pd.DataFrame({"a": [1]}), by="a"):
        assert_type(value, float)
    with pool.share(np.ones(3)) as shared:
        assert_type(shared.shape[0], int)
    with pool.trace("trace.json", max_events=np.int64(10)) as trace:
        assert_type(trace, arrowpool.Trace)
    assert_type(trace.seconds, float)
    assert_type(stock(pool), list[int])
    a: multiprocessing.pool.AsyncResult[int] = pool.apply_async(length, ("a",))
    b: multiprocessing.pool.MapResult[int] = pool.map_async(length, texts)
    c: multiprocessing.pool.IMapIterator[int] = pool.imap(length, texts)
    d: Awaitable[list[int]] = pool.map_async(length, texts)
    e: AsyncIterable[int] = pool.imap(length, texts)

    async def wait() -> None:
        assert_type(await pool.apply_async(length, ("a",)), int)
        assert_type(await pool.map_async(length, texts), list[int])
        async for value in pool.imap(length, texts):
            assert_type(value, int)

    assert_type(pool.stats().workers, tuple[arrowpool.WorkerStats, ...])
    assert_type(pool.stats().verdict, str)
    assert_type(pool.health(), arrowpool.Health)
    assert_type(pool.stats().since(pool.stats()), arrowpool.Stats)

class Mine(arrowpool.ArrowPool):
    pass

with Mine(2) as mine:
    assert_type(mine, Mine)

with ProcessPoolExecutor(2, max_bytes=np.int64(1 << 30)) as executor:
    f: Executor = executor
    assert_type(executor.submit(length, "a"), Future[int])
    assert_type(executor.submit(add, 1, right=2.0).result(), float)
    assert_type(executor.map(length, texts), Iterator[int])
    assert_type(executor.map(add, [1], [2.0], chunksize=2, buffersize=3), Iterator[float])
    assert_type(executor.stats(), arrowpool.Stats)
    with executor.trace() as trace:
        assert_type(trace.dropped, int)
    assert_type(executor.health().ok, bool)

assert_type(arrowpool.__version__, str)
error: Exception = arrowpool.ArrowPoolError()
"""

#: Each is an error of its own: the line, and mypy's code for it.
WRONG = {
    "pool.map(length, [1, 2])": "arg-type",
    'values: list[str] = pool.starmap(length, [("a",)])': "arg-type",
    'value: str = pool.apply_async(length, ("a",)).get()': "assignment",
    'number: str = next(pool.imap(length, ["a"]))': "assignment",
    'pool.apply_async(length, ("a",), callback=lambda value: value.upper())': "attr-defined",
    "executor.submit(length, 1)": "arg-type",
    'pool.map(length, ["a"], on_error="ignore")': "call-overload",
    'executor.submit(length, "a", "b")': "call-arg",
    "Pool(2, max_bytes=1.5)": "arg-type",
    "pool.map(length)": "call-overload",
}
WRONG_HEAD = """
import arrowpool
from arrowpool import Pool, ProcessPoolExecutor

def length(text: str) -> int:
    return len(text)

pool = Pool(2)
executor = ProcessPoolExecutor(2)
"""


@pytest.fixture(scope="module")
def said_by_mypy(tmp_path_factory, kept_directory):
    """What ``mypy --strict`` says of both programs, line by line. As for any installed package, it says nothing of the package itself."""
    pytest.importorskip("mypy")
    path = tmp_path_factory.mktemp("typed")
    (path / "right.py").write_text(TYPED)
    (path / "wrong.py").write_text(WRONG_HEAD + "\n".join(WRONG))
    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(kept_directory("mypy-typed"))]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"],
        cwd=path,
        env={**os.environ, "MYPYPATH": os.path.dirname(os.path.dirname(arrowpool.__file__))},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr  # there are errors, in one of them
    return ran.stdout.splitlines()


def test_a_typed_program(said_by_mypy):
    assert [line for line in said_by_mypy if line.startswith("right.py")] == []
    assert said_by_mypy[-1].endswith("(checked 2 source files)")


def test_a_program_with_wrong_types(said_by_mypy):
    first = len(WRONG_HEAD.splitlines()) + 1
    found = [line.split(" ", 1) for line in said_by_mypy if line.startswith("wrong.py") and ": error: " in line]
    codes = {int(where.split(":")[1]): text.rpartition("[")[2].rstrip("]") for where, text in found}
    assert codes == {first + index: code for index, code in enumerate(WRONG.values())}, said_by_mypy


with exceptions_pickled_as_before():  # one of the packages imports Dask
    MODULES = sorted(
        module.name
        for module in pkgutil.walk_packages(arrowpool.__path__, "arrowpool.")
        if not module.name.endswith("__main__")
    )


def _examples():
    for name in ["arrowpool", *MODULES]:
        if name == "arrowpool.integrations.joblib":
            continue  # leaves loky's resource tracker running: see below
        with exceptions_pickled_as_before():
            module = importlib.import_module(name)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            if test.examples:
                yield test


@pytest.mark.parametrize("example", [pytest.param(test, id=test.name) for test in _examples()])
def test_an_example(example, tmp_path, monkeypatch, own_shelf):
    monkeypatch.chdir(tmp_path)
    if example.name.startswith("arrowpool.progress"):
        tqdm = pytest.importorskip("tqdm.auto").tqdm
        monkeypatch.setattr(tqdm, "monitor_interval", 0)  # its thread would stay
    told = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append)
    assert not told, "".join(told)


def test_the_examples_of_joblib():
    pytest.importorskip("joblib")
    script = "import doctest, arrowpool.integrations.joblib as module; print(doctest.testmod(module))"
    ran = subprocess.run([sys.executable, "-c", script], timeout=LIMIT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "TestResults(failed=0, attempted=4)", ran.stdout


def test_all_public_names_of_a_pool_have_an_example():
    tested = {test.name for test in _examples()}
    methods = ["apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]
    for name in methods:
        assert f"arrowpool.call_methods.CallMethods.{name}" in tested
    for name in ["join", "share", "stats"]:
        assert f"arrowpool.pool.ArrowPool.{name}" in tested
    for name in ["submit", "map", "share", "stats"]:
        assert f"arrowpool.executor.executor.ProcessPoolExecutor.{name}" in tested


def test_tab_offers_all_public_names():
    script = """
    import sys, arrowpool
    assert set(arrowpool.__all__) <= set(dir(arrowpool))
    assert "arrowpool.shelf" not in sys.modules
    for name in dir(arrowpool):
        assert getattr(arrowpool, name) is not None, name
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=LIMIT, check=True)


def test_the_version_is_that_of_the_package():
    try:
        version = importlib.metadata.version("arrowpool")
    except importlib.metadata.PackageNotFoundError:
        version = "0+unknown"
    assert arrowpool.__version__ == version


def test_public_names_are_those_of_the_modules():
    from arrowpool import shelf, stats

    assert arrowpool.Info is shelf.Info
    assert arrowpool.WorkerStats is stats.WorkerStats
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        arrowpool.nothing  # noqa: B018


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"ArrowPoolError"}))
def test_errors_have_a_common_base(name):
    kinds = {
        "ArenaFullError": MemoryError,
        "ForkedPoolError": RuntimeError,
        "PoolTerminatedError": RuntimeError,
        "ShelfKeyError": KeyError,
        "TaskExitError": RuntimeError,
        "TaskTimeoutError": TimeoutError,
        "TransferError": RuntimeError,
        "UnsupportedError": NotImplementedError,
        "WorkerInitError": BrokenProcessPool,
        "WorkerLostError": BrokenProcessPool,
    }
    kind = getattr(arrowpool, name)
    assert issubclass(kind, arrowpool.ArrowPoolError)
    assert issubclass(kind, kinds[name])


def test_figures_of_an_executor():
    with arrowpool.ProcessPoolExecutor(2) as executor:
        assert executor.stats() == arrowpool.Stats()
        array = np.ones(100_000)
        assert list(executor.map(np.sum, [array] * 4)) == [100_000.0] * 4
        stats = executor.stats()
    assert (stats.tasks, stats.shared_bytes, stats.copies_saved) == (4, array.nbytes, 3)
    assert executor.stats().tasks == 4


class Kilobytes:
    def __index__(self):
        return 1 << 26


@pytest.mark.parametrize(
    "size", [np.int64(1 << 26), np.uint32(1 << 26), Kilobytes()], ids=lambda size: type(size).__name__
)
def test_max_bytes_is_any_integer(size):
    with arrowpool.Pool(1, max_bytes=size) as pool:
        assert pool.map(np.sum, [np.ones(100_000)]) == [100_000.0]
    with arrowpool.ProcessPoolExecutor(1, max_bytes=size) as executor:
        assert executor.submit(np.sum, np.ones(100_000)).result() == 100_000.0
