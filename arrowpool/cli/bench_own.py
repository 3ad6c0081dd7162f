"""``python -m arrowpool bench --function``: the user's own function on the user's own file, by every way that is installed.

Called by `bench`. Guarantees that all ways compute the same: every result is compared with that of the plain loop.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd

import arrowpool
from arrowpool.cli.bench_advice import advice, show_gain, undecided
from arrowpool.cli.bench_runner import Contestant, Job, Measured
from arrowpool.stats import aligned
from arrowpool.verdict import NOISE

#: Parts for each worker, as `map_groups` and `map_frame` cut.
_PARTS_FOR_A_WORKER = 4

Function = Callable[[Any], Any]


def function_named(name: str) -> Function:
    """The function that ``module:name`` says.

    Raises
    ------
    ValueError
        When there is none.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ValueError(f"--function takes MODULE:NAME, such as mymodule:features, not {name!r}")
    if not {"", os.getcwd()} & set(sys.path):  # of a script that is installed, such as `arrowpool`
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"the module {module!r} cannot be imported: {error}") from error
        raise ValueError(f"there is no module {module!r} in this directory or in PYTHONPATH") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"the module {module!r} has no {path!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name!r} is not a function")
    return found  # type: ignore[no-any-return]


class _Joblib:
    """joblib with its default backend, kept open, with the ``map`` of a pool."""

    def __init__(self, workers: int):
        self._joblib: Any = importlib.import_module("joblib")
        self._parallel = self._joblib.Parallel(n_jobs=workers, backend="loky").__enter__()

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        task = self._joblib.delayed(function)
        return list(self._parallel(task(item) for item in items))

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)
        loky = importlib.import_module("joblib.externals.loky")
        loky.get_reusable_executor().shutdown(wait=True)


@contextmanager
def with_joblib(competing: Sequence[Contestant], workers: int) -> Iterator[list[Contestant]]:
    """The contestants, and joblib if it is installed."""
    if importlib.util.find_spec("joblib") is None:
        yield list(competing)
        return
    joblib = _Joblib(workers)
    try:
        yield [*competing, Contestant("joblib", joblib)]
    finally:
        joblib.close()


# -- jobs --------------------------------------------------------------------------------------------------------------


def own_job(title: str, function: Function, frame: pd.DataFrame, by: Sequence[str], workers: int) -> Job:
    """The function on each group of the frame; without keys, on parts of its rows."""
    parts = workers * _PARTS_FOR_A_WORKER
    if not by:
        return Job(f"{title} on parts of the rows", function, arrowpool.split(frame, parts))
    keys = list(by)
    ways: dict[str, Callable[[Any], Any]] = {
        "serial": lambda _: apply_to_groups(function, keys, frame),
        "arrowpool": lambda pool: pool.map_groups(function, frame, by=keys),
    }
    others = partial(_by_parts, function, frame, keys, parts)
    ways |= dict.fromkeys(("threads", "stdlib", "joblib"), others)
    return Job(f"{title} on each group of {', '.join(keys)}", function, [frame], ways=ways, compare=compare_joined)


def _by_parts(function: Function, frame: pd.DataFrame, by: list[str], parts: int, pool: Any) -> Any:
    """The best that can be written without `map_groups`: `groupby.apply` on parts that have whole groups."""
    return pd.concat(pool.map(partial(apply_to_groups, function, by), arrowpool.split(frame, parts, by=by), 1))


def apply_to_groups(function: Function, by: list[str], frame: pd.DataFrame) -> Any:
    """`frame.groupby(by).apply(function)`; the key columns are not given to the function, by pandas 2 neither."""
    options = {} if pd.__version__ >= "3" else {"include_groups": False}
    return frame.groupby(by).apply(function, **options)


def compare_joined(expected: Any, found: Any) -> None:
    """Raise an AssertionError if two answers differ in more than the order of the groups."""
    assert type(found) is type(expected), f"a {type(found).__name__} instead of a {type(expected).__name__}"
    expected, found = (answer.sort_index(kind="stable") for answer in (expected, found))
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    else:
        pd.testing.assert_series_equal(found, expected, check_dtype=False)


# -- what it says ------------------------------------------------------------------------------------------------------


def tasks_in(frame: pd.DataFrame, by: Sequence[str], job: Job) -> int:
    """The number of times that the function is called."""
    return int(frame.groupby(list(by)).ngroups) if by else len(job.items)


def table(measured: Measured) -> list[str]:
    """One line for each way."""
    serial = measured.median("serial")
    rows: list[tuple[str, ...]] = [("", "median s", "least s", "most s", "x serial")]
    for name, seconds in measured.seconds.items():
        median = statistics.median(seconds)
        figures = (f"{each:.4f}" for each in (median, min(seconds), max(seconds)))
        rows.append((name, *figures, show_gain(serial / median)))
    return aligned(rows, left=1)


def reason(measured: Measured, tasks: int, workers: int) -> str:
    """Where the time of arrowpool's workers went."""
    each = measured.median("serial") / tasks * 1e3
    took = f"The function took {each:,.2g} ms for each of {tasks:,} {'groups' if measured.job.ways else 'parts'} in a loop."
    if not measured.run:
        return took
    whole = max(measured.median("arrowpool") * workers, measured.run + measured.moving)
    run, moved = round(100 * measured.run / whole), round(100 * measured.moving / whole)
    waited = max(0, 100 - run - moved)
    joining = ", also while the frame was cut and the results were joined" if measured.job.ways else ""
    return f"{took} arrowpool's workers ran it for {run}% of the time, moved data for {moved}%, and waited for {waited}%{joining}."


def sentence(measured: Measured, tasks: int, workers: int) -> str:
    """What to do, in one sentence."""
    median = {name: measured.median(name) for name in measured.seconds}
    ours = median["arrowpool"]
    rival = min((name for name in median if name != "arrowpool"), key=lambda name: median[name])
    gain = measured.gain("arrowpool", rival)
    if not gain.is_decided:
        return undecided(gain, "a loop" if rival == "serial" else rival)
    chunksize = math.ceil(tasks / (workers * _PARTS_FOR_A_WORKER)) if measured.job.ways else 1
    words = advice(
        serial=median["serial"],
        threads=median["threads"],
        pool=ours,
        run=measured.run,
        moving=measured.moving,
        tasks=tasks,
        chunksize=chunksize,
        workers=workers,
    )
    if words:
        return f"A pool does not pay: {words}."
    if median[rival] * NOISE < ours:
        return f"Use {rival}: {show_gain(ours / median[rival])} as fast as arrowpool, {show_gain(median['serial'] / median[rival])} as fast as a loop."
    if median["serial"] < ours * NOISE:
        return "A pool does not pay: it is about as fast as a loop."
    call = "pool.map_groups" if measured.job.ways else "pool.map_frame, or pool.map with arrowpool.split"
    gains = f"{show_gain(median['serial'] / ours)} as fast as a loop, {show_gain(median['stdlib'] / ours)} as fast as the standard library's pool"
    return f"Use arrowpool ({call}): {gains}."
