"""Systems without shared memory: programs in which the modules of POSIX are hidden before arrowpool is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from arrowpool import portable
from arrowpool.portable.pool import ArrowPool
from tests import programs

LIMIT = 100
ROOT = Path(__file__).parent.parent.parent
HEAD = """
from tests.portable import hidden
import multiprocessing
import os
import sys
import time

import numpy as np
import pandas as pd

import arrowpool
from arrowpool import Pool, ProcessPoolExecutor, portable

def square(number):
    return number * number

def begin(value):
    global started_with
    started_with = value

def get_started(_=None):
    return started_with

def fail(number):
    raise ValueError(f"no {number}")

def leave(_=None):
    sys.exit(3)

def die(_=None):
    os._exit(7)

def name_of(frame):
    return type(frame).__name__, frame.attrs

class OnlyThere(Exception):
    def __init__(self, one, two):
        super().__init__(one)

def raise_only_there(_=None):
    raise OnlyThere(1, 2)

def make_lambda(_=None):
    return lambda: 1

class Uncalled:
    def __reduce__(self):
        return int, ("no number",)

def same(obj):
    return obj

def spin(_=None):
    while True:
        time.sleep(60)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    assert portable.missing() == "the module fcntl", portable.missing()
"""


def program(tmp_path, body, platform=""):
    """Run a program in which the modules are hidden; return what it prints, and what goes to its error output."""
    path = tmp_path / "program.py"
    path.write_text(HEAD + textwrap.indent(textwrap.dedent(body), "    "))
    ran = programs.run(
        [path],
        timeout=LIMIT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HIDDEN_PLATFORM": platform,
            "ARROWPOOL_SHELF_DIR": str(tmp_path / "shelf"),
        },
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, ran.stderr


def test_a_program_gets_the_standard_librarys_results(tmp_path):
    said, errors = program(
        tmp_path,
        """
        numbers = range(7)
        frame = pd.DataFrame({"key": [2, 1, 2], "value": [1.0, 2.0, 3.0]}).rename_axis("row")
        frame.attrs["source"] = "test"
        results = []
        for make in (Pool, multiprocessing.Pool):
            with make(2, begin, (5,)) as pool:
                results.append([
                    pool.map(square, numbers), pool.map(square, numbers, 3), pool.map(square, []),
                    pool.starmap(pow, [(2, 3), (3, 2)]), pool.apply(pow, (2,), {"exp": 5}),
                    list(pool.imap(square, numbers)), list(pool.imap(square, numbers, 2)),
                    sorted(pool.imap_unordered(square, numbers)), pool.map(get_started, numbers),
                    pool.map(name_of, [frame]), pool.apply_async(square, (3,)).get(60),
                    pool.map_async(square, numbers).get(60), pool.starmap_async(pow, [(2, 3)]).get(60),
                    pool.map(np.sum, [np.ones(100_000)] * 2),
                ])
                pool.close()
            pool.join()
        assert results[0] == results[1], results
        with Pool(2) as pool:
            back = pool.map(same, [frame])[0]
            pd.testing.assert_frame_equal(back, frame)
            assert back.attrs == frame.attrs and back.index.name == "row"
            print(type(pool).__module__, isinstance(pool, arrowpool.ArrowPool), isinstance(pool, multiprocessing.pool.Pool))
        with arrowpool.get_context("spawn").Pool(1) as pool:
            print(pool.map(square, [3]))
        """,
    )
    assert said == "arrowpool.portable.pool True True\n[9]\n"
    assert errors.count("everything is pickled") == 1  # in the whole program
    assert "Python has no module fcntl" in errors


def test_functions_that_pickle_cannot_send(tmp_path):
    said, _ = program(
        tmp_path,
        """
        factor = 3
        class Point:
            def __init__(self, x):
                self.x = x
        # As in a notebook: workers cannot import the main module.
        Point.__module__ = "__main__"
        with Pool(2) as pool:
            print(pool.map(lambda number: number * factor, [1, 2]))
            print(pool.apply(same, ([lambda: 1][0],), {}) () if False else pool.apply(lambda call: call(), (lambda: 7,)))
            print([point.x for point in pool.map(lambda x: Point(x), [4, 5])])
            print(type(pool.map(lambda x: Point(x), [4])[0]) is Point)
        with Pool(1, lambda value: begin(value), (6,)) as pool:
            print(pool.apply(abs, (-1,)))
        with ProcessPoolExecutor(1) as executor:
            print(executor.submit(lambda number: number + factor, 1).result(60), list(executor.map(lambda x: Point(x).x, [8])))
        """,
    )
    assert said.split("\n") == ["[3, 6]", "7", "[4, 5]", "True", "1", "4 [8]", ""]


def test_a_main_module_that_cannot_be_imported(tmp_path):
    body = HEAD.replace(
        "    multiprocessing.set_start_method", "    del __file__\n    multiprocessing.set_start_method"
    )
    (tmp_path / "notebook.py").write_text(
        body
        + textwrap.indent(
            textwrap.dedent("""
        with arrowpool.get_context("fork" if "fork" in sys.argv else "spawn").Pool(2) as pool:
            print(pool.map(square, [2, 3]), pool.map(get_started, []))
        """),
            "    ",
        )
    )
    # The workers see all modules, since no main module hides them: they only run the standard library's loop.
    ran = programs.run([tmp_path / "notebook.py"], timeout=LIMIT, env={**os.environ, "HIDDEN_PLATFORM": ""})
    assert (ran.returncode, ran.stdout) == (0, "[4, 9] []\n"), ran.stderr


def test_what_goes_wrong_is_an_error_of_its_call(tmp_path):
    said, _ = program(
        tmp_path,
        """
        import threading
        from multiprocessing.pool import MaybeEncodingError
        def error_of(call):
            try:
                call()
            except BaseException as error:
                return type(error).__name__
        class Raising:
            def __len__(self):
                return 3
            def __iter__(self):
                yield 1
                raise OSError("no more")
        def numbers():
            yield 1
            raise KeyError("no more")
        with Pool(2) as pool:
            print(error_of(lambda: pool.map(fail, [1])))
            print(error_of(lambda: pool.map(leave, [1])))
            print(error_of(lambda: pool.apply(same, (threading.Lock(),))))
            print(error_of(lambda: pool.apply(make_lambda)))
            print(error_of(lambda: pool.apply(same, (Uncalled(),))))
            print(error_of(lambda: pool.map(raise_only_there, [1])))
            print(error_of(lambda: pool.map(same, Raising())), error_of(lambda: list(pool.imap(same, numbers()))))
            print(error_of(lambda: pool.map(same, pd.DataFrame())), error_of(lambda: pool.map(same, [1], 0)))
            print(pool.map(square, [4]))
            for number in pool.imap(square, iter(range(10**9))):
                break
            waiting = pool.apply_async(spin)
        print(error_of(waiting.get), error_of(lambda: pool.map(square, [1])))
        pool.join()
        """,
    )
    assert said.split("\n") == [
        "ValueError",
        "TaskExitError",
        "TypeError",
        "MaybeEncodingError",
        "ValueError",
        "TransferError",
        "OSError KeyError",
        "TypeError ValueError",
        "[16]",
        "PoolTerminatedError ValueError",
        "",
    ]


def test_a_lost_worker_ends_the_pool_and_no_call_waits(tmp_path):
    said, _ = program(
        tmp_path,
        """
        pool = Pool(2)
        results = [pool.map_async(spin, [1]), pool.map_async(die, [1])]
        for result in results:
            try:
                result.get(60)
            except arrowpool.WorkerLostError as error:
                print(error.exitcode)
        try:
            pool.map(square, [1])
        except arrowpool.WorkerLostError:
            print("no more calls")
        pool.terminate()
        pool.join()
        # Idle: it may hold the lock of the queue.
        pool = Pool(2)
        assert pool.map(square, [1, 2]) == [1, 4]
        pool._pool[0].terminate()
        try:
            while True:
                pool.apply_async(square, (1,)).get(60)
        except arrowpool.WorkerLostError as error:
            print(error.exitcode)
        pool.close()
        pool.join()
        for initializer in (fail, leave):
            with Pool(1, initializer, (1,) if initializer is fail else ()) as pool:
                try:
                    pool.map(square, [1])
                except arrowpool.WorkerInitError as error:
                    print("initializer" in str(error))
        """,
    )
    assert said.split("\n") == ["7", "7", "no more calls", "-15", "True", "True", ""]


def test_a_script_without_a_main_guard(tmp_path):
    (tmp_path / "unguarded.py").write_text(
        HEAD.replace('if __name__ == "__main__":', "if True:").replace(
            'set_start_method("spawn")', 'set_start_method("spawn", force=True)'
        )
        + "    print(Pool(2).map(square, [1]))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HIDDEN_PLATFORM": ""}
    ran = programs.run([tmp_path / "unguarded.py"], timeout=LIMIT, env=env)
    assert ran.returncode == 1
    assert (
        ran.stderr.rstrip()
        .splitlines()[-1]
        .startswith("arrowpool.errors.WorkerInitError: the script makes a pool at its top level")
    )


def test_frames_sharing_progress_and_asyncio(tmp_path):
    said, _ = program(
        tmp_path,
        """
        import asyncio
        frame = pd.DataFrame({"key": [2, 1, 2], "value": [1.0, 2.0, 4.0]})
        with Pool(2) as pool:
            found = pool.map_groups(lambda group: group["value"].sum(), frame, by="key")
            assert found.equals(frame.groupby("key")[["value"]].apply(lambda group: group["value"].sum()))
            print(dict(pool.imap_groups(len, frame, by="key")))
            assert pool.map_frame(np.log2, frame).equals(np.log2(frame))
            print([len(part) for part in arrowpool.split(frame, 2)])
            with pool.share(frame) as shared:
                assert shared is frame
                print(pool.map(len, [shared]))
            try:
                pool.share([1])
            except TypeError:
                print("a list cannot be shared")
            async def wait():
                values = [value async for value in pool.imap(square, [1, 2])]
                return await pool.apply_async(square, (3,)), values
            print(asyncio.run(wait()))
            try:
                from arrowpool import progress
                print(progress.map(pool, square, [5], disable=True), list(progress.imap(pool, square, [6], disable=True)))
            except ModuleNotFoundError:
                print([25], [36])
            stats = pool.stats()
            print(stats.tasks > 0, stats.shared_bytes, stats.pickled[0].why)
            assert pool.health().ok and pool.health().size == 2, pool.health()
        assert not pool.health().ok
        """,
    )
    assert said.split("\n")[:8] == [
        "{1: 1, 2: 2}",
        "[2, 1]",
        "[3]",
        "a list cannot be shared",
        "(9, [1, 4])",
        "[25] [36]",
        "True 0 no shared memory on this system: Python has no module fcntl here",
        "",
    ]


def test_arguments_that_cannot_be_honoured(tmp_path):
    said, _ = program(
        tmp_path,
        """
        for make in (Pool, ProcessPoolExecutor):
            for name, value, wrong in [
                ("max_bytes", 1 << 30, -1), ("spill_dir", ".", None), ("retries", 1, -1), ("task_timeout", 1.0, -1)
            ]:
                try:
                    make(2, **{name: value})
                except arrowpool.UnsupportedError as error:
                    assert isinstance(error, NotImplementedError)
                    print(str(error).split(" (")[0])
                if wrong is not None:
                    try:
                        make(2, **{name: wrong})
                    except ValueError:
                        continue
                    raise AssertionError(name)
        Pool(1, max_bytes=None, spill_dir=None, retries=0, task_timeout=None).terminate()
        """,
    )
    assert said == 2 * "".join(
        f"{name}= does not work here\n" for name in ("max_bytes", "spill_dir", "retries", "task_timeout")
    )


def test_the_executor(tmp_path):
    said, _ = program(
        tmp_path,
        """
        from concurrent.futures import BrokenExecutor
        with ProcessPoolExecutor(2, initializer=begin, initargs=(4,)) as executor:
            print(executor.submit(square, 3).result(60), list(executor.map(pow, [2, 3], [3, 2], chunksize=2)))
            print(list(executor.map(square, range(5), buffersize=2)), executor.submit(get_started).result(60))
            print(executor.stats().tasks, executor.stats().pickled[0].count)
            assert executor.health().ok
            with executor.share(np.ones(3)) as shared:
                print(executor.submit(np.sum, shared).result(60))
            print(type(executor.submit(fail, 1).exception(60)).__name__)
            try:
                executor.submit(die).result(60)
            except BrokenExecutor:
                print("broken")
        """,
    )
    assert said.split("\n") == ["9 [8, 9]", "[0, 1, 4, 9, 16] 4", "8 8", "3.0", "ValueError", "broken", ""]


def test_the_shelf(tmp_path):
    said, _ = program(
        tmp_path,
        """
        import subprocess
        frame = pd.DataFrame({"close": [1.5, 2.5]}, index=["A", "B"])
        key, name = arrowpool.put(frame), arrowpool.put(frame, persist=True, key="day")
        reader = "import arrowpool, sys; from arrowpool.portable import shelf; print(shelf.get(sys.argv[1])['close'].sum())"
        for one in (key, name):
            print(subprocess.run([sys.executable, "-c", reader, one], capture_output=True, text=True, check=True).stdout.strip())
        print(name, arrowpool.exists(key), arrowpool.get_numpy(key, "close"), arrowpool.get_arrow(key)["close"].to_pylist())
        about = arrowpool.info(key)
        print(about.kind, about.arrow, about.persistent, about.owner == os.getpid(), about.path)
        with arrowpool.Shelf() as shelf:
            private = shelf.put([1, 2])
            print(shelf.get(private), arrowpool.memory_usage(private) > 0)
        print(arrowpool.exists(private), arrowpool.exists("nothing"))
        features = arrowpool.Shelf("features")
        print(features.put(np.ones(2), "rsi"), features.get("rsi"), features.list_keys())
        print(sorted(one for one in arrowpool.list_keys() if one != key))
        # Names that Windows takes for others.
        for strange in ("RSI", "con", "aux.txt", "dots.."):
            features.put(strange, strange)
        print([features.get(one) for one in features.list_keys()])
        for strange in ("RSI", "con", "aux.txt", "dots.."):
            features.delete(strange)
        arrowpool.delete(name)
        for wrong in (name, "../day", "a/b/c"):
            try:
                arrowpool.get(wrong)
            except arrowpool.ShelfKeyError:
                print("no key")
        """,
    )
    assert said.split("\n") == [
        "4.0",
        "4.0",
        "day True [1.5 2.5] [1.5, 2.5]",
        "DataFrame True False True None",
        "[1, 2] True",
        "False False",
        "features/rsi [1. 1.] ['features/rsi']",
        "['day', 'features/rsi']",
        "['RSI', 'aux.txt', 'con', 'dots..', array([1., 1.])]",
        *["no key"] * 3,
        "",
    ]
    # What did not persist ended with the program.
    assert sorted(str(path.relative_to(tmp_path / "shelf")) for path in (tmp_path / "shelf").glob("*/*")) == [
        "k-features-/k-rsi-"
    ]


@pytest.mark.parametrize("platform", ["", "win32"])
def test_the_commands(tmp_path, platform):
    said, _ = program(
        tmp_path,
        """
        from arrowpool.__main__ import main
        print(main(["doctor"]), main(["top"]), main(["ls"]), main(["clean"]))
        """,
        platform,
    )
    assert "shared memory: none. no shared memory on this system: Python has no module fcntl here" in said
    assert "not known here" in said
    assert "top reads the shared memory of pools, and there is none" in said
    assert said.splitlines()[-1] == "1 1 0 0"


def test_bench_and_unmodified_programs(tmp_path):
    said, _ = program(
        tmp_path,
        """
        from arrowpool.__main__ import main
        print(main(["bench", "--megabytes", "1", "--seconds", "1", "--processes", "2"]))
        arrowpool.install()
        with multiprocessing.Pool(1) as pool:
            print(isinstance(pool, arrowpool.ArrowPool), pool.map(square, [3]))
        arrowpool.uninstall()
        """,
    )
    assert "Of 5 jobs, arrowpool.Pool was" in said
    assert said.endswith("0\nTrue [9]\n")


def test_on_windows_all_that_starts_no_process_works(tmp_path):
    """What the standard library's own pool does with another `sys.platform` cannot be had here."""
    said, _ = program(
        tmp_path,
        """
        print(arrowpool.__version__ is not None, arrowpool.split(np.arange(4), 2)[1].tolist(), arrowpool.get_context("spawn"))
        print({name: getattr(arrowpool, name) is not None for name in arrowpool.__all__} == dict.fromkeys(arrowpool.__all__, True))
        try:
            Pool(1, task_timeout=1)
        except arrowpool.UnsupportedError as error:
            print(error)
        print(arrowpool.get(arrowpool.put({"a": 1})))
        """,
        "win32",
    )
    assert said.startswith("True [2, 3] <arrowpool context over ")
    assert "True\ntask_timeout= does not work here (no shared memory" in said
    assert said.endswith("{'a': 1}\n")


def test_joblib_uses_its_own_processes(tmp_path):
    pytest.importorskip("joblib")
    said, _ = program(
        tmp_path,
        """
        import builtins
        ctypes = sys.modules["ctypes"]
        import joblib
        from arrowpool.integrations.joblib import LokyBackend, register
        register()
        print(joblib.parallel.BACKENDS["arrowpool"] is LokyBackend)
        """,
    )
    assert said == "True\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the types are those of the newer versions")
def test_no_module_uses_what_windows_does_not_have(tmp_path, kept_directory):
    """By the stubs of the standard library, which say what exists on each system."""
    pytest.importorskip("mypy")
    said, _ = program(
        tmp_path,
        """
        import arrowpool.__main__, arrowpool.progress, arrowpool.portable.commands, arrowpool.cli.shelf, arrowpool.cli.bench
        import arrowpool.integrations
        print(*sorted(name for name, module in sys.modules.items() if name.startswith("arrowpool") and module.__name__ == name))
        """,
    )
    names = said.split()
    assert "arrowpool.portable.relay" in names
    assert [name for name in names if name.startswith("arrowpool.memory.")] == ["arrowpool.memory.facilities"]
    options = ["--platform", "win32", "--follow-imports=silent", "--cache-dir", str(kept_directory("mypy-windows"))]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *[part for name in names for part in ("-m", name)]],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_nothing_is_missing_here():
    assert portable.missing() is None


def fail_at_3(number):
    if number == 3:
        raise ValueError("no price")
    return number


def fail_of_pair(number, other):
    return fail_at_3(number) + other


def goes_wrong():
    yield from range(2)
    raise KeyError("of the iterable")


@pytest.mark.parametrize("chunksize", [1, 4])
def test_errors_in_the_places_of_results(chunksize):
    with ArrowPool(2) as pool:
        for outcomes in (
            pool.map(fail_at_3, range(6), chunksize, on_error="return"),
            pool.starmap(fail_of_pair, [(number, 0) for number in range(6)], chunksize, on_error="return"),
            list(pool.imap(fail_at_3, range(6), chunksize, on_error="return")),
        ):
            error = outcomes[3]
            assert [outcome for outcome in outcomes if outcome is not error] == [0, 1, 2, 4, 5]
            assert (type(error), error.args) == (ValueError, ("no price",))
            assert "in fail_at_3" in str(error.__cause__)
        with pytest.raises(KeyError):
            list(pool.imap(abs, goes_wrong(), chunksize, on_error="return"))
