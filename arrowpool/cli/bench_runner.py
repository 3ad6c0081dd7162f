"""The clock of `bench` and `demo`: several contestants run the same jobs in turns, and all results are compared.

Uses the public API only. Guarantees: contestants take turns, so a slow moment of the machine affects all of them. Every result is
compared with the first contestant's, outside the measured time.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import pandas as pd

import arrowpool
from arrowpool.cli.bench_advice import Gain
from arrowpool.stats import Stats

MOST_ROUNDS = 15
#: Size of the pieces that the memcpy column copies: more than caches hold.
_PIECE = 1 << 26


class ResultsDifferError(AssertionError):
    """Two contestants have different results."""


@dataclass(frozen=True, slots=True)
class Job:
    """A call of ``pool.map``, and the least number of bytes that it moves (0 if negligible).

    `ways` has, by contestant, what is called with its pool instead; `compare` then compares its result with the first one.
    """

    title: str
    function: Callable[[Any], Any]
    items: Sequence[Any]
    chunksize: int | None = 1
    nbytes: int = 0
    ways: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    compare: Callable[[Any, Any], None] | None = None

    def call(self, name: str, pool: Any) -> Any:
        """The job's result, by this contestant."""
        way = self.ways.get(name)
        return pool.map(self.function, self.items, self.chunksize) if way is None else way(pool)


@dataclass(frozen=True, slots=True)
class Contestant:
    """An object with the stdlib's ``map``. `stats` returns the figures of a pool that has them."""

    name: str
    pool: Any
    stats: Callable[[], Stats] | None = None


class Loop:
    """``map`` without a pool."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        return [function(item) for item in items]


@dataclass(frozen=True, slots=True)
class Moved:
    """The bytes that one call of arrowpool moved, and where the time of its workers went, summed over all of them.

    `run` are seconds in tasks; `moved` those of moving data, also as long as this process kept the workers waiting with that.
    """

    run: float
    moved: float
    piped_bytes: int
    shared_bytes: int
    copies: int

    @classmethod
    def between(cls, before: Stats, after: Stats) -> Moved:
        """The difference of two states of one pool."""
        spent = after.since(before).spent
        return cls(
            spent.run if spent is not None else 0.0,
            spent.moved if spent is not None else 0.0,
            after.piped_bytes - before.piped_bytes,
            after.shared_bytes - before.shared_bytes,
            after.copies - before.copies,
        )


@dataclass(slots=True)
class Measured:
    """The figures of one job. The lists get one entry for each round."""

    job: Job
    #: The first contestant's result.
    expected: Any = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memcpy: list[float] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Median seconds of a contestant."""
        return statistics.median(self.seconds[name])

    def gain(self, name: str, over: str) -> Gain:
        """How many times as fast one contestant is as another."""
        rounds = zip(self.seconds[over], self.seconds[name], strict=True)
        return Gain.of(self.median(over) / self.median(name), [other / ours for other, ours in rounds])

    @property
    def run(self) -> float:
        """Median seconds of arrowpool's workers in tasks; 0 where workers do not say."""
        return statistics.median(one.run for one in self.moved) if self.moved else 0.0

    @property
    def moving(self) -> float:
        """As `run`, in moving data."""
        return statistics.median(one.moved for one in self.moved) if self.moved else 0.0


@contextmanager
def contestants(
    processes: int | None, method: str | None, *, without_pool: bool
) -> Iterator[tuple[list[Contestant], int]]:
    """Both pools, with `without_pool` also a loop and threads, in front of them; and the number of workers of each.

    Enter it before the data is made, so that no worker inherits the data.
    """
    with ExitStack() as stack:
        stdlib = multiprocessing.get_context(method).Pool(processes)
        stack.callback(stdlib.join)
        stack.callback(stdlib.terminate)
        ours = arrowpool.get_context(method).Pool(processes)
        stack.callback(ours.join)
        stack.callback(ours.terminate)
        found = [Contestant("stdlib", stdlib), Contestant("arrowpool", ours, ours.stats)]
        if without_pool:
            threads = ThreadPool(ours._processes)  # after the processes: a fork copies no threads
            stack.callback(threads.join)
            stack.callback(threads.terminate)
            found = [Contestant("serial", Loop()), Contestant("threads", threads), *found]
        yield found, ours._processes


def measure(
    jobs: Sequence[Job],
    contestants: Sequence[Contestant],
    deadline: float,
    begins: Callable[[str], None] = lambda step: None,
) -> list[Measured]:
    """Run all jobs in turns until the deadline: one round to warm up, then at least one measured round.

    `begins` is called before each run of a job, with words for it.

    Raises
    ------
    ResultsDifferError
        When results differ; the message names the job and the contestants.
    """
    found = [Measured(job, seconds={one.name: [] for one in contestants}) for job in jobs]
    began = time.monotonic()
    for turn in range(-1, MOST_ROUNDS):
        # The first contestant begins the first round: all others are compared with its results.
        order = contestants if turn % 2 else contestants[::-1]
        for measured in found:
            for one in order:
                begins(f"{measured.job.title}, {one.name}")
                _run(measured, one, contestants[0].name, counts=turn >= 0)
            if turn >= 0 and measured.job.nbytes:
                measured.memcpy.append(_memcpy(measured.job.nbytes))
        now = time.monotonic()
        if turn >= 0 and now + (now - began) / (turn + 2) > deadline:
            break
    return found


def _run(measured: Measured, one: Contestant, first: str, *, counts: bool) -> None:
    job = measured.job
    before = one.stats() if one.stats else None
    seconds, result = _timed(partial(job.call, one.name, one.pool))
    if measured.expected is None:
        measured.expected = result
    else:
        _compare(job, (first, one.name), measured.expected, result)
    if counts:
        measured.seconds[one.name].append(seconds)
        if one.stats and before:
            measured.moved.append(Moved.between(before, one.stats()))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _memcpy(nbytes: int) -> float:
    """Seconds to copy `nbytes` from and to warm memory, piece by piece."""
    source, target = np.ones(min(nbytes, _PIECE), np.uint8), np.zeros(min(nbytes, _PIECE), np.uint8)
    np.copyto(target, source)  # the pages of `target` come with the first write
    began = time.perf_counter()
    for at in range(0, nbytes, len(source)):
        size = min(len(source), nbytes - at)
        np.copyto(target[:size], source[:size])
    return time.perf_counter() - began


def _compare(job: Job, names: tuple[str, str], expected: Any, found: Any) -> None:
    try:
        if job.compare is not None:
            return job.compare(expected, found)
        assert len(found) == len(expected), f"{len(found)} results instead of {len(expected)}"
        if expected and isinstance(expected[0], pd.DataFrame):
            for one, other in zip(expected, found, strict=True):
                if not other.equals(one):  # far quicker than the function that says where they differ
                    pd.testing.assert_frame_equal(other, one, check_exact=True)
        else:
            assert _is_equal(found, expected)
    except AssertionError as error:
        raise ResultsDifferError(
            f"the results of '{job.title}' differ between {' and '.join(names)}: {error}"
        ) from error


def _is_equal(found: list[Any], expected: list[Any]) -> bool:
    """Whether lists are equal: of arrays, series and NaN, too."""
    try:
        return bool(found == expected) or _is_nested_equal(found, expected)
    except ValueError:  # arrays have no truth value
        return _is_nested_equal(found, expected)


def _is_nested_equal(found: list[Any], expected: list[Any]) -> bool:
    one, other = (pd.Series(list(values), dtype=object) for values in (found, expected))
    pd.testing.assert_series_equal(one, other, rtol=0, atol=0)
    return True
