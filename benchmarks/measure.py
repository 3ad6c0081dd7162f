"""The clock: runs contenders in turn, so that whatever else the machine does hits all of them alike.

Called by `compare` and `fresh`. Guarantees: rounds are interleaved (each round runs every contender once, starting with
another one each time); every result is checked, outside the clock; a call slower than `SLOW` seconds is not repeated,
and its first run then counts without a warm-up, which the measurement says.
"""

from __future__ import annotations

import gc
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.contenders import PROCESSES, ROOT, Contender, opened
from benchmarks.scenarios import Scenario, Timing

logger = logging.getLogger(__name__)

SLOW = 4.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds of each timed round of one contender in one scenario; `warmed` is False for a slow one, run once.

    `nbytes` is what the call has to move; 0 where that is next to nothing, or where it was measured in other processes.
    """

    scenario: str
    contender: str
    seconds: tuple[float, ...]
    warmed: bool = True
    failure: str = ""
    nbytes: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


def call_once(contender: Contender, scenario: Scenario, made: object) -> float:
    """Seconds of one call on an open pool over a fresh copy of the inputs; the result is checked afterwards."""
    own = scenario.fresh(made)
    seconds, result = timed(contender, scenario, own)
    contender.check(scenario, own, result)
    return seconds


def timed(contender: Contender, scenario: Scenario, own: object) -> tuple[float, object]:
    """Seconds and result of one call on an open pool over these very inputs."""
    call = contender.prepare(scenario, own)
    gc.collect()
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def open_once(kind: type[Contender], scenario: Scenario, workers: int) -> float:
    """Seconds of making one pool; that it works is checked afterwards."""
    contender = kind(workers)
    gc.collect()
    start = time.perf_counter()
    contender.open()
    seconds = time.perf_counter() - start
    try:
        scenario.check(None, contender)
    finally:
        contender.close()
    return seconds


def first_call(kind: type[Contender], scenario: Scenario, workers: int) -> float:
    """Seconds of the first large call of a new pool, in this process, which must be a new one."""
    made = scenario.inputs()
    with opened(kind(workers)) as contender:
        contender.map(abs, range(-8, 0))
        return call_once(contender, scenario, made)


def first_call_elsewhere(kind: type[Contender], scenario: Scenario, workers: int) -> float:
    """`first_call` in a new interpreter."""
    options = ["--first", "--scale", str(scenario.scale), "--workers", str(workers)]
    command = [sys.executable, "-m", "benchmarks.fresh", scenario.name, kind.name, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])


def measure(
    scenarios: Iterable[Scenario], kinds: Sequence[type[Contender]], *, rounds: int, workers: int = PROCESSES
) -> Iterator[list[Measurement]]:
    """The measurements of one scenario after the other, one per contender that takes part in it."""
    with ExitStack() as stack:
        pools: dict[str, Contender] = {}
        for scenario in scenarios:
            if scenario.timing is Timing.WARM_CALL:
                for kind in kinds:
                    if kind.name not in pools:
                        pools[kind.name] = stack.enter_context(opened(kind(workers)))
                yield _warm(scenario, [pools[kind.name] for kind in kinds], rounds)
            else:
                yield _new(scenario, kinds, rounds, workers)


def _warm(scenario: Scenario, contenders: Sequence[Contender], rounds: int) -> list[Measurement]:
    made = scenario.inputs()
    seconds: dict[str, list[float]] = {}
    nbytes = scenario.copied_bytes(made) if scenario.copied_bytes else 0
    slow: set[str] = set()
    failures: dict[str, str] = {}
    taking_part = [contender for contender in contenders if contender.takes(scenario)]
    for turn in range(-1, rounds):
        shift = turn % len(taking_part)
        for contender in taking_part[shift:] + taking_part[:shift]:
            if contender.name in slow or contender.name in failures:
                continue
            try:
                took = call_once(contender, scenario, made)
                logger.info("%s, round %d, %s: %.4f s", scenario.name, turn, contender.name, took)
            except Exception as error:
                failures[contender.name] = f"{type(error).__name__}: {error}"
                continue
            if turn >= 0:
                seconds[contender.name].append(took)
            elif took > SLOW:
                slow.add(contender.name)
                seconds[contender.name] = [took]
            else:
                seconds[contender.name] = []
    return [
        Measurement(
            scenario.name,
            contender.name,
            tuple(seconds.get(contender.name, ())),
            warmed=contender.name not in slow,
            failure=failures.get(contender.name, ""),
            nbytes=nbytes,
        )
        for contender in taking_part
    ]


def _new(scenario: Scenario, kinds: Sequence[type[Contender]], rounds: int, workers: int) -> list[Measurement]:
    once = open_once if scenario.timing is Timing.OPEN else first_call_elsewhere
    seconds: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    taking_part = [kind for kind in kinds if kind().takes(scenario)]
    for turn in range(rounds):
        shift = turn % len(taking_part)
        for kind in taking_part[shift:] + taking_part[:shift]:
            times = seconds.setdefault(kind.name, [])
            if kind.name in failures or (times and times[0] > SLOW):
                continue
            try:
                times.append(once(kind, scenario, workers))
            except Exception as error:
                failures[kind.name] = f"{type(error).__name__}: {error}"
    return [
        Measurement(scenario.name, kind.name, tuple(seconds[kind.name]), failure=failures.get(kind.name, ""))
        for kind in taking_part
    ]
