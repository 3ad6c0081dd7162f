"""``python -m arrowpool bench``: a loop, threads, the standard library's pool and ours, also with the user's own file.

Called by `__main__`; uses the public API only. The verdict names jobs that are slower than with a loop or with the standard library.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import psutil
import pyarrow as pa

from arrowpool import portable
from arrowpool.cli.bench_advice import advice, transport_share, verdict
from arrowpool.cli.bench_jobs import columns_like_dates, frame_bytes, generated_jobs, jobs_on, read_csv, read_parquet
from arrowpool.cli.bench_own import function_named, own_job, reason, sentence, table, tasks_in, with_joblib
from arrowpool.cli.bench_runner import Contestant, Measured, ResultsDifferError, contestants, measure
from arrowpool.cli.steps import Steps
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
    by: Sequence[str] = (),
    dates: Sequence[str] = (),
    function: str | None = None,
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
    by : sequence of str
        Key columns: `function` is called with each group.
    dates : sequence of str
        Columns of the CSV file to read as dates, as `parse_dates` of `pandas.read_csv`.
    function : str, optional
        The user's own function, ``module:name``, which is measured with the file in place of arrowpool's jobs. Without `by` it is
        called with parts of the rows.

    Raises
    ------
    OSError, ValueError
        When the file or the columns cannot be used. pandas and pyarrow raise subclasses of these.
    """
    called = None
    if function is not None:  # before the file is read, which may take a while
        try:
            called = function_named(function)
        except ValueError as error:
            print(f"cannot measure: {error}", file=sys.stderr)
            return 1
    deadline, load = time.monotonic() + seconds, psutil.getloadavg()[0]
    with contestants(processes, method, without_pool=True) as (competing, workers):
        versions = f"Python {platform.python_version()}, pandas {pd.__version__}, pyarrow {pa.__version__}"
        print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {versions}; {workers} workers each")
        if csv is not None or parquet is not None:
            frame, whole = read_csv(csv, by, dates) if csv is not None else read_parquet(str(parquet), by)
            if not len(frame) or not len(frame.columns):
                raise ValueError(f"{csv or parquet} has no rows or no columns")
            part = "" if whole else ", its first"
            shape = f"{len(frame):,} rows of {len(frame.columns)} columns, {show_bytes(frame_bytes(frame))}"
            print(f"{csv or parquet}{part}: {shape}; at most about {seconds:,.0f} s\n", flush=True)
            for column in columns_like_dates(frame) if csv is not None else ():
                print(f"column {column!r} looks like dates and was read as text: --dates {column} reads dates")
            if called is not None and function is not None:
                return _own(function, called, frame, by, competing, workers, deadline)
            jobs = jobs_on(frame)
        else:
            print(f"generated frames of about {megabytes:,.4g} MB; at most about {seconds:,.0f} s\n", flush=True)
            jobs = generated_jobs(megabytes)
        try:
            with Steps(deadline=deadline) as steps:
                measured = measure(jobs, competing, deadline, steps.begin)
        except ResultsDifferError as error:
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
    print(_surroundings(measured, load))
    print("Transport: share of arrowpool's worker time in which no task ran (data was moved, or waited for).")
    print("Memcpy: the same bytes copied once by one core from warm memory to warm memory.")
    for line in _remarks(stats):
        print(line)
    print(f"\n{verdict([(one.job.title, one.gain('arrowpool', 'stdlib')) for one in measured])}")
    for line in _advice(measured, workers):
        print(line)
    return 0


def _own(
    name: str,
    function: Callable[..., object],
    frame: pd.DataFrame,
    by: Sequence[str],
    competing: list[Contestant],
    workers: int,
    deadline: float,
) -> int:
    """Measure the user's function."""
    load = psutil.getloadavg()[0]
    job = own_job(name, function, frame, by, workers)
    tasks = tasks_in(frame, by, job)
    with with_joblib(competing, workers) as all_of_them, Steps(deadline=deadline) as steps:
        try:
            (measured,) = measure([job], all_of_them, deadline, steps.begin)
        except ResultsDifferError as error:
            print(error, file=sys.stderr)
            return 1
        except Exception as error:  # of the user's function, which may raise anything
            traceback.print_exception(error)
            print(f"cannot measure: {name} raised {type(error).__name__}", file=sys.stderr)
            return 1
    print(f"{job.title}: {tasks:,} calls")
    for line in table(measured):
        print(line)
    rounds = len(measured.seconds["arrowpool"])
    print(
        f"\n{rounds} round{'s' if rounds > 1 else ''} after one to warm up, contestants in turns. All results were equal."
    )
    print(_surroundings([measured], load))
    print(reason(measured, tasks, workers))
    print(f"\n{sentence(measured, tasks, workers)}")
    return 0


def _surroundings(measured: Sequence[Measured], before: float) -> str:
    """How busy the machine was, and how far the rounds differ."""
    times = [seconds for one in measured for seconds in one.seconds.values()]
    least = [min(seconds) / statistics.median(seconds) for seconds in times]
    busy = (
        " Other programs were running: measure again on an idle machine." if before > (os.cpu_count() or 1) / 2 else ""
    )
    spread = (
        f"; the fastest rounds took {min(least):.0%} to {max(least):.0%} of the median"
        if max(map(len, times)) > 1
        else ""
    )
    return f"Load average {before:.1f} before, {psutil.getloadavg()[0]:.1f} after{spread}.{busy}"


def _table(measured: Sequence[Measured], workers: int) -> list[str]:
    names = list(measured[0].seconds)
    rows = [("", *names, "x serial", "x stdlib", "transport", "memcpy")]
    for one in measured:
        memcpy = f"{statistics.median(one.memcpy):.4f}" if one.memcpy else "-"
        known = portable.missing() is None  # else workers do not report their time
        rows.append(
            (
                one.job.title,
                *(f"{one.median(name):.4f}" for name in names),
                *(str(one.gain("arrowpool", other)) for other in ("serial", "stdlib")),
                f"{transport_share(one.run, one.median('arrowpool'), workers):.0%}" if known else "-",
                memcpy,
            )
        )
    return aligned(rows, left=1)


def _advice(measured: Sequence[Measured], workers: int) -> Iterator[str]:
    """At most one sentence, about the jobs for which a pool does not pay."""
    found = []
    for one in measured:
        if not all(one.gain("arrowpool", other).is_decided for other in ("serial", "threads")):
            continue
        words = advice(
            serial=one.median("serial"),
            threads=one.median("threads"),
            pool=one.median("arrowpool"),
            run=one.run,
            moving=one.moving,
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
