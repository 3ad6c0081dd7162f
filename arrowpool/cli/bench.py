"""``python -m arrowpool bench``: the standard library's pool and ours on this machine, also on the user's own file.

Called by `__main__`; a client of the public API only. Guarantees: the pools take turns, so that whatever else the machine
does hits both alike; every result is compared with the standard library's, outside the clock; what is slower is said.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

import arrowpool
from arrowpool.cli.bench_jobs import Job, frame_bytes, generated_jobs, jobs_on, read_csv, read_parquet
from arrowpool.stats import Stats, aligned, show_bytes

_MOST_ROUNDS = 15
#: Two times nearer to each other than this are the same.
_NOISE = 1.1
#: Copied at a time by the memcpy that is compared with: more than caches hold.
_PIECE = 1 << 26
#: What is pickled is worth a word from this share of all bytes that travel.
_NOTABLE = 0.02


@dataclass(slots=True)
class Times:
    """Seconds of each round of one job; the only state of a run."""

    stdlib: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    memcpy: list[float] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """How many times as fast ours is, by the medians."""
        return statistics.median(self.stdlib) / statistics.median(self.ours)


# -- the report -------------------------------------------------------------------------------------------------------


def run(
    *,
    csv: str | None = None,
    parquet: str | None = None,
    megabytes: float = 160,
    seconds: float = 120,
    processes: int | None = None,
    method: str | None = None,
) -> int:
    """Measure, print a table and a verdict; return 1 when the pools' results differ.

    Parameters
    ----------
    csv, parquet : str, optional
        The user's own file, one or the other, to measure with; generated frames by default.
    megabytes : float
        Size of the generated frames.
    seconds : float
        About how long to measure; two rounds are made in any case.
    processes : int, optional
        Workers of each pool; one per core by default.
    method : str, optional
        Start method; the default one by default.

    Raises
    ------
    OSError, ValueError
        When the file cannot be read; pandas and pyarrow raise these, by subclasses of their own.
    """
    deadline = time.monotonic() + seconds
    with _pools(processes, method) as (stdlib, ours, workers):
        versions = f"Python {platform.python_version()}, pandas {pd.__version__}, pyarrow {pa.__version__}"
        print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {versions}; {workers} workers each")
        if csv is not None or parquet is not None:
            frame, whole = read_csv(csv) if csv is not None else read_parquet(str(parquet))
            if not len(frame) or not len(frame.columns):
                raise ValueError(f"{csv or parquet} has no rows or no columns")
            part = "" if whole else ", its first"
            shape = f"{len(frame):,} rows of {len(frame.columns)} columns, {show_bytes(frame_bytes(frame))}"
            print(f"{csv or parquet}{part}: {shape}; about {seconds:,.0f} s\n", flush=True)
            jobs = jobs_on(frame)
        else:
            print(f"generated frames of about {megabytes:,.4g} MB; about {seconds:,.0f} s\n", flush=True)
            jobs = generated_jobs(megabytes)
        try:
            measured = measure(jobs, stdlib, ours, deadline)
        except AssertionError as error:
            print(error, file=sys.stderr)
            return 1
        stats = ours.stats()
    for line in _table(measured):
        print(line)
    rounds = len(measured[0][1].ours)
    print(
        f"\nMedian seconds of {rounds} round{'s' if rounds > 1 else ''} after one to warm up, the pools in turns. Memcpy:"
    )
    print("the same bytes copied once by one core from warm memory to warm memory. All results were equal.")
    for line in _remarks(stats):
        print(line)
    print(f"\n{verdict([(job.title, times.gain) for job, times in measured])}")
    return 0


@contextmanager
def _pools(processes: int | None, method: str | None) -> Iterator[tuple[Any, Any, int]]:
    """Both pools, and the workers of each; before the data is there, so that no worker inherits it."""
    with ExitStack() as stack:
        stdlib = multiprocessing.get_context(method).Pool(processes)
        stack.callback(stdlib.join)
        stack.callback(stdlib.terminate)
        ours = arrowpool.get_context(method).Pool(processes)
        stack.callback(ours.join)
        stack.callback(ours.terminate)
        yield stdlib, ours, ours._processes


def _table(measured: Sequence[tuple[Job, Times]]) -> list[str]:
    rows = [("", "stdlib", "arrowpool", "gain", "memcpy")]
    for job, times in measured:
        stdlib, ours = statistics.median(times.stdlib), statistics.median(times.ours)
        memcpy = f"{statistics.median(times.memcpy):.4f}" if times.memcpy else "-"
        rows.append((job.title, f"{stdlib:.4f}", f"{ours:.4f}", show_gain(times.gain), memcpy))
    return aligned(rows, left=1)


def _remarks(stats: Stats) -> Iterator[str]:
    """Why something was not as fast as it could have been."""
    least = _NOTABLE * (stats.piped_bytes + stats.shared_bytes)
    for one in stats.pickled[:3]:
        if one.nbytes > least:
            yield f"Pickled, not shared: {one.count:,} objects, {show_bytes(one.nbytes)} ({one.why})."
    if not stats.shared_bytes:
        yield "Nothing was shared: the frames are too small, or this machine has no way: python -m arrowpool doctor"


def show_gain(gain: float) -> str:
    """As people read it: ``17x``, ``2.3x``, ``0.84x``."""
    return f"{gain:.0f}x" if gain >= 10 else f"{gain:.1f}x" if gain >= 1 else f"{gain:.2f}x"


def verdict(gains: Sequence[tuple[str, float]]) -> str:
    """One sentence on what was measured: (title, gain) of each job."""
    faster = [gain for _, gain in gains if gain > _NOISE]
    slower = [f"'{title}' ({show_gain(gain)})" for title, gain in gains if gain < 1 / _NOISE]
    equal = len(gains) - len(faster) - len(slower)
    parts = []
    if faster:
        span = show_gain(min(faster)) if len(faster) == 1 else f"{show_gain(min(faster))} to {show_gain(max(faster))}"
        parts.append(f"faster in {len(faster)} ({span})")
    if equal:
        parts.append(f"about as fast in {equal}")
    if slower:
        parts.append(f"slower in {len(slower)}: {', '.join(slower)}")
    return f"Of {len(gains)} jobs, arrowpool.Pool was {', '.join(parts)}."


# -- the clock ---------------------------------------------------------------------------------------------------------


def measure(jobs: Sequence[Job], stdlib: Any, ours: Any, deadline: float) -> list[tuple[Job, Times]]:
    """Run all jobs in turns until the deadline, one round to warm up and one that counts at least.

    Raises
    ------
    AssertionError
        When the pools' results differ; the message names the job.
    """
    times = [Times() for _ in jobs]
    expected: list[Any] = [None for _ in jobs]
    began = time.monotonic()
    for turn in range(-1, _MOST_ROUNDS):
        for number, job in enumerate(jobs):
            spent: dict[str, float] = {}
            # The standard library first in the first round, as its results are what is compared with; then in turns.
            for name, pool in (("stdlib", stdlib), ("ours", ours))[:: 1 if turn % 2 else -1]:
                spent[name], result = _timed(partial(pool.map, job.function, job.items, job.chunksize))
                if expected[number] is None:
                    expected[number] = result
                _compare(job.title, expected[number], result)
                del result
            if turn >= 0:
                times[number].stdlib.append(spent["stdlib"])
                times[number].ours.append(spent["ours"])
                if job.nbytes:
                    times[number].memcpy.append(_memcpy(job.nbytes))
        now = time.monotonic()
        if turn >= 0 and now + (now - began) / (turn + 2) > deadline:
            break
    return list(zip(jobs, times, strict=True))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _memcpy(nbytes: int) -> float:
    """Seconds to copy as many bytes from and to warm memory, piece by piece."""
    source, target = np.ones(min(nbytes, _PIECE), np.uint8), np.zeros(min(nbytes, _PIECE), np.uint8)
    np.copyto(target, source)  # the pages of `target` come with the first write
    began = time.perf_counter()
    for at in range(0, nbytes, len(source)):
        size = min(len(source), nbytes - at)
        np.copyto(target[:size], source[:size])
    return time.perf_counter() - began


def _compare(title: str, expected: list[Any], found: list[Any]) -> None:
    try:
        assert len(found) == len(expected), f"{len(found)} results instead of {len(expected)}"
        if expected and isinstance(expected[0], pd.DataFrame):
            for one, other in zip(expected, found, strict=True):
                if not other.equals(one):  # far quicker than what tells where they differ
                    pd.testing.assert_frame_equal(other, one, check_exact=True)
        else:
            assert found == expected
    except AssertionError as error:
        raise AssertionError(f"the two pools' results of '{title}' differ: {error}") from error
