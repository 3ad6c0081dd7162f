"""Peak memory of a contender at work: `python -m benchmarks.memory [--scenario NAME ...] [--contenders A,B]`.

Each contender runs in a new process tree, which is watched from outside. Columns, in MB, above what stood there when
the inputs were made and the pool was open and had answered a tiny task:

parent, workers   peak resident memory (RSS) of the first process, and of all others together. A shared page counts in
                  both.
shared            peak bytes really held by shared files (memfd and /dev/shm), each once.
total             peak of private memory (PSS without shared files) of all processes, and the shared bytes once. This is
                  what the machine has to have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import record
from benchmarks.command import begin, new_parser
from benchmarks.contenders import PROCESSES, ROOT, Memcpy, choose
from benchmarks.scenarios import by_name, scaled, titled

logger = logging.getLogger(__name__)

SCENARIOS = (
    "frame_in",
    "frame_there_and_back",
    "mixed_there_and_back",
    "arrow_slices",
    "numpy_arrays",
    "partial_frame",
)
INTERVAL = 0.01
SHM = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes at one moment, or the highest of each over some time."""

    parent: int = 0
    workers: int = 0
    shared: int = 0
    total: int = 0

    def highest(self, other: Sample) -> Sample:
        return Sample(
            max(self.parent, other.parent),
            max(self.workers, other.workers),
            max(self.shared, other.shared),
            max(self.total, other.total),
        )

    def above(self, base: Sample) -> Sample:
        return Sample(
            self.parent - base.parent,
            self.workers - base.workers,
            self.shared - base.shared,
            self.total - base.total,
        )


def sample(root: psutil.Process, ignored: frozenset[tuple[int, int]]) -> Sample:
    """The process tree now. `ignored` are the shared files that others had made before."""
    parent = workers = private = 0
    files: dict[tuple[int, int], int] = dict(_files_in_shm())
    for process in [root, *root.children(recursive=True)]:
        try:
            figures = _rollup(process.pid)
            files.update(_shared_files(process.pid))
        except OSError:
            continue  # it has just ended
        private += figures.get("Pss_Anon", 0) + figures.get("Pss_File", 0)
        if process.pid == root.pid:
            parent = figures.get("Rss", 0)
        else:
            workers += figures.get("Rss", 0)
    shared = sum(size for key, size in files.items() if key not in ignored)
    return Sample(parent, workers, shared, private + shared)


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _shared_files(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/fd/{name}"
            if os.readlink(path).startswith(("/memfd:", "/dev/shm/")):
                found = os.stat(path)
                yield (found.st_dev, found.st_ino), found.st_blocks * 512


def _files_in_shm() -> Iterator[tuple[tuple[int, int], int]]:
    for path in SHM.rglob("*") if SHM.is_dir() else ():
        with contextlib.suppress(OSError):
            found = path.stat()
            yield (found.st_dev, found.st_ino), found.st_blocks * 512


class Watch(threading.Thread):
    """Samples a process tree until stopped. Its one state is the highest sample so far, which is `base` at first."""

    def __init__(self, pid: int, ignored: frozenset[tuple[int, int]], base: Sample):
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.ignored = ignored
        self.peak = base
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(INTERVAL):
            with contextlib.suppress(psutil.Error):
                self.peak = self.peak.highest(sample(self.root, self.ignored))

    def stop(self) -> Sample:
        self.stopped.set()
        self.join()
        return self.peak


def peak_of(scenario: str, contender: str, *, rounds: int, scale: float = 1.0, workers: int = PROCESSES) -> Sample:
    """The peak of one contender in one scenario, in a process tree of its own."""
    ignored = frozenset(key for key, _ in _files_in_shm())
    options = ["--rounds", str(rounds), "--scale", str(scale), "--workers", str(workers), "--wait"]
    command = [sys.executable, "-m", "benchmarks.fresh", scenario, contender, *options]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        _read_until("ready", process.stdout)
        # It waits now: nothing of the work is in the base, and nothing of the work is missed.
        base = sample(psutil.Process(process.pid), ignored)
        watch = Watch(process.pid, ignored, base)
        watch.start()
        try:
            process.stdin.write("go\n")
            process.stdin.flush()
            _read_until("seconds", process.stdout)
        finally:
            peak = watch.stop()
    if process.returncode:
        raise RuntimeError(f"{contender} failed after {scenario}: exit code {process.returncode}")
    return peak.above(base)


def _read_until(word: str, lines: Iterable[str]) -> None:
    for line in lines:
        if line.startswith("{") and word in json.loads(line):
            return
    raise RuntimeError(f"the process that is measured ended before it was {word}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = new_parser(
        "Peak memory, compared with the standard library's.",
        contenders="stdlib,arrowpool",
        rounds=3,
        a_round="calls in a row",
    )
    parser.add_argument("--scenario", nargs="+", default=SCENARIOS, metavar="NAME")
    run = begin("memory", parser, argv)
    arguments = run.arguments
    try:
        scenarios = [by_name(name) for name in arguments.scenario]
        kinds = [kind for kind in choose(arguments.contenders) if kind is not Memcpy]
    except LookupError as error:
        parser.error(str(error.args[0]))
    rows = [["scenario", "contender", "parent", "workers", "shared", "total"]]
    points = []
    for scenario in scenarios:
        for kind in kinds:
            if not kind().takes(scenario):
                continue
            peak = peak_of(scenario.name, kind.name, rounds=arguments.rounds, scale=arguments.scale)
            logger.info("%s: %s takes %.0f MB", scenario.name, kind.name, peak.total / 1e6)
            figures = (peak.parent, peak.workers, peak.shared, peak.total)
            rows.append([scenario.name, kind.name, *(f"{figure / 1e6:.0f}" for figure in figures)])
            points.append(
                record.Point(
                    scenario=scenario.name,
                    title=titled(scaled(scenario, arguments.scale)),
                    contender=kind.name,
                    peak=dataclasses.asdict(peak),
                )
            )
    print(run.show(rows))
    print(
        "\nPeak MB above the open pool and its inputs. Parent and workers: RSS, so a shared page counts in each; "
        "total: private memory of all, and shared bytes once."
    )
    run.write(kinds, points)


if __name__ == "__main__":
    main()
