"""What the benchmarks' command lines have in common: options, the log, tables, and the file of ``--json``."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from arrowpool import stats
from benchmarks import record
from benchmarks.contenders import PROCESSES, WITHOUT_VERSION, Contender, quiet_peers
from benchmarks.measure import Measurement
from benchmarks.scenarios import Scenario, titled


def new_parser(
    description: str,
    *,
    contenders: str | None = None,
    rounds: int = 5,
    a_round: str = "timed rounds after one warm-up",
    scale: str | None = "size of the inputs; 1 is what the titles say",
) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have.

    Parameters
    ----------
    description : str
        What the benchmark measures.
    contenders : str, optional
        Names of the contenders that are measured by default, separated by commas. By default all that are installed.
    rounds : int
        Default number of rounds.
    a_round : str
        What a round is, for the help.
    scale : str, optional
        What ``--scale`` is a factor of, for the help; None for no such option.
    """
    parser = argparse.ArgumentParser(description=description)
    default = "all that are installed" if contenders is None else contenders
    parser.add_argument("--contenders", default=contenders, metavar="A,B", help=f"default: {default}")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"{a_round} (default %(default)s)")
    if scale is not None:
        parser.add_argument("--scale", type=float, default=1.0, help=scale)
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--json", metavar="FILE", help="write the measurements to a file")
    parser.add_argument("--verbose", action="store_true", help="log each round as it ends")
    return parser


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a benchmark.

    Attributes
    ----------
    kind : str
        Name of the benchmark's module.
    words : tuple of str
        The command line, without the program.
    arguments : argparse.Namespace
        The same, parsed.
    load : float
        Load average of the machine (1 minute) at the start.
    """

    kind: str
    words: tuple[str, ...]
    arguments: argparse.Namespace
    load: float

    def show(self, rows: Sequence[Sequence[str]]) -> str:
        """A table, in the form that the user has chosen. The first row is the header."""
        return markdown(rows) if self.arguments.markdown else aligned(rows)

    def write(self, kinds: Iterable[type[Contender]], points: Iterable[record.Point], workers: int = PROCESSES) -> None:
        """Write the run to a file, if the user wants one, with the command that made it (without the file's name)."""
        path = self.arguments.json
        if path is None:
            return
        words = list(self.words)
        if "--json" in words:
            at = words.index("--json")
            del words[at : at + 2]
        command = " ".join(["python -m", f"benchmarks.{self.kind}", *words])
        machine = describe_machine(kinds)
        record.write(path, record.Record(self.kind, machine, command, workers, round(self.load, 2), tuple(points)))


def begin(kind: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> Run:
    """Parse the command line and set up the log. `argv` is None for the program's own arguments."""
    quiet_peers()
    words = tuple(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    load, _, _ = os.getloadavg()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    return Run(kind, words, arguments, load)


def points_of(scenario: Scenario, measurements: Iterable[Measurement]) -> list[record.Point]:
    """The measurements of a scenario as they are written to a file."""
    return [
        record.Point(
            scenario=scenario.name,
            title=titled(scenario),
            contender=m.contender,
            nbytes=m.nbytes,
            seconds=m.seconds,
            peak={},
            warmed=m.warmed,
            failure=m.failure,
        )
        for m in measurements
    ]


def describe_machine(kinds: Iterable[type[Contender]]) -> str:
    packages = ["pandas", "pyarrow", "numpy", *(kind.module for kind in kinds if kind.name not in WITHOUT_VERSION)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{datetime.date.today()}, Linux {platform.release()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}"
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(stats.aligned(rows))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])
