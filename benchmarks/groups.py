"""`map_groups` beside `groupby.apply` and `starmap` over the groups: `python -m benchmarks.groups [--scale 1] [--rounds 5]`.

The three take turns in each round, and every answer of `map_groups` is compared with that of `groupby.apply`. Prints medians (and
least seconds), how many times as fast `map_groups` is as `groupby.apply`, and the CPU seconds that it takes in the parent: with enough
cores, its time is at least that.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from arrowpool import ArrowPool, Pool
from arrowpool.cli.demo import load_flights
from arrowpool.stats import aligned
from benchmarks.contenders import PROCESSES
from benchmarks.real_jobs import ONE_YEAR, ohlcv, plane_features, rsi_and_macd

TICKERS = 2_000


def mean_close(prices: pd.DataFrame) -> float:
    return float(prices["close"].mean())


def call_with_group(function: Callable[[Any], Any], key: Any, group: Any) -> Any:
    return function(group)


@dataclass(frozen=True, slots=True)
class GroupsJob:
    """A frame, the column of its keys, and the function for each group."""

    title: str
    make: Callable[[float], pd.DataFrame]
    by: str
    function: Callable[[pd.DataFrame], Any]


def tickers(scale: float) -> pd.DataFrame:
    """One frame of 250 days for each of 2,000 tickers."""
    frames = ohlcv(ONE_YEAR, max(4, round(TICKERS * scale)))
    together = pd.concat(frames).rename_axis("date").reset_index()
    return together.assign(ticker=np.repeat([f"T{number:04d}" for number in range(len(frames))], ONE_YEAR))


def shuffled_tickers(scale: float) -> pd.DataFrame:
    """The same, with the rows in no order."""
    return tickers(scale).sample(frac=1, random_state=1)


def flights(scale: float) -> pd.DataFrame:
    """The flights of the planes that have a tail number."""
    found = load_flights().dropna(subset=["tailnum"])
    return found.iloc[: max(1000, round(len(found) * scale))]


JOBS: dict[str, GroupsJob] = {
    "rsi": GroupsJob("RSI and MACD of 2,000 tickers x 250 days", tickers, "ticker", rsi_and_macd),
    "rsi_shuffled": GroupsJob("... rows in no order", shuffled_tickers, "ticker", rsi_and_macd),
    "mean": GroupsJob("... mean of a column", tickers, "ticker", mean_close),
    "planes": GroupsJob("features of 4,043 planes", flights, "tailnum", plane_features),
}

Way = Callable[[ArrowPool, GroupsJob, pd.DataFrame], Any]


def _apply(pool: ArrowPool, job: GroupsJob, frame: pd.DataFrame) -> Any:
    return frame.groupby(job.by).apply(job.function)


def _starmap(pool: ArrowPool, job: GroupsJob, frame: pd.DataFrame) -> Any:
    return pool.starmap(partial(call_with_group, job.function), frame.groupby(job.by))


def _map_groups(pool: ArrowPool, job: GroupsJob, frame: pd.DataFrame) -> Any:
    return pool.map_groups(job.function, frame, by=job.by)


WAYS: dict[str, Way] = {"groupby.apply": _apply, "starmap": _starmap, "map_groups": _map_groups}


def check(answer: Any, expected: Any) -> None:
    """Raise an AssertionError if an answer is not that of `groupby.apply`."""
    same = pd.testing.assert_frame_equal if isinstance(expected, pd.DataFrame) else pd.testing.assert_series_equal
    same(answer, expected, check_exact=True)


def measure(job: GroupsJob, frame: pd.DataFrame, pool: ArrowPool, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each way in each round, and the median CPU seconds of `map_groups` in this process."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    parent = []
    for turn in range(-1, rounds):  # the first one warms up
        answers = {}
        for name, way in WAYS.items():
            gc.collect()
            cpu, began = time.process_time(), time.perf_counter()
            answer = way(pool, job, frame)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            if name != "starmap":
                answers[name] = answer
            if turn >= 0:
                seconds[name].append(took)
                if name == "map_groups":
                    parent.append(cpu)
        check(answers["map_groups"], answers["groupby.apply"])
    return seconds, statistics.median(parent)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="map_groups beside groupby.apply and starmap over the groups.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=PROCESSES)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="number of tickers or flights; 1 is what the titles say"
    )
    parser.add_argument("--jobs", metavar="A,B", default=",".join(JOBS), help="default: %(default)s")
    chosen = parser.parse_args(argv)
    rows = [("job", *WAYS, "x groupby.apply", "parent's CPU")]
    with Pool(chosen.workers) as pool:
        for name in chosen.jobs.split(","):
            job = JOBS[name]
            seconds, parent = measure(job, job.make(chosen.scale), pool, chosen.rounds)
            medians = {way: statistics.median(times) for way, times in seconds.items()}
            cells = [f"{medians[way]:.3g} ({min(times):.3g})" for way, times in seconds.items()]
            gain = medians["groupby.apply"] / medians["map_groups"]
            rows.append((job.title, *cells, f"{gain:.2f}", f"{parent:.3g}"))
    for line in aligned(rows, left=1):
        print(line)
    print(f"Median (least) seconds of {chosen.rounds} interleaved rounds after one warm-up, {chosen.workers} workers.")


if __name__ == "__main__":
    main()
