"""What a run measured, as a JSON file: written by ``--json FILE`` of each benchmark. `report` shows some of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One figure: a contender's in a scenario.

    Attributes
    ----------
    nbytes : int
        Bytes moved; 0 where they are negligible.
    tasks : int
        Number of tasks of a round; 0 where they are not counted.
    seconds : tuple of float
        Seconds of each timed round; empty where memory was measured, or it failed.
    cpu : tuple of float
        CPU seconds of the parent in each of these rounds; empty where they were not measured.
    peak : dict
        Peak bytes by kind (parent, workers, shared, total); empty where time was measured.
    warmed : bool
        False for what was so slow that it ran once.
    """

    scenario: str
    title: str
    contender: str
    nbytes: int = 0
    tasks: int = 0
    seconds: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    peak: dict[str, int]
    warmed: bool = True
    failure: str = ""

    @property
    def median(self) -> float:
        """Seconds; NaN where there are none."""
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def throughput(self) -> float:
        """GB/s; NaN where no time was measured."""
        return self.nbytes / self.median / 1e9


@dataclass(frozen=True, slots=True)
class Record:
    """One run: which program (`kind`), on what machine, by which command, and its points.

    `load` is the machine's load average (1 minute) when it began: with more than a little, others took part.
    """

    kind: str
    machine: str
    command: str
    workers: int
    load: float
    points: tuple[Point, ...]


def write(path: str, record: Record) -> None:
    """Write the record, one point a line, so that two runs can be compared line by line."""
    head = {key: value for key, value in asdict(record).items() if key != "points"}
    lines = ",\n".join(json.dumps(asdict(point)) for point in record.points)
    body = json.dumps(head, indent=1)[:-2]
    Path(path).write_text(f'{body},\n "points": [\n{lines}\n ]\n}}\n')


def read(path: str | Path) -> Record:
    """The record in a file.

    Raises
    ------
    ValueError
        When it is not one.
    """
    try:
        found = json.loads(Path(path).read_text())
        points = tuple(
            Point(**{**one, "seconds": tuple(one["seconds"]), "cpu": tuple(one.get("cpu", ()))})
            for one in found.pop("points")
        )
        return Record(**found, points=points)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was not written by --json of a benchmark: {error!r}") from error


def by_scenario(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points of each scenario, in order."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.scenario, []).append(point)
    return groups
