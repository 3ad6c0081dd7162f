"""A frame from one process to another under pytest-benchmark: each way that `benchmarks.shelf` compares, put and get.

python -m pytest -n 0 benchmarks/test_shelf.py --benchmark-enable [--shelf-mb=1000] [--rounds=5] [-k "numbers and shelf"]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.shelf import FRAMES, MB, WAYS, Way, readers, sums


@pytest.fixture(scope="module", params=FRAMES)
def frame(request: pytest.FixtureRequest) -> Any:
    return FRAMES[request.param](request.config.getoption("--shelf-mb") * MB)


@pytest.mark.parametrize("way", WAYS, ids=lambda kind: kind.name)
def test_put(benchmark: Any, request: pytest.FixtureRequest, frame: Any, way: type[Way]) -> None:
    one, tokens = way(), []

    def drop_last() -> None:
        while tokens:
            one.drop(tokens.pop())

    benchmark.group = f"put, {request.node.callspec.params['frame']}"
    rounds = request.config.getoption("--rounds")
    benchmark.pedantic(lambda: tokens.append(one.put(frame)), setup=drop_last, rounds=rounds, warmup_rounds=1)
    drop_last()


@pytest.mark.parametrize("way", WAYS, ids=lambda kind: kind.name)
def test_get(benchmark: Any, request: pytest.FixtureRequest, frame: Any, way: type[Way]) -> None:
    """From another process, whose own clock is noted too: pytest-benchmark's sees the question and the check as well."""
    one, seconds = way(), []
    token = one.put(frame)
    expected = sums(frame)
    benchmark.group = f"get and look at all of it, {request.node.callspec.params['frame']}"
    with readers(1) as (reader,):

        def get() -> None:
            got, seen = reader.ask("get", one.name, token)
            seconds.append(got)
            assert np.allclose(seen, expected)

        benchmark.pedantic(get, rounds=request.config.getoption("--rounds"), warmup_rounds=1)
    one.drop(token)
    benchmark.extra_info["seconds of get alone"] = seconds[1:]
