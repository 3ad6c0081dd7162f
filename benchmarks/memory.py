"""Peak memory of a contender at work: `python -m benchmarks.memory [--scenario NAME ...] [--contenders A,B]`.

Each contender runs in a new process tree, which is watched from outside. Columns, in MB, above what stood there when
the inputs were made and the pool was open:

parent, workers   peak resident memory (RSS) of the first process, and of all others together. A shared page counts in
                  both.
shared            peak bytes really held by shared files (memfd and /dev/shm), each once.
total             peak of private memory (PSS without shared files) of all processes, and the shared bytes once. This is
                  what the machine has to have.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.compare import aligned, markdown
from benchmarks.contenders import ROOT, choose
from benchmarks.scenarios import by_name

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
    """Samples a process tree until stopped. Its one state is the highest sample so far."""

    def __init__(self, pid: int, ignored: frozenset[tuple[int, int]]):
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.ignored = ignored
        self.peak = Sample()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(INTERVAL):
            with contextlib.suppress(psutil.Error):
                self.peak = self.peak.highest(sample(self.root, self.ignored))

    def stop(self) -> Sample:
        self.stopped.set()
        self.join()
        return self.peak


def peak_of(scenario: str, contender: str, *, rounds: int) -> Sample:
    """The peak of one contender in one scenario, in a process tree of its own."""
    ignored = frozenset(key for key, _ in _files_in_shm())
    command = [sys.executable, "-m", "benchmarks.fresh", scenario, contender, "--rounds", str(rounds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line).get("ready"):
                break
        else:
            raise RuntimeError(f"{contender} did not become ready")
        time.sleep(0.2)
        base = sample(psutil.Process(process.pid), ignored)
        watch = Watch(process.pid, ignored)
        watch.start()
        process.stdin and process.stdin.close()
        for line in process.stdout:
            if line.startswith("{") and "seconds" in json.loads(line):
                break
        peak = watch.stop()
    return peak.above(base)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Peak memory beside the standard library's.")
    parser.add_argument("--scenario", nargs="+", default=SCENARIOS, metavar="NAME")
    parser.add_argument("--contenders", default="stdlib,arrowpool", metavar="A,B")
    parser.add_argument("--rounds", type=int, default=3, help="calls in a row (default 3)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    arguments = parser.parse_args(argv)
    try:
        names = [by_name(name).name for name in arguments.scenario]
        contenders = [kind.name for kind in choose(arguments.contenders)]
    except LookupError as error:
        parser.error(str(error.args[0]))
    rows = [["scenario", "contender", "parent", "workers", "shared", "total"]]
    for scenario in names:
        for contender in contenders:
            peak = peak_of(scenario, contender, rounds=arguments.rounds)
            figures = (peak.parent, peak.workers, peak.shared, peak.total)
            rows.append([scenario, contender, *(f"{figure / 1e6:.0f}" for figure in figures)])
    print(markdown(rows) if arguments.markdown else aligned(rows))
    print(
        "\nPeak MB above the open pool and its inputs. Parent and workers: RSS, so a shared page counts in each; "
        "total: private memory of all, and shared bytes once."
    )


if __name__ == "__main__":
    main()
