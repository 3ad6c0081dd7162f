"""Real jobs from end to end, by a loop, by threads and by pools: `python -m benchmarks.jobs`.

Prints the median (and least) seconds of each contender, and how many times as fast `arrowpool` is as a loop and as the standard
library. Contenders take turns in each round. Every result is compared with the loop's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.command import begin, describe_machine, new_parser, points_of
from benchmarks.compare import OURS, ratio
from benchmarks.contenders import PROCESSES, Contender, named
from benchmarks.measure import SLOW, Measurement, measure
from benchmarks.memory import peak_of
from benchmarks.real_jobs import JOBS
from benchmarks.scenarios import Scenario, Timing, by_name, scaled

#: Contenders that can do every job and are not variants of others.
USUAL = "serial,threads,stdlib,arrowpool,joblib,mpire,ray"


def main(argv: Sequence[str] | None = None) -> None:
    parser = new_parser(
        "Real jobs by a loop, by threads and by pools.",
        contenders=USUAL,
        scale="number of tasks, or of rows; 1 is what the titles say",
    )
    parser.add_argument("--jobs", metavar="A,B", help=", ".join(job.name for job in JOBS))
    parser.add_argument("--workers", type=int, default=PROCESSES, help="workers of each pool (default %(default)s)")
    parser.add_argument(
        "--first-call", action="store_true", help="each round in a new process: the first call of a pool"
    )
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in processes of its own")
    run = begin("jobs", parser, argv)
    arguments = run.arguments
    try:
        wanted = named(arguments.contenders.split(","))
        jobs = [by_name(name.strip(), JOBS) for name in arguments.jobs.split(",")] if arguments.jobs else list(JOBS)
    except LookupError as error:
        parser.error(str(error.args[0]))
    kinds = [kind for kind in wanted if kind.installed()]
    timing = Timing.FIRST_CALL if arguments.first_call else Timing.WARM_CALL
    jobs = [replace(scaled(job, arguments.scale), timing=timing) for job in jobs]

    print(describe_machine(kinds))
    for kind in wanted:
        if kind not in kinds:
            print(f"{kind.name} is left out: it is not installed")
    rows, notes, points = [header(kinds)], [], []
    for job, measured in zip(
        jobs, measure(jobs, kinds, rounds=arguments.rounds, workers=arguments.workers), strict=True
    ):
        rows.append(row(job, kinds, measured))
        notes += [f"{job.name}: {m.contender} failed: {m.failure}" for m in measured if m.failure]
        points += points_of(job, measured)
        print(f"{job.name}: " + ", ".join(f"{m.contender} {cell(m)}" for m in measured), flush=True)
    print(f"\n{run.show(rows)}\n")
    what = "first call of a new pool in a new process" if arguments.first_call else "after one warm-up"
    print(
        f"Median (least) seconds of {arguments.rounds} interleaved rounds, {what}, {arguments.workers} workers, every result "
        f"compared with the loop's; load average at the start {run.load:.1f}.\n"
        f"* over {SLOW:g} s a call, so one round without a warm-up."
    )
    print("\n".join(notes))
    if arguments.memory:
        print(f"{run.show(memory_rows(jobs, kinds, arguments))}\nPeak MB above the open pool and its inputs.")
    run.write(kinds, points, arguments.workers)


def header(kinds: Sequence[type[Contender]]) -> list[str]:
    return ["job", *(kind.name for kind in kinds), "x serial", "x stdlib"]


def row(job: Scenario, kinds: Sequence[type[Contender]], measured: Sequence[Measurement]) -> list[str]:
    """The job's row of the table."""
    found = {m.contender: m for m in measured}
    cells = [cell(found[kind.name]) if kind.name in found else "-" for kind in kinds]
    seconds = {name: m.median for name, m in found.items()}
    ours = seconds.get(OURS, math.nan)
    return [job.title, *cells, *(ratio(seconds.get(name, math.nan) / ours) for name in ("serial", "stdlib"))]


def cell(measurement: Measurement) -> str:
    if measurement.failure:
        return "failed"
    least = min(measurement.seconds)
    return f"{measurement.median:.3g} ({least:.3g})" + ("" if measurement.warmed else "*")


def memory_rows(
    jobs: Sequence[Scenario], kinds: Sequence[type[Contender]], arguments: argparse.Namespace
) -> list[list[str]]:
    """Peak memory of each contender, above the open pool and its inputs, in MB."""
    rows = [["job", *(kind.name for kind in kinds)]]
    for job in jobs:
        peaks = [
            peak_of(job.name, kind.name, rounds=arguments.rounds, scale=arguments.scale, workers=arguments.workers)
            for kind in kinds
        ]
        rows.append([job.title, *(f"{peak.total / 1e6:.0f}" for peak in peaks)])
    return rows


if __name__ == "__main__":
    main()
