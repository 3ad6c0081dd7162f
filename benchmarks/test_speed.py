"""Each scenario by each contender under pytest-benchmark, grouped by scenario.

    python -m pytest -n 0 benchmarks --benchmark-enable [--contenders=stdlib,arrowpool,memcpy] [--rounds=5] [-k frame_in]

Here contenders run one after the other, with statistics that can be saved and compared between versions;
`python -m benchmarks.compare` runs them in turn and is what the table of the README is made with.
"""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest

from benchmarks.contenders import Contender, opened
from benchmarks.measure import SLOW, call_once
from benchmarks.scenarios import Scenario, Timing

# The peers' own warnings are not ours to fix; the slowest call of the standard library takes half a minute.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


def test_speed(benchmark: Any, request: pytest.FixtureRequest, scenario: Scenario, kind: type[Contender]) -> None:
    rounds = request.config.getoption("--rounds")
    benchmark.group = scenario.name
    benchmark.extra_info["contender"] = kind.name
    if scenario.timing is Timing.OPEN:
        _bench_open(benchmark, scenario, kind, rounds)
        return
    made = scenario.inputs()
    with opened(kind()) as contender:
        start = time.perf_counter()
        call_once(contender, scenario, made)
        if time.perf_counter() - start > SLOW:
            rounds = 1
        inputs: list[Any] = []

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            inputs[:] = [scenario.fresh(made)]
            gc.collect()
            return (contender.prepare(scenario, inputs[0]),), {}

        result = benchmark.pedantic(lambda call: call(), setup=setup, rounds=rounds)
        contender.check(scenario, inputs[0], result)


def _bench_open(benchmark: Any, scenario: Scenario, kind: type[Contender], rounds: int) -> None:
    made: list[Contender] = []

    def close_last() -> None:
        while made:
            made.pop().close()

    def make() -> Contender:
        contender = kind()
        contender.open()
        made.append(contender)
        return contender

    try:
        scenario.check(None, benchmark.pedantic(make, setup=close_last, rounds=rounds))
    finally:
        close_last()
