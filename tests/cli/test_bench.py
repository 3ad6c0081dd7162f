"""The measurement on the command line: on generated frames, on the user's files, and what it says of them."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import textwrap
import time
import warnings

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool.__main__ import main
from arrowpool.cli import bench, bench_advice, bench_jobs, bench_own, bench_runner
from tests import programs

SECONDS = r" +(\d+\.\d+)"
LINE = re.compile(
    rf"^(.+?) {{2,}}(\d+\.\d+){SECONDS}{SECONDS}{SECONDS} +([\d.]+)x +([\d.]+)x +(\d+)% +(\d+\.\d+|-)$", re.MULTILINE
)
JOBS_ON_A_FILE = ["summary of each column", "numbers standardised", "sorted by a column", "frame captured by 8 tasks"]


def run(tmp_path, **arguments):
    """Run the command in a program of its own, which spawned workers can import."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from arrowpool.cli import bench

        if __name__ == "__main__":
            sys.exit(bench.run(**{arguments!r}))
        """)
    )
    return programs.run([script], timeout=100)


def frame_of(rows):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "word": [f"word {i % 97}" for i in range(rows)],
            "number": rng.integers(0, 100, rows),
            "maybe": np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows)),
            "when": pd.date_range("2024-01-01", periods=rows, freq="s", tz="UTC"),
            "since": pd.to_timedelta(np.arange(rows), unit="s"),
            "flag": rng.random(rows) < 0.5,
        }
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])  # its jobs are inherited, or imported by the workers
def test_generated_frames(tmp_path, method):
    done = run(tmp_path, megabytes=4, seconds=0.0, processes=2, method=method)
    assert done.returncode == 0, done.stderr
    lines = LINE.findall(done.stdout)
    assert len(lines) == 5, done.stdout
    for title, serial, _threads, theirs, ours, over_serial, gain, transport, memcpy in lines:
        # Figures are printed with four decimals and two digits: as near to each other as that allows.
        for figure, other in ((over_serial, serial), (gain, theirs)):
            least, most = ((float(other) + sign * 6e-5) / (float(ours) - sign * 6e-5) for sign in (-1, 1))
            assert least * 0.9 - 0.01 <= float(figure) <= most * 1.1 + 0.01
        assert 0 <= int(transport) <= 100
        assert (memcpy == "-") == ("tiny" in title)
    assert "2 workers each" in done.stdout
    assert "Median seconds of 1 round after one to warm up" in done.stdout
    assert "All results were equal" in done.stdout
    assert re.search(r"^Of 5 jobs, arrowpool.Pool was ", done.stdout, re.MULTILINE)
    assert "Nothing was shared" not in done.stdout


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_users_own_file(tmp_path, kind):
    path = tmp_path / f"own.{kind}"
    frame = frame_of(30_000)
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    done = run(tmp_path, **{kind: str(path)}, seconds=0.0, processes=2, method="fork")
    assert done.returncode == 0, done.stderr
    assert f"{path}: 30,000 rows of 6 columns" in done.stdout
    assert [title for title, *_ in LINE.findall(done.stdout)] == JOBS_ON_A_FILE


def test_columns_of_no_number_and_of_no_order():
    frame = pd.DataFrame({"list": [[i] if i % 2 else {"a": i} for i in range(100)], "word": ["b", "a"] * 50})
    jobs = bench_jobs.jobs_on(frame)
    assert [job.title for job in jobs] == ["summary of each column", "sorted by a column", "frame captured by 8 tasks"]
    first = jobs[1].function(jobs[1].items[0])
    assert first["word"].is_monotonic_increasing
    summary = jobs[0].function(frame)
    assert summary["count"].to_dict() == {"list": 100, "word": 100}


def test_standardised_numbers():
    chunk = bench_jobs.standardised(frame_of(1000))
    assert chunk["number"].mean() == pytest.approx(0, abs=1e-12)
    assert chunk["maybe"].std() == pytest.approx(1)
    assert chunk["since"].equals(frame_of(1000)["since"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_a_file_too_large_for_memory_the_first_rows_are_taken(tmp_path, monkeypatch, kind):
    path = str(tmp_path / "large")
    frame = frame_of(60_000)
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, row_group_size=7_000)
    read = bench_jobs.read_csv if kind == "csv" else bench_jobs.read_parquet
    whole, complete = read(path)
    assert complete
    assert len(whole) == 60_000
    monkeypatch.setattr(bench_jobs, "_available", lambda: bench_jobs._SHARE * bench_jobs.frame_bytes(whole) // 2)
    part, complete = read(path)
    assert not complete
    assert 25_000 < len(part) < 35_000
    pd.testing.assert_frame_equal(part, whole.iloc[: len(part)])


def test_a_file_with_nothing_in_it(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="has no rows"):
        bench.run(csv=str(path), processes=1, method="fork")


class _Wrong:
    """A pool whose every result is off by one."""

    def map(self, function, items, chunksize):
        return [function(item) + 1 for item in items]


class _Right:
    def map(self, function, items, chunksize):
        return [function(item) for item in items]


@pytest.mark.parametrize(("seconds", "rounds"), [(60, bench_runner.MOST_ROUNDS), (-1, 1)])
def test_the_time_given_is_used_for_rounds(seconds, rounds):
    job = bench_runner.Job("sums", bench_jobs.sum_first, [frame_of(10)[["number"]]], nbytes=80)
    pools = [bench_runner.Contestant("one", _Right()), bench_runner.Contestant("other", bench_runner.Loop())]
    (measured,) = bench_runner.measure([job], pools, time.monotonic() + seconds)
    assert len(measured.seconds["one"]) == len(measured.seconds["other"]) == len(measured.memcpy) == rounds


def test_results_that_differ_are_an_error():
    pools = [bench_runner.Contestant("right", _Right()), bench_runner.Contestant("wrong", _Wrong())]
    job = bench_runner.Job("sums", bench_jobs.sum_first, [frame_of(10)[["number"]]])
    with pytest.raises(AssertionError, match="results of 'sums' differ between right and wrong"):
        bench_runner.measure([job], pools, deadline=0.0)
    doubled = bench_runner.Job("doubled", bench_jobs.double, [frame_of(10)[["number"]]])
    with pytest.raises(AssertionError, match="results of 'doubled' differ"):
        bench_runner.measure([doubled], pools, deadline=0.0)


def certain(gain):
    return bench_advice.Gain(gain, gain * 0.99, gain * 1.01)


def test_the_verdict_is_honest():
    assert (
        bench_advice.verdict([("a", certain(17.2)), ("b", certain(2.34))])
        == "Of 2 jobs, arrowpool.Pool was faster in 2 (2.3x to 17x), compared with multiprocessing.Pool."
    )
    mixed = bench_advice.verdict([("a", certain(3.0)), ("b", certain(1.02)), ("c", certain(0.5))])
    assert (
        mixed
        == "Of 3 jobs, arrowpool.Pool was faster in 1 (3.0x), about as fast in 1, slower in 1: 'c' (0.50x), compared with multiprocessing.Pool."
    )
    assert (
        bench_advice.verdict([("c", certain(0.5))])
        == "Of 1 jobs, arrowpool.Pool was slower in 1: 'c' (0.50x), compared with multiprocessing.Pool."
    )


@pytest.mark.parametrize(
    ("rounds", "decided"),
    [
        ([2.0, 1.9, 2.2, 2.1, 0.9], True),  # one slow moment
        ([2.0, 0.9, 2.2, 0.8, 1.5], False),
        ([0.5, 0.6, 0.4, 0.7], True),
        ([1.02, 0.98, 1.05, 0.97], True),  # equal
        ([1.3, 0.9], False),
        ([1.3, 1.2], True),
        ([1.35], False),
        ([0.75], False),
        ([1.6], True),
        ([0.6], True),
    ],
)
def test_rounds_decide_or_do_not(rounds, decided):
    gain = bench_advice.Gain.of(sorted(rounds)[len(rounds) // 2], rounds)
    assert gain.is_decided is decided
    assert gain.low <= gain.median <= gain.high


def test_a_job_whose_rounds_differ_is_not_called_faster():
    unclear = bench_advice.Gain(1.5, 0.7, 2.4)
    assert bench_advice.verdict([("a", certain(3.0)), ("b", unclear)]) == (
        "Of 2 jobs, arrowpool.Pool was faster in 1 (3.0x), faster or slower, by the rounds, in 1: 'b' (0.70x to 2.4x), compared with "
        "multiprocessing.Pool."
    )


@pytest.mark.parametrize(
    ("serial", "threads", "pool", "tasks", "chunksize", "slowed", "moving", "words"),
    [
        (4.0, 4.0, 2.0, 10_000, 1, 1.1, 0.1, ""),
        (4.0, 4.0, 4.2, 10_000, 1, 1.1, 0.1, ""),  # no difference that counts
        (4.0, 4.0, 6.0, 10_000, 1, 1.1, 0.1, "tasks run 0.4 ms: use chunksize 50, or no pool"),
        (4.0, 2.0, 3.0, 10_000, 1, 1.1, 0.1, "tasks run 0.4 ms, without the interpreter lock for most of it: use threads"),
        (0.004, 0.004, 0.1, 10, 1, 1.1, 0.1, "tasks run 0.4 ms, all 10 together 4 ms: use no pool"),
        (0.1, 0.1, 0.2, 20, 1, 1.1, 0.1, "tasks run 5 ms: use chunksize 4, or no pool"),
        (4.0, 4.0, 6.0, 40, 1, 1.1, 7.0,
         "tasks run 100 ms, and moving their data takes 175 ms: do more in each task, or use no pool"),
        (4.0, 4.0, 6.0, 10_000, None, 1.1, 6.0,
         "tasks run 0.4 ms, and moving their data takes 0.6 ms: do more in each task, or use no pool"),
        (4.0, 4.0, 6.0, 40, 1, 2.0, 1.0,
         "tasks run 100 ms, and 2.0 times as long in the workers: fewer cores are free than there are workers. Measure again on an "
         "idle machine, or use fewer workers"),
        # A little slower in the workers, which hardly moved or waited.
        (4.0, 4.0, 4.6, 40, 1, 1.49, 1.6,
         "tasks run 100 ms, and 1.5 times as long in the workers: fewer cores are free than there are workers. Measure again on an "
         "idle machine, or use fewer workers"),
        (4.0, 4.0, 6.0, 40, 1, 1.0, 1.0,
         "tasks run 100 ms, and the workers waited for 58% of the time: use more and smaller tasks, or no pool"),
        (4.0, 4.0, 6.0, 40, 1, 0.0, 0.0, "tasks run 100 ms, less than a pool costs: do more in each task, or use no pool"),
    ],
)  # fmt: skip
def test_advice(serial, threads, pool, tasks, chunksize, slowed, moving, words):
    assert words == bench_advice.advice(
        serial=serial,
        threads=threads,
        pool=pool,
        run=serial * slowed,
        moving=moving,
        tasks=tasks,
        chunksize=chunksize,
        workers=2,
    )


def test_transport_is_the_time_in_which_no_task_ran():
    assert bench_advice.transport_share(1.5, 1.0, 2) == 0.25
    assert bench_advice.transport_share(2.1, 1.0, 2) == 0


def test_what_moved_in_a_call():
    with arrowpool.Pool(1) as pool:
        chunks = [frame_of(20_000)[["number", "maybe"]]]
        contestants = [
            bench_runner.Contestant("loop", bench_runner.Loop()),
            bench_runner.Contestant("pool", pool, pool.stats),
        ]
        (measured,) = bench_runner.measure([bench_runner.Job("sums", bench_jobs.sum_first, chunks)], contestants, 0.0)
    pool.join()
    (moved,) = measured.moved
    assert moved.shared_bytes >= 20_000 * 16
    assert 0 < moved.piped_bytes < 20_000
    assert moved.run > 0
    assert moved.moved > 0
    assert moved.copies >= 1


# The user's own function

MINE = """
def features(group):
    return group.assign(mean=group["number"].rolling(3).mean())


def last(group):
    return group["number"].iloc[-1]


def row(group):
    return group[["number", "maybe"]].mean()


def summary(part):
    return part.describe()


def fails(group):
    raise KeyError("no such price")
"""


def run_own(tmp_path, kind, **arguments):
    path = tmp_path / f"own.{kind}"
    frame = frame_of(2_000).sample(frac=1, random_state=1)
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    (tmp_path / "mine.py").write_text(MINE)
    return run(tmp_path, **{kind: str(path)}, seconds=0.0, processes=2, **arguments)


@pytest.mark.parametrize(
    ("kind", "function", "by", "method", "calls"),
    [
        ("csv", "features", ["word"], "fork", 97),
        ("csv", "last", ["word", "flag"], "spawn", 194),
        ("parquet", "row", ["word"], "fork", 97),
        ("parquet", "summary", [], "fork", 8),
    ],
)
def test_the_users_own_function(tmp_path, kind, function, by, method, calls):
    done = run_own(tmp_path, kind, function=f"mine:{function}", by=by, method=method)
    assert done.returncode == 0, done.stderr
    counted = re.search(r"^mine:(\w+) on .*: (\d+) calls$", done.stdout, re.MULTILINE)
    assert counted.group(1) == function
    assert abs(int(counted.group(2)) - calls) <= 5
    rows = re.findall(rf"^(\w+) +(\d+\.\d+){SECONDS}{SECONDS} +([\d.]+)x$", done.stdout, re.MULTILINE)
    joblib = ["joblib"] if importlib.util.find_spec("joblib") else []
    assert [name for name, *_ in rows] == ["serial", "threads", "stdlib", "arrowpool", *joblib]
    assert all(float(least) <= float(median) <= float(most) for _, median, least, most, _ in rows)
    assert "Load average" in done.stdout
    shares = re.search(
        r"workers ran it for (\d+)% of the time, moved data for (\d+)%, and waited for (\d+)%", done.stdout
    )
    assert 99 <= sum(map(int, shares.groups())) <= 101
    assert re.search(
        r"^(Use |A pool does not pay: |The rounds do not decide ).*\.$", done.stdout.rstrip().splitlines()[-1]
    )


def test_a_function_that_fails_and_one_that_does_not_exist(tmp_path):
    done = run_own(tmp_path, "csv", function="mine:fails", by=["word"], method="fork")
    assert done.returncode == 1
    assert "no such price" in done.stderr
    assert "cannot measure: mine:fails raised KeyError" in done.stderr
    done = run_own(tmp_path, "csv", function="mine:last", by=["nonsense"], method="fork")
    assert "there is no column 'nonsense'; the columns are word, number" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("features", "takes MODULE:NAME"),
        ("nosuchmodule:f", "no module 'nosuchmodule'"),
        ("math:nonsense", "has no 'nonsense'"),
        ("math:pi", "not a function"),
    ],
)
def test_what_is_not_a_function(name, message):
    with pytest.raises(ValueError, match=message):
        bench_own.function_named(name)


def test_an_answer_that_differs():
    answer = pd.Series([1.0, 2.0], index=["a", "b"])
    bench_own.compare_joined(answer, answer[::-1])
    for other in (answer + 1, answer.to_frame(), answer[:1]):
        with pytest.raises(AssertionError):
            bench_own.compare_joined(answer, other)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({"serial": 4.0, "threads": 4.2, "stdlib": 3.0, "arrowpool": 2.0},
         "Use arrowpool (pool.map_groups): 2.0x as fast as a loop, 1.5x as fast as the standard library's pool."),
        ({"serial": 4.0, "threads": 4.2, "stdlib": 1.0, "arrowpool": 2.0},
         "Use stdlib: 2.0x as fast as arrowpool, 4.0x as fast as a loop."),
        ({"serial": 4.0, "threads": 2.0, "stdlib": 6.0, "arrowpool": 5.0},
         "A pool does not pay: tasks run 4 ms, without the interpreter lock for most of it: use threads."),
        ({"serial": [4.0, 4.0], "threads": [9.0, 9.0], "stdlib": [6.0, 6.0], "arrowpool": [3.9, 4.1]},
         "A pool does not pay: it is about as fast as a loop."),
        ({"serial": 4.0, "threads": 9.0, "stdlib": 6.0, "arrowpool": 3.0},
         "The rounds do not decide between arrowpool and a loop (0.95x to 1.9x as fast): measure again on an idle machine, or for "
         "longer (--seconds)."),
    ],
    ids=["wins", "stdlib wins", "loses", "as a loop", "one round"],
)  # fmt: skip
def test_the_last_sentence(seconds, words):
    job = bench_runner.Job("f", len, [], ways={"serial": len})
    measured = bench_runner.Measured(
        job, seconds={name: value if type(value) is list else [value] for name, value in seconds.items()}
    )
    assert bench_own.sentence(measured, 1_000, 2) == words


DATED = """
def days(group):
    return int((group["day"].max() - group["day"].min()).days)
"""


def test_dates_of_a_csv_file(tmp_path):
    path = tmp_path / "dated.csv"
    frame = pd.DataFrame({"word": ["a", "b"] * 50, "day": pd.date_range("2024-01-01", periods=100), "number": 1.0})
    frame.to_csv(path, index=False)
    (tmp_path / "mine.py").write_text(DATED)
    given = {
        "csv": str(path),
        "function": "mine:days",
        "by": ["word"],
        "seconds": 0.0,
        "processes": 1,
        "method": "fork",
    }
    done = run(tmp_path, **given)
    assert done.returncode == 1
    assert "column 'day' looks like dates and was read as text: --dates day reads dates" in done.stdout
    done = run(tmp_path, **given, dates=["day"])
    assert done.returncode == 0, done.stderr
    assert "looks like dates" not in done.stdout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="cannot read column 'word' as dates"):
            bench_jobs.read_csv(path, dates=["word"])
    with pytest.raises(ValueError, match="nonsense"):
        bench_jobs.read_csv(path, dates=["nonsense"])


def test_what_looks_like_dates():
    frame = pd.DataFrame(
        {
            "iso": ["2024-01-02", None, "2024-01-03T10:00"],
            "german": ["1.2.2024", "31.12.24", None],
            "american": ["1/2/2024"] * 3,
            "mixed": ["2024-01-02", "none", "x"],
            "versions": ["1.2", "1.10", "2.0"],
            "empty": pd.Series([None] * 3, dtype="str"),
            "number": [20240102, 1, 2],
        }
    )
    assert bench_jobs.columns_like_dates(frame) == ["iso", "german", "american"]


def test_the_function_and_the_columns_are_checked_before_the_file_is_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "large.csv"
    frame_of(20_000).to_csv(path, index=False)
    read, rows = pd.read_csv, []

    def counting(*args, nrows=None, **more):
        rows.append(nrows)
        return read(*args, nrows=nrows, **more)

    monkeypatch.setattr(pd, "read_csv", counting)
    assert bench.run(csv=str(path), function="nosuchmodule:f", processes=1) == 1
    assert (
        capsys.readouterr().err
        == "cannot measure: there is no module 'nosuchmodule' in this directory or in PYTHONPATH\n"
    )
    assert rows == []
    with pytest.raises(ValueError, match="there is no column 'nonsense'"):
        bench.run(csv=str(path), function="math:fsum", by=["nonsense"], processes=1, method="fork")
    assert rows == [bench_jobs._SAMPLE_ROWS]


def test_a_function_of_the_directory_is_found_by_the_installed_script(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def f(group):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", os.getcwd())])
    monkeypatch.setitem(sys.modules, "only_here", None)
    del sys.modules["only_here"]
    assert bench_own.function_named("only_here:f")(None) == 1
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [["--function", "a:b"], ["--by", "ticker", "--csv", "x.csv"], ["--dates", "day", "--parquet", "x.parquet"]],
    ids=" ".join,
)
def test_options_that_need_others(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert "needs" in capsys.readouterr().err
