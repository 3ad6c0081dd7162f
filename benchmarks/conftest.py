"""Options of the benchmarks: `--contenders=stdlib,arrowpool` picks who competes."""

from __future__ import annotations

import pytest

from benchmarks.contenders import choose, quiet_peers
from benchmarks.jobs import USUAL
from benchmarks.real_jobs import JOBS
from benchmarks.scenarios import SCENARIOS, Timing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contenders", default=None, help="comma separated; default: all that are installed")
    parser.addoption("--shelf-mb", type=int, default=1000, help="megabytes of the frame on the shelf (default 1000)")
    parser.addoption("--rounds", type=int, default=5, help="timed rounds after one warm-up (default 5)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" not in metafunc.fixturenames:
        return
    quiet_peers()
    wanted = metafunc.config.getoption("--contenders")
    fields = [(SCENARIOS, choose(wanted)), (JOBS, choose(wanted or USUAL))]
    # A first call needs a new interpreter each time: `python -m benchmarks.compare` measures it.
    pairs = [
        pytest.param(scenario, kind, id=f"{scenario.name}-{kind.name}")
        for scenarios, kinds in fields
        for scenario in scenarios
        if scenario.timing is not Timing.FIRST_CALL
        for kind in kinds
        if kind().takes(scenario)
    ]
    metafunc.parametrize(("scenario", "kind"), pairs)
