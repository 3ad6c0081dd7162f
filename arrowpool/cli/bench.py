"""``python -m arrowpool bench``: a loop, threads, the standard library's pool and ours, also with the user's own file.

Called by `__main__`; uses the public API only. The verdict names jobs that are slower than with a loop or with the standard library.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow as pa

from arrowpool.cli.bench_advice import advice, show_gain, transport_share, verdict
from arrowpool.cli.bench_jobs import frame_bytes, generated_jobs, jobs_on, read_csv, read_parquet
from arrowpool.cli.bench_runner import Measured, contestants, measure
from arrowpool.stats import Stats, aligned, show_bytes

#: Pickled objects are reported from this share of all bytes that travel.
_NOTABLE = 0.02


def run(
    *,
    csv: str | None = None,
    parquet: str | None = None,
    megabytes: float = 160,
    seconds: float = 120,
    processes: int | None = None,
    method: str | None = None,
) -> int:
    """Measure, print a table, a verdict and advice; return 1 when results differ, otherwise 0.

    Parameters
    ----------
    csv, parquet : str, optional
        The user's own file, at most one of the two. By default, frames are generated.
    megabytes : float
        Size of the generated frames.
    seconds : float
        Approximate time to measure. There are always at least two rounds.
    processes : int, optional
        Number of workers of each pool. By default one per core.
    method : str, optional
        Start method. By default that of the platform.

    Raises
    ------
    OSError, ValueError
        When the file cannot be read. pandas and pyarrow raise subclasses of these.
    """
    deadline = time.monotonic() + seconds
    with contestants(processes, method, without_pool=True) as (competing, workers):
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
            measured = measure(jobs, competing, deadline)
        except AssertionError as error:
            print(error, file=sys.stderr)
            return 1
        stats = next(one.stats() for one in competing if one.stats)
    for line in _table(measured, workers):
        print(line)
    rounds = len(measured[0].seconds["arrowpool"])
    print(
        f"\nMedian seconds of {rounds} round{'s' if rounds > 1 else ''} after one to warm up, contestants in turns. All "
        "results were equal."
    )
    print("Transport: share of arrowpool's worker time in which no task ran (data was moved, or waited for).")
    print("Memcpy: the same bytes copied once by one core from warm memory to warm memory.")
    for line in _remarks(stats):
        print(line)
    print(f"\n{verdict([(one.job.title, one.gain('arrowpool', 'stdlib')) for one in measured])}")
    for line in _advice(measured, workers):
        print(line)
    return 0


def _table(measured: Sequence[Measured], workers: int) -> list[str]:
    names = list(measured[0].seconds)
    rows = [("", *names, "x serial", "x stdlib", "transport", "memcpy")]
    for one in measured:
        memcpy = f"{statistics.median(one.memcpy):.4f}" if one.memcpy else "-"
        run = statistics.median(moved.run for moved in one.moved)
        rows.append(
            (
                one.job.title,
                *(f"{one.median(name):.4f}" for name in names),
                *(show_gain(one.gain("arrowpool", other)) for other in ("serial", "stdlib")),
                f"{transport_share(run, one.median('arrowpool'), workers):.0%}",
                memcpy,
            )
        )
    return aligned(rows, left=1)


def _advice(measured: Sequence[Measured], workers: int) -> Iterator[str]:
    """At most one sentence, about the jobs for which a pool does not pay."""
    found = []
    for one in measured:
        words = advice(
            serial=one.median("serial"),
            threads=one.median("threads"),
            pool=one.median("arrowpool"),
            tasks=len(one.job.items),
            chunksize=one.job.chunksize,
            workers=workers,
        )
        if words:
            found.append(f"'{one.job.title}' ({words})")
    if found:
        yield f"A pool does not pay for {', '.join(found)}."


def _remarks(stats: Stats) -> Iterator[str]:
    """Reasons why arrowpool was slower than possible."""
    least = _NOTABLE * (stats.piped_bytes + stats.shared_bytes)
    for one in stats.pickled[:3]:
        if one.nbytes > least:
            yield f"Pickled, not shared: {one.count:,} objects, {show_bytes(one.nbytes)} ({one.why})."
    if not stats.shared_bytes:
        yield "Nothing was shared: the frames are too small, or this machine has no way: python -m arrowpool doctor"
