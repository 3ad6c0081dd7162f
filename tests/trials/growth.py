"""A growth meter: runs a scenario for a while and says what has grown that should be flat.

    python -m tests.trials.growth "workers replaced" --seconds 60

A scenario is a generator function: each `next` is one step of a program, which yields the pools to look at. It runs in a child
process. What is measured of it and of its workers must be flat after a warm-up: descriptors, threads, maps, shared bytes,
private memory, garbage-collected objects, and the sizes of all tables that are reachable from a module of the package or from
the pool. By a slope that single samples cannot sway (the median of the slopes of all pairs, Theil and Sen's), not the
first against the last. Calls per second are reported, and not judged: the machine has other things to do.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import contextlib
import gc
import multiprocessing
import multiprocessing.process
import multiprocessing.util
import os
import queue
import statistics
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import psutil

from arrowpool import TaskTimeoutError, WorkerLostError
from tests.trials import child

MIB = 1 << 20
SAMPLES = 24
#: The first of them do not count: caches fill, memory gets warm, libraries are imported. Only the last of these is taken, so
#: that looking, too, has been done once.
WARM_UP = 8
#: How much may be more at the end than after the warm-up: what is smaller is noise. All tables have the last figure.
TOLERANCES = {
    "descriptors": 3,
    "threads": 1,
    "maps": 12,
    "shared MB": 24,
    "private MB": 24,
    "objects": 2_000,
    "worker descriptors": 3,
    "worker threads": 1,
    "worker maps": 12,
    "worker private MB": 24,
    "processes": 1,
}
TABLE_TOLERANCE = 8
#: Tables that have a bound, and may grow up to it.
BOUNDED = {"Metrics._ended": 100, "_Consumer.free_slots": 100}

_CONTAINERS = (
    dict,
    list,
    set,
    collections.deque,
    weakref.WeakSet,
    weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary,
)
_SLICE_OF_ELEMENTS = 64

Scenario = Callable[[], Iterator[Any]]


@dataclass
class Report:
    """Samples of one scenario: by measure, one value for each point of time."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    allowed: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Report {self.steps[-1]} steps>"

    def growth(self, measure: str) -> float:
        """By how much a measure has grown since the warm-up, going by its slope."""
        values = self.samples[measure][WARM_UP:]
        pairs = list(combinations(range(len(values)), 2))
        slope = statistics.median((values[b] - values[a]) / (b - a) for a, b in pairs)
        return slope * (len(values) - 1)

    def growing(self) -> dict[str, str]:
        """What has grown by more than it may, with its samples."""
        found = {}
        for measure, values in self.samples.items():
            grown = self.growth(measure)
            allowed = {**TOLERANCES, **BOUNDED, **self.allowed}
            tolerance = allowed.get(measure.removeprefix("worker's "), TABLE_TOLERANCE)
            if grown > tolerance:
                found[measure] = (
                    f"+{grown:.4g} in {self.steps[-1] - self.steps[WARM_UP]} steps: {[round(v, 1) for v in values]}"
                )
        return found

    def speeds(self) -> tuple[float, float]:
        """Steps per second, in the first and in the last third after the warm-up."""
        third = (len(self.steps) - WARM_UP) // 3
        points = list(zip(self.steps, self.seconds, strict=True))[WARM_UP:]
        return tuple(
            (end[0] - start[0]) / max(end[1] - start[1], 1e-9)
            for start, end in ((points[0], points[third]), (points[-third - 1], points[-1]))
        )

    def __str__(self) -> str:
        early, late = self.speeds()
        lines = [
            f"{self.steps[-1]} steps in {self.seconds[-1]:.1f} s; {early:.0f}, at the end {late:.0f} steps per second"
        ]
        for measure, values in self.samples.items():
            if measure in TOLERANCES or values[-1] != values[WARM_UP]:
                lines.append(
                    f"  {measure:40} {values[WARM_UP]:10.1f} -> {values[-1]:10.1f}  (slope: {self.growth(measure):+.2f})"
                )
        return "\n".join(lines)


def measure(
    scenario: Scenario, *, steps: int | None = None, seconds: float | None = None, allowed=None, limit=60.0
) -> Report:
    """Run a scenario in a child, for so many steps or seconds, and report on it.

    `allowed` says by how much a measure may grow that has a bound of its own: a cache, say.
    """
    outcome = child.run(_measure, scenario, steps, seconds, limit=limit + 2 * (seconds or 0))
    report = outcome.get()
    report.allowed = dict(allowed or {})
    return report


def _measure(scenario, steps, seconds):
    report = Report()
    began = time.monotonic()
    looked = 0.0
    running = scenario()
    done = 0
    for number in range(SAMPLES):
        while True:
            pools = next(running)
            done += 1
            if steps is not None:
                if done >= steps * (number + 1) // SAMPLES:
                    break
            elif time.monotonic() - began - looked >= seconds * (number + 1) / SAMPLES:
                break
        now = time.monotonic()
        report.steps.append(done)
        report.seconds.append(now - began - looked)
        found = _look(pools or ()) if number >= WARM_UP - 1 else {}
        for name, value in found.items():
            report.samples.setdefault(name, [0] * number).append(value)
        for values in report.samples.values():
            values += [0] * (number + 1 - len(values))
        looked += time.monotonic() - now
    running.close()
    return report


def _lives(process: psutil.Process) -> bool:
    """Whether a process that was just listed has not ended since: workers are replaced meanwhile."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _look(pools) -> dict[str, float]:
    """All measures, of this process and its children."""
    gc.collect()
    me = psutil.Process()
    workers = [process for process in me.children(recursive=True) if _lives(process)]
    found: dict[str, float] = {
        "descriptors": _descriptors(me.pid),
        "threads": threading.active_count(),
        "maps": _maps(me.pid),
        "shared MB": _shared([me.pid, *(worker.pid for worker in workers)]) / MIB,
        "private MB": _private(me.pid) / MIB,
        "objects": len(gc.get_objects()),
        "processes": len(workers),
    }
    most: dict[str, float] = {}
    for worker in workers:
        with contextlib.suppress(psutil.Error, OSError):
            seen = {
                "worker descriptors": _descriptors(worker.pid),
                "worker threads": worker.num_threads(),
                "worker maps": _maps(worker.pid),
                "worker private MB": _private(worker.pid) / MIB,
            }
            most = {name: max(value, most.get(name, 0)) for name, value in seen.items()}
    found |= most
    found |= tables(*pools)
    for pool in pools:
        if getattr(pool, "_state", None) == "RUN":
            with contextlib.suppress(
                WorkerLostError, TaskTimeoutError
            ):  # it may have been killed, or have too little time
                for answer in pool.map_async(_tables_there, range(2 * pool._processes), 1).get(30):
                    for name, size in answer.items():
                        found[f"worker's {name}"] = max(size, found.get(f"worker's {name}", 0))
    return found


def _tables_there(_):
    gc.collect()
    return {name: size for name, size in tables().items() if size}


def _descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def _maps(pid):
    with open(f"/proc/{pid}/maps") as file:
        return sum(1 for _ in file)


def _private(pid):
    with open(f"/proc/{pid}/status") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def _shared(pids):
    """Bytes of all files in memory that these processes have open."""
    files = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = f"/proc/{pid}/fd/{fd}"
                    if "arrowpool" in os.readlink(path):
                        state = os.stat(path)
                        files[state.st_dev, state.st_ino] = state.st_blocks * 512
    return sum(files.values())


def tables(*roots) -> dict[str, int]:
    """Sizes of all containers that are reachable from the package's modules, from these objects, and of some of Python's own.

    By where they are: the module or class, and the attribute. Of objects of one class all are added up.
    """
    sizes: collections.Counter[str] = collections.Counter(
        {
            "weakref.finalize": len(weakref.finalize._registry),
            "multiprocessing finalizers": len(multiprocessing.util._finalizer_registry),
            "multiprocessing after fork": len(multiprocessing.util._afterfork_registry),
            "multiprocessing children": len(multiprocessing.process._children),
            "atexit": atexit._ncallbacks(),
            "modules": len(sys.modules),
        }
    )
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if name == "arrowpool" or name.startswith("arrowpool."):
            for attribute, value in list(vars(module).items()):
                if not attribute.startswith("__"):
                    _count(f"{name}.{attribute}", value, sizes, seen)
    for root in roots:
        _count(type(root).__name__, root, sizes, seen)
    return dict(sizes)


def _count(name, value, sizes, seen):
    if id(value) in seen:
        return
    if isinstance(value, _CONTAINERS):
        seen.add(id(value))
        sizes[name] += len(value)
        for element in _elements(value)[:_SLICE_OF_ELEMENTS]:
            if _is_ours(element):
                _count(type(element).__name__, element, sizes, seen)
    elif isinstance(value, (queue.SimpleQueue, queue.Queue)):
        sizes[name] += value.qsize()
    elif _is_ours(value):
        seen.add(id(value))
        slots = [slot for cls in type(value).__mro__ for slot in getattr(cls, "__slots__", ())]
        names = [*getattr(value, "__dict__", ()), *slots]
        for attribute in names:
            if attribute not in ("__weakref__", "__dict__"):
                _count(f"{type(value).__name__}.{attribute}", getattr(value, attribute, None), sizes, seen)


def _elements(container):
    """Its elements now. A thread of a pool may change it meanwhile."""
    while True:
        try:
            return list(container.values()) if hasattr(container, "values") else list(container)
        except RuntimeError:
            continue


def _is_ours(value):
    return not isinstance(value, type) and type(value).__module__.startswith("arrowpool")


def main():
    from tests.trials.scenarios import SCENARIOS

    parser = argparse.ArgumentParser(description="Run a scenario and say what grows.")
    parser.add_argument("scenario", nargs="*", choices=[[], *SCENARIOS], help="all of them without this")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    for name in given.scenario or SCENARIOS:
        print(f"== {name}", flush=True)
        try:
            report = measure(SCENARIOS[name].run, seconds=given.seconds, allowed=SCENARIOS[name].allowed)
        except AssertionError as error:
            print(error)
            continue
        print(report)
        for measure_name, text in report.growing().items():
            print(f"GROWS  {measure_name}: {text}")


if __name__ == "__main__":
    main()
