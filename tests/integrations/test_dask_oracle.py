"""The random programs of `tests.trials.test_oracle`, with a cluster's pool in place of the local one.

ARROWPOOL_ORACLE_SECONDS=600 python -m pytest -n 0 tests/integrations/test_dask_oracle.py
"""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest

from tests.integrations.conftest import library
from tests.trials.test_oracle import SECONDS, SEED, STEPS, WORKERS, Author, run_steps, spelled

distributed = library("distributed")
ours = library("arrowpool.integrations.dask")

#: Steps that need a pool's own processes, or a process without the threads of Dask's client.
_LOCAL = {"kill", "fork", "end_child"}


@pytest.fixture(scope="module")
def pools():
    with (
        multiprocessing.get_context("spawn").Pool(WORKERS) as theirs,
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", memory_limit=0, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
        ours.Pool(client) as pool,
    ):
        yield theirs, pool
        pool.terminate()
        pool.join()


@pytest.fixture(autouse=True)
def _census():
    """In place of the one for all tests: Dask's client keeps connections and threads."""


@pytest.mark.filterwarnings(r"ignore:\s*A value is trying to be set on a copy of a slice")
@pytest.mark.timeout(SECONDS + 120)
def test_every_answer_is_that_of_the_standard_librarys_pool(pools):
    print(f"ARROWPOOL_ORACLE_SEED={SEED}")
    until, rng, count = time.monotonic() + SECONDS, random.Random(SEED), 0
    while not count or time.monotonic() < until:
        program = [step for step in Author(rng.randrange(1 << 32)).program(STEPS) if step[0] not in _LOCAL]
        count += 1
        try:
            run_steps(program, *pools)
        except AssertionError as error:
            raise AssertionError(f"program {count} of seed {SEED}: {error}\n{spelled(program)}") from error
    print(f"{count} programs")
