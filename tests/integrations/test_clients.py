"""What other libraries compute with our pool is what they compute with the standard library's."""

from __future__ import annotations

import multiprocessing
import operator
import random
import threading

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool.executor.executor import ProcessPoolExecutor
from arrowpool.patching import install, uninstall
from tests.integrations.conftest import library

pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs


def both(compute):
    """`compute` with a pool of each kind."""
    with multiprocessing.Pool(2) as pool:
        expected = compute(pool)
    pool.join()
    with arrowpool.Pool(2) as pool:
        computed = compute(pool)
        assert pool.stats().tasks > 0  # it was this pool that did it
    pool.join()
    return expected, computed


def log_density(x, precision):
    return -0.5 * float(np.sum(precision * x**2))


def test_emcee():
    emcee = library("emcee")

    def sample(pool):
        start = np.random.default_rng(1).normal(size=(12, 3))
        np.random.seed(4)  # emcee draws from the global generator
        sampler = emcee.EnsembleSampler(12, 3, log_density, pool=pool, args=[np.array([1.0, 2.0, 3.0])])
        sampler.run_mcmc(start, 15)
        return sampler.get_chain()

    expected, computed = both(sample)
    assert expected.std() > 0
    np.testing.assert_array_equal(computed, expected)


def test_scipy_differential_evolution():
    optimize = library("scipy.optimize")

    def minimize(pool):
        return optimize.differential_evolution(
            optimize.rosen, [(-2, 2)] * 3, workers=pool.map, updating="deferred", seed=1, maxiter=10, polish=False
        )

    expected, computed = both(minimize)
    assert expected.nfev == computed.nfev > 100
    np.testing.assert_array_equal(computed.x, expected.x)


def test_dask_with_a_pool():
    dask = library("dask")
    frame = pd.DataFrame({"x": np.arange(100_000.0)})

    def compute(pool):
        parts = [dask.delayed(frame.iloc[i : i + 20_000])["x"].sum() for i in range(0, 100_000, 20_000)]
        return dask.compute(dask.delayed(sum)(parts), parts[0], scheduler="processes", pool=pool)

    expected, computed = both(compute)
    assert computed == expected == (frame.x.sum(), frame.x[:20_000].sum())


@pytest.mark.parametrize("way", ["scheduler", "pool"])
def test_dask_with_an_executor(way):
    dask = library("dask")
    delayed = dask.delayed(sum)([dask.delayed(pow)(i, 2) for i in range(20)])
    with ProcessPoolExecutor(2) as executor:
        where = {"scheduler": executor} if way == "scheduler" else {"scheduler": "processes", "pool": executor}
        assert dask.compute(delayed, **where) == (sum(i**2 for i in range(20)),)
        assert executor._closer.pool.stats().tasks > 0


def test_backtesting(monkeypatch):
    backtesting = library("backtesting")
    # Its own lock is one for all processes, which a worker keeps for ever that is terminated while it holds it.
    monkeypatch.setattr(library("tqdm.auto").tqdm, "_lock", threading.RLock(), raising=False)
    crossing = library("tests.integrations.crossing")
    walk = np.random.default_rng(2).normal(size=400).cumsum() + 100
    prices = pd.DataFrame({"Open": walk, "High": walk + 1, "Low": walk - 1, "Close": walk})
    prices.index = pd.date_range("2020-01-01", periods=400)

    def optimize():
        test = backtesting.Backtest(prices, crossing.Crossing, cash=10_000, finalize_trades=True)
        return test.optimize(window=range(3, 40, 3), maximize="Return [%]", return_heatmap=True)[1]

    usual = backtesting.Pool
    made = []

    def ours():
        made.append(arrowpool.Pool(2))
        return made[-1]

    expected = optimize()
    backtesting.Pool = ours
    try:
        computed = optimize()
    finally:
        backtesting.Pool = usual
    assert made[0].stats().tasks > 0
    made[0].join()
    assert expected.nunique() > 3
    pd.testing.assert_series_equal(computed, expected)


def test_tsfresh():
    library("tsfresh")
    extraction = library("tsfresh.feature_extraction")
    distribution = library("tsfresh.utilities.distribution")

    class PoolDistributor(distribution.IterableDistributorBaseClass):
        """What tsfresh's documentation tells one to write."""

        def __init__(self, pool):
            self.n_workers = 2
            self.progressbar_title = "features"
            self.disable_progressbar = True
            self.pool = pool

        def distribute(self, func, partitioned_chunks, kwargs):
            from functools import partial

            return self.pool.imap_unordered(partial(func, **kwargs), partitioned_chunks)

    series = pd.DataFrame(
        {
            "id": np.repeat(range(6), 50),
            "time": np.tile(range(50), 6),
            "value": np.random.default_rng(3).normal(size=300),
        }
    )

    def extract(pool):
        return extraction.extract_features(
            series,
            column_id="id",
            column_sort="time",
            default_fc_parameters=extraction.MinimalFCParameters(),
            distributor=PoolDistributor(pool),
        )

    expected, computed = both(extract)
    assert expected.shape == (6, 10)
    pd.testing.assert_frame_equal(computed, expected)


def test_unmodified_tsfresh():
    """Its own distributor says `multiprocessing.Pool`."""
    library("tsfresh")
    distribution = library("tsfresh.utilities.distribution")
    install()
    try:
        distributor = distribution.MultiprocessingDistributor(2, disable_progressbar=True)
        assert isinstance(distributor.pool, arrowpool.ArrowPool)
        assert sorted(distributor.map_reduce(absolutes, [-3, -2, -1], chunk_size=2)) == [1, 2, 3]
        distributor.close()
    finally:
        uninstall()


def absolutes(value):
    return [abs(value)]


def test_pymoo():
    library("pymoo")
    sphere = library("tests.integrations.sphere")
    starmap = library("pymoo.parallelization.starmap")
    genetic = library("pymoo.algorithms.soo.nonconvex.ga")
    optimize = library("pymoo.optimize")

    def minimize(pool):
        runner = starmap.StarmapParallelization(pool.starmap)
        return optimize.minimize(
            sphere.Sphere(elementwise_runner=runner), genetic.GA(pop_size=20), ("n_gen", 5), seed=1
        )

    expected, computed = both(minimize)
    assert expected.F[0] < 2
    np.testing.assert_array_equal(computed.X, expected.X)
    np.testing.assert_array_equal(computed.F, expected.F)


def test_deap():
    base, creator = library("deap.base"), library("deap.creator")
    algorithms, tools = library("deap.algorithms"), library("deap.tools")
    if not hasattr(creator, "OurFitness"):
        creator.create("OurFitness", base.Fitness, weights=(1.0,))
        creator.create("OurIndividual", list, fitness=creator.OurFitness)

    def evolve(pool):
        random.seed(5)
        toolbox = base.Toolbox()
        toolbox.register("bit", random.randint, 0, 1)
        toolbox.register("individual", tools.initRepeat, creator.OurIndividual, toolbox.bit, 30)
        toolbox.register("population", tools.initRepeat, list, toolbox.individual)
        toolbox.register("evaluate", ones)
        toolbox.register("mate", tools.cxTwoPoint)
        toolbox.register("mutate", tools.mutFlipBit, indpb=0.05)
        toolbox.register("select", tools.selTournament, tournsize=3)
        toolbox.register("map", pool.map)
        return algorithms.eaSimple(toolbox.population(n=30), toolbox, 0.5, 0.2, 8, verbose=False)[0]

    expected, computed = both(evolve)
    assert computed == expected
    assert [one.fitness.values for one in computed] == [one.fitness.values for one in expected]
    assert max(map(sum, computed)) > 20


def ones(individual):
    return (sum(individual),)


def test_tqdm():
    tqdm = library("tqdm")

    def counted(pool):
        with tqdm.tqdm(pool.imap(abs, range(-20, 0)), total=20, disable=None, leave=False) as bar:
            return list(bar)

    expected, computed = both(counted)
    assert computed == expected == list(range(20, 0, -1))


def test_tqdm_with_an_executor(monkeypatch):
    concurrent = library("tqdm.contrib.concurrent")
    tasks = []

    class Counted(ProcessPoolExecutor):
        def shutdown(self, **kwargs):
            super().shutdown(**kwargs)
            tasks.append(self._closer.pool.stats().tasks)

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Counted)
    negative = concurrent.process_map(operator.neg, range(9), max_workers=2, chunksize=2, leave=False)
    assert negative == [-i for i in range(9)]
    assert tasks == [5]


def test_adaptive():
    adaptive = library("adaptive")
    with ProcessPoolExecutor(2) as executor:
        learner = adaptive.Learner1D(peak, bounds=(-1, 1))
        adaptive.BlockingRunner(learner, npoints_goal=25, executor=executor, shutdown_executor=False)
        assert executor._closer.pool.stats().tasks >= 25
    assert 25 <= len(learner.data) <= 28
    assert all(value == peak(x) for x, value in learner.data.items())


def peak(x):
    return x + 0.01 / (0.01 + x**2)
