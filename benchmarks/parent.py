"""The cost of a task for the parent, which limits the number of workers that it can keep busy: `python -m benchmarks.parent`.

First table: CPU microseconds of the parent per task (all its threads), CPU seconds per GB, and the number of workers that the parent
keeps busy with tasks of 1 and 10 ms. Second table: pools of 8 to 64 workers whose tasks sleep 10 ms, in place of workers on other
cores; seconds of the call as a multiple of the time of ideal workers.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import inputs, record
from benchmarks.command import begin, describe_machine, new_parser
from benchmarks.contenders import PROCESSES, Contender, choose, opened
from benchmarks.real_jobs import ONE_YEAR, ohlcv

logger = logging.getLogger(__name__)

DEFAULT = "stdlib,arrowpool"
TASK_MS = (1, 10)
SLEEP = 0.01
#: Tasks of each worker that sleeps.
TURNS = 5


# -- tasks ------------------------------------------------------------------------------------------------------------


def nothing(_: Any) -> None:
    return None


def same(item: Any) -> Any:
    return item


def sleep(_: Any) -> None:
    time.sleep(SLEEP)


# -- what is sent -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of items, the task that they are given to, and the chunksize."""

    name: str
    title: str
    count: int
    make: Callable[[int], list[Any]]
    task: Callable[[Any], Any]
    chunksize: int | None = 1


def _numbers(count: int) -> list[int]:
    return list(range(count))


def _small(count: int) -> list[pd.DataFrame]:
    return ohlcv(ONE_YEAR, count)


def _large(count: int) -> list[pd.DataFrame]:
    return ohlcv(20 * ONE_YEAR, count)


def _mixed(count: int) -> list[pd.DataFrame]:
    frame = inputs.mixed_frame(1_000 * count / inputs.MIXED_ROWS)
    return [frame.iloc[at * 1_000 : (at + 1) * 1_000].copy() for at in range(count)]


def _arrays(count: int) -> list[np.ndarray]:
    return [np.full(125_000, float(number)) for number in range(count)]


TRAFFIC: tuple[Traffic, ...] = (
    Traffic("tiny", "a number in, None back", 5_000, _numbers, nothing),
    Traffic("small_in", "a frame of 12 kB in", 1_000, _small, nothing),
    Traffic("small_in_chunks", "a frame of 12 kB in, default chunksize", 1_000, _small, nothing, None),
    Traffic("small_back", "a frame of 12 kB there and back", 1_000, _small, same),
    Traffic("large_in", "a frame of 240 kB in", 300, _large, nothing),
    Traffic("mixed_back", "1,000 rows of mixed columns there and back", 300, _mixed, same),
)
#: Traffic to workers that sleep.
SLEPT: tuple[Traffic, ...] = (
    Traffic("tiny", "numbers", TURNS, _numbers, sleep),
    Traffic("small_in", "frames of 12 kB", TURNS, _small, sleep),
    Traffic("arrays", "arrays of 1 MB", TURNS, _arrays, sleep),
)


# -- the clock --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """One call in each of the rounds: CPU seconds of this process, and seconds by the clock."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]


def costs(contenders: Sequence[Contender], traffic: Traffic, items: list[Any], rounds: int) -> list[Cost]:
    """The cost of one call with each contender. Contenders take turns, after one round to warm up. The results are checked."""
    expected = [traffic.task(item) for item in items] if traffic.task is not sleep else [None] * len(items)
    seen: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for turn in range(-1, rounds):
        shift = turn % len(contenders)
        order = list(range(len(contenders)))
        for number in order[shift:] + order[:shift]:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            result = contenders[number].map(traffic.task, items, traffic.chunksize)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            _check(expected, result)
            logger.info("%s: %s %.3g s, %.3g s of CPU", traffic.title, contenders[number].name, wall, cpu)
            if turn >= 0:
                seen[number].append((cpu, wall))
    return [Cost(*zip(*each, strict=True)) for each in seen]


def _check(expected: list[Any], result: list[Any]) -> None:
    assert len(result) == len(expected)
    for wanted, found in zip(expected, result, strict=True):
        assert found.equals(wanted) if isinstance(wanted, pd.DataFrame) else found == wanted


# -- the tables -------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = new_parser(
        "CPU time of the parent per task, and how many workers it feeds.",
        contenders=DEFAULT,
        scale="number of tasks of the first table",
    )
    parser.add_argument("--traffic", metavar="A,B", help=", ".join(one.name for one in TRAFFIC))
    parser.add_argument("--workers", type=int, default=PROCESSES, help="of the first table (default %(default)s)")
    parser.add_argument("--sleepers", default="8,32,64", metavar="N,N", help="workers that sleep, '' for none (default %(default)s)")  # fmt: skip
    run = begin("parent", parser, argv)
    arguments = run.arguments
    names = [name.strip() for name in arguments.traffic.split(",")] if arguments.traffic else [t.name for t in TRAFFIC]
    unknown = set(names) - {one.name for one in TRAFFIC}
    if unknown:
        parser.error(f"no traffic {', '.join(unknown)}; there is: {', '.join(one.name for one in TRAFFIC)}")
    try:
        kinds = choose(arguments.contenders)
        sleepers = [int(number) for number in arguments.sleepers.split(",") if number]
    except (LookupError, ValueError) as error:
        parser.error(str(error.args[0]))
    print(f"{describe_machine(kinds)}; load average {run.load:.1f}\n")
    points = busy([one for one in TRAFFIC if one.name in names], kinds, arguments)
    print(run.show(cpu_table(points)))
    feeds = " and ".join(str(ms) for ms in TASK_MS)
    print(
        f"\nCPU of the parent, median of {arguments.rounds} rounds in turns, {arguments.workers} workers; s/GB of what is moved."
    )
    print(f"Feeds: how many workers the parent keeps busy with tasks of {feeds} ms.")
    if sleepers:
        chosen = [one for one in SLEPT if one.name in names or not arguments.traffic]
        slept = {workers: asleep(chosen, kinds, workers, arguments.rounds) for workers in sleepers}
        print(f"\n{run.show(sleep_table(slept))}")
        print(
            f"\nSeconds of the call by those of ideal workers: {TURNS} tasks a worker that sleep {SLEEP * 1e3:g} ms, chunksize 1."
        )
        for measured in slept.values():
            points += measured
    run.write(kinds, points, arguments.workers)


def busy(
    traffic: Sequence[Traffic], kinds: Sequence[type[Contender]], arguments: argparse.Namespace
) -> list[record.Point]:
    """Measure each kind of traffic with each contender. Tasks do almost nothing."""
    points = []
    with ExitStack() as stack:
        contenders = [stack.enter_context(opened(kind(arguments.workers))) for kind in kinds]
        for one in traffic:
            items = one.make(max(4, round(one.count * arguments.scale)))
            moved = _bytes(items) * (2 if one.task is same else 1)
            for contender, cost in zip(contenders, costs(contenders, one, items, arguments.rounds), strict=True):
                points.append(_point(one.name, one.title, contender, moved, len(items), cost))
    return points


def asleep(
    traffic: Sequence[Traffic], kinds: Sequence[type[Contender]], workers: int, rounds: int
) -> list[record.Point]:
    """Measure each kind of traffic with each contender. Tasks sleep."""
    points = []
    with ExitStack() as stack:
        contenders = [stack.enter_context(opened(kind(workers))) for kind in kinds]
        for one in traffic:
            items = one.make(one.count * workers)
            for contender, cost in zip(contenders, costs(contenders, one, items, rounds), strict=True):
                points.append(_point(f"{one.name}_{workers}", one.title, contender, _bytes(items), len(items), cost))
    return points


def _point(name: str, title: str, contender: Contender, nbytes: int, tasks: int, cost: Cost) -> record.Point:
    return record.Point(
        scenario=name,
        title=title,
        contender=contender.name,
        nbytes=nbytes,
        tasks=tasks,
        seconds=cost.wall,
        cpu=cost.cpu,
        peak={},
    )


def cpu_table(points: Iterable[record.Point]) -> list[list[str]]:
    """A row for each kind of traffic and contender."""
    rows = [["what", "contender", "us a task", "s/GB", *(f"feeds at {ms} ms" for ms in TASK_MS)]]
    for point in points:
        cpu = statistics.median(point.cpu)
        task = cpu / point.tasks
        per_gb = f"{cpu / point.nbytes * 1e9:.2f}" if point.nbytes else "-"
        feeds = (f"{ms / 1e3 / task:.3g}" for ms in TASK_MS)
        rows.append([point.title, point.contender, f"{task * 1e6:.1f}", per_gb, *feeds])
    return rows


def sleep_table(slept: Mapping[int, Sequence[record.Point]]) -> list[list[str]]:
    """A row for each kind of traffic and contender, a column for each number of workers."""
    lines: dict[tuple[str, str], list[str]] = {}
    for points in slept.values():
        for point in points:
            lines.setdefault((point.title, point.contender), []).append(f"{point.median / (TURNS * SLEEP):.2f}")
    return [
        ["tasks that sleep, sent", "contender", *(f"{workers} workers" for workers in slept)],
        *([*key, *cells] for key, cells in lines.items()),
    ]


def _bytes(items: list[Any]) -> int:
    return sum(int(item.memory_usage().sum()) for item in items if isinstance(item, pd.DataFrame))


if __name__ == "__main__":
    main()
