"""`map_groups` beside `groupby.apply` and `starmap` under pytest-benchmark, grouped by job.

python -m pytest -n 0 benchmarks/test_groups.py --benchmark-enable
"""

from __future__ import annotations

from typing import Any

import pytest

from arrowpool import Pool
from benchmarks.contenders import PROCESSES
from benchmarks.groups import JOBS, WAYS, check

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", JOBS)
def test_groups(benchmark: Any, request: pytest.FixtureRequest, name: str, way: str) -> None:
    job = JOBS[name]
    frame = job.make(1.0)
    benchmark.group = name
    with Pool(PROCESSES) as pool:
        answer = benchmark.pedantic(
            WAYS[way], (pool, job, frame), rounds=request.config.getoption("--rounds"), warmup_rounds=1
        )
    pool.join()
    if way != "starmap":
        check(answer, frame.groupby(job.by).apply(job.function))
