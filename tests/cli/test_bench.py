"""The measurement on the command line: on generated frames, on the user's files, and what it says of them."""

from __future__ import annotations

import re
import textwrap
import time

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool.cli import bench, bench_advice, bench_jobs, bench_runner
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
    monkeypatch.setattr(bench_jobs, "memory", lambda: (1 << 40, bench_jobs._SHARE * bench_jobs.frame_bytes(whole) // 2))
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


def test_the_verdict_is_honest():
    assert (
        bench_advice.verdict([("a", 17.2), ("b", 2.34)]) == "Of 2 jobs, arrowpool.Pool was faster in 2 (2.3x to 17x)."
    )
    mixed = bench_advice.verdict([("a", 3.0), ("b", 1.02), ("c", 0.5)])
    assert mixed == "Of 3 jobs, arrowpool.Pool was faster in 1 (3.0x), about as fast in 1, slower in 1: 'c' (0.50x)."
    assert bench_advice.verdict([("c", 0.5)]) == "Of 1 jobs, arrowpool.Pool was slower in 1: 'c' (0.50x)."


@pytest.mark.parametrize(
    ("serial", "threads", "pool", "tasks", "chunksize", "words"),
    [
        (4.0, 4.0, 2.0, 10_000, 1, ""),
        (4.0, 4.0, 4.2, 10_000, 1, ""),  # no difference that counts
        (4.0, 4.0, 6.0, 10_000, 1, "tasks run 0.4 ms: use chunksize 50, or no pool"),
        (4.0, 2.0, 3.0, 10_000, 1, "tasks run 0.4 ms, without the interpreter lock for most of it: use threads"),
        (0.004, 0.004, 0.1, 10, 1, "tasks run 0.4 ms, all 10 together 4 ms: use no pool"),
        (0.1, 0.1, 0.2, 20, 1, "tasks run 5 ms: use chunksize 4, or no pool"),
        (4.0, 4.0, 6.0, 40, 1, "tasks run 100 ms, less than moving their data takes: do more in each task, or use no pool"),
        (4.0, 4.0, 6.0, 10_000, None,
         "tasks run 0.4 ms, less than moving their data takes: do more in each task, or use no pool"),
    ],
)  # fmt: skip
def test_advice(serial, threads, pool, tasks, chunksize, words):
    assert words == bench_advice.advice(
        serial=serial, threads=threads, pool=pool, tasks=tasks, chunksize=chunksize, workers=2
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
    assert moved.copies >= 1
