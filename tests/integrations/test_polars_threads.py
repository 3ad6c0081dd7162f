"""polars has a pool of threads, which is not there in a process that is forked after its first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import programs

pytest.importorskip("polars", minversion="1.3")

PROGRAM = """
import multiprocessing as mp
import sys

import polars as pl

import arrowpool

N = 100_000


def columns(start):
    return {"a": range(start, start + N), "s": ["x"] * N, "l": [[i] for i in range(N)]}


FRAMES = {
    "with lists": lambda: pl.DataFrame(columns(0)),
    "of several chunks": lambda: CHUNKED.clone(),
    "of large chunks": lambda: LARGE.clone(),
    "a slice": lambda: CHUNKED[10 : N + 10],
    "of lists only": lambda: pl.DataFrame({"l": [[i] for i in range(N)]}),
}
CHUNKED = pl.concat([pl.DataFrame(columns(part * N)) for part in range(3)], rechunk=False)
LARGE = pl.concat([pl.DataFrame({"x": range(1 << 18), "y": [0.5] * (1 << 18)})] * 2, rechunk=False)
DIFFER = CHUNKED.drop("l").with_columns(pl.Series("z", range(len(CHUNKED))))
FRAMES["of chunks that differ"] = lambda: DIFFER.clone()


def make(name):
    return FRAMES[name]()


def send_and_return(frame):
    return frame


if __name__ == "__main__":
    expected = {name: make(name) for name in FRAMES}
    expected["a slice"].group_by("s").agg(pl.col("a").sum())  # the threads are there from now on
    with arrowpool.Pool(2, context=mp.get_context("fork")) as pool:
        for name, frame in expected.items():
            for came in (
                pool.apply_async(make, (name,)).get(60),
                pool.apply_async(send_and_return, (frame,)).get(60),
            ):
                assert came.equals(frame) and came.schema == frame.schema, name
    print("all came back")
"""


def test_frames_come_back_from_workers_without_these_threads(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    ran = programs.run([str(script)], timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "all came back" in ran.stdout
