"""One Markdown table and the plots of what was measured: `python -m benchmarks.report [FILE.json ...] [--measure]`.

Reads what `jobs`, `compare`, `sizes` and `memory` wrote with `--json`; without arguments what lies in `benchmarks/plots`. With
`--measure` it runs the four of them first, each in a process of its own, and writes their files there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import markdown
from benchmarks.contenders import CONTENDERS, ROOT
from benchmarks.record import Point, Record, by_scenario, read
from benchmarks.sizes import SIZES

PLOTS = ROOT / "benchmarks" / "plots"
KINDS = ("jobs", "compare", "sizes", "memory")
#: What is shown of all that can be measured: one of each kind, without what would take an hour with all peers.
COMPARED = (
    "frame_in",
    "frame_there_and_back",
    "mixed_there_and_back",
    "arrow_slices",
    "numpy_arrays",
    "partial_frame",
    "tiny_single",
)
WATCHED = ("frame_in", "frame_there_and_back", "mixed_there_and_back", "numpy_arrays")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A Markdown table and plots from the benchmarks' JSON files.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="written by --json (default: those in --to)")
    parser.add_argument("--measure", action="store_true", help="run jobs, compare, sizes and memory first")
    parser.add_argument("--to", type=Path, default=PLOTS, metavar="DIR", help="default: benchmarks/plots")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    parser.add_argument("--no-plots", action="store_true", help="the table only; needs no matplotlib")
    trial = parser.add_argument_group("of --measure")
    trial.add_argument("--contenders", metavar="A,B", help="default: all that are installed")
    trial.add_argument("--sizes", default=",".join(map(str, SIZES)), metavar="MB,MB", help="default: %(default)s")
    trial.add_argument("--scale", type=float, default=1.0, help="size of the inputs, but for sizes")
    trial.add_argument("--jobs", metavar="A,B", help="default: all")
    trial.add_argument("--scenario", nargs="+", metavar="NAME", help="of compare and memory; default: the most telling")
    trial.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        _measure(arguments)
    files = arguments.files or [path for kind in KINDS if (path := arguments.to / f"{kind}.json").exists()]
    if not files:
        parser.error(f"there is nothing in {arguments.to}: name files, or say --measure")
    try:
        records = [read(path) for path in files]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(table(records))
    for record in records:
        print(
            f"\n{record.kind}: `{record.command}`, {record.workers} workers, {record.machine}; load when it began {record.load:g}"
        )
    if not arguments.no_plots:
        from benchmarks.plots import draw

        for path in draw(records, arguments.to, arguments.format):
            print(path)


def _measure(arguments: argparse.Namespace) -> None:
    arguments.to.mkdir(parents=True, exist_ok=True)
    common = ["--rounds", str(arguments.rounds)]
    common += ["--contenders", arguments.contenders] if arguments.contenders else []
    scaled = ["--scale", str(arguments.scale)] if arguments.scale != 1 else []
    jobs = ["--jobs", arguments.jobs] if arguments.jobs else []
    options = {
        "jobs": [*scaled, *jobs, *(["--contenders", f"serial,{arguments.contenders}"] if arguments.contenders else [])],
        "compare": [*scaled, "--scenario", *(arguments.scenario or COMPARED)],
        "sizes": ["--sizes", arguments.sizes],
        "memory": [*scaled, "--scenario", *(arguments.scenario or WATCHED)],
    }
    for kind in KINDS:
        file = arguments.to.resolve() / f"{kind}.json"
        command = [sys.executable, "-m", f"benchmarks.{kind}", "--json", str(file), *common, *options[kind]]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def table(records: Sequence[Record]) -> str:
    """All figures: a line for each scenario of each record, a column for each contender."""
    found = {point.contender for record in records for point in record.points}
    contenders = [kind.name for kind in CONTENDERS if kind.name in found]
    rows = [["what", "unit", *contenders]]
    for record in records:
        for points in by_scenario(record.points).values():
            cells = {point.contender: _cell(record.kind, point) for point in points}
            unit = {"jobs": "s", "compare": "s", "sizes": "GB/s", "memory": "MB"}[record.kind]
            title = f"peak memory: {points[0].title}" if record.kind == "memory" else points[0].title
            rows.append([title, unit, *(cells.get(name, "") for name in contenders)])
    return markdown(rows)


def _cell(kind: str, point: Point) -> str:
    if point.failure:
        return "failed"
    if kind == "memory":
        return f"{point.peak['total'] / 1e6:.0f}"
    figure = point.throughput if kind == "sizes" else point.median
    return f"{figure:.3g}" + ("" if point.warmed else "*")


if __name__ == "__main__":
    main()
