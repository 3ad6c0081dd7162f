"""What `bench` says about its figures: how the pools compare, and what to do if a pool does not pay. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from arrowpool.verdict import NOISE, TASK_SECONDS, Choice, Costs, choose

#: How far from each other two measurements may be, where there are not enough rounds to say.
_ONE_ROUND = 1.4


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times as fast one contestant is as another.

    Attributes
    ----------
    median : float
        By the medians.
    low, high : float
        By single rounds, in which contestants take turns: half of the rounds lie between these. All of them, of few rounds.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, median: float, rounds: Sequence[float]) -> Gain:
        """The gain by the medians, and by each round."""
        if len(rounds) < 2:
            return cls(median, median / _ONE_ROUND, median * _ONE_ROUND)
        if len(rounds) < 4:
            return cls(median, min(rounds), max(rounds))
        low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(median, low, high)

    @property
    def is_decided(self) -> bool:
        """Whether the rounds agree on which contestant is faster, or that there is no difference that counts."""
        return self.low > 1 or self.high < 1 or (self.low >= 1 / NOISE and self.high <= NOISE)

    def __str__(self) -> str:
        return show_gain(self.median)


def show_gain(gain: float) -> str:
    """A ratio with two significant digits: ``17x``, ``2.3x``, ``0.84x``."""
    return f"{gain:.0f}x" if gain >= 10 else f"{gain:.1f}x" if gain >= 1 else f"{gain:.2f}x"


def verdict(gains: Sequence[tuple[str, Gain]]) -> str:
    """One sentence about the measured jobs, each given as title and gain over the standard library."""
    decided = [(title, gain.median) for title, gain in gains if gain.is_decided]
    faster = [gain for _, gain in decided if gain > NOISE]
    slower = [f"'{title}' ({show_gain(gain)})" for title, gain in decided if gain < 1 / NOISE]
    unclear = [f"'{title}' ({_span(gain)})" for title, gain in gains if not gain.is_decided]
    equal = len(decided) - len(faster) - len(slower)
    parts = []
    if faster:
        span = show_gain(min(faster)) if len(faster) == 1 else f"{show_gain(min(faster))} to {show_gain(max(faster))}"
        parts.append(f"faster in {len(faster)} ({span})")
    if equal:
        parts.append(f"about as fast in {equal}")
    if slower:
        parts.append(f"slower in {len(slower)}: {', '.join(slower)}")
    if unclear:
        parts.append(f"faster or slower, by the rounds, in {len(unclear)}: {', '.join(unclear)}")
    return f"Of {len(gains)} jobs, arrowpool.Pool was {', '.join(parts)}, compared with multiprocessing.Pool."


def undecided(gain: Gain, rival: str) -> str:
    """What to say if the rounds do not agree."""
    return (
        f"The rounds do not decide between arrowpool and {rival} ({_span(gain)} as fast): measure again on an idle machine, or for longer "
        "(--seconds)."
    )


def _span(gain: Gain) -> str:
    return f"{show_gain(gain.low)} to {show_gain(gain.high)}"


def transport_share(run: float, seconds: float, workers: int) -> float:
    """The share of the workers' time in which no task ran: they moved data, or waited for data."""
    return min(1.0, max(0.0, 1 - run / (seconds * workers)))


def advice(
    *,
    serial: float,
    threads: float,
    pool: float,
    run: float,
    moving: float,
    tasks: int,
    chunksize: int | None,
    workers: int,
) -> str:
    """What to do if a pool does not pay; empty if it does. The rule is `arrowpool.verdict.choose`.

    Parameters
    ----------
    serial, threads, pool : float
        Seconds of the same call by a loop, by threads and by the pool.
    run, moving : float
        Seconds that the tasks ran in the workers, and that moving their data kept the workers, all together. 0 if they are not known.
    tasks : int
        Number of items of the call.
    chunksize : int or None
        The chunksize of the call; None for the default.
    workers : int
        Number of workers of the pool.
    """
    used = chunksize or math.ceil(tasks / (4 * workers))
    costs = Costs(serial=serial, threads=threads, pool=pool, tasks=math.ceil(tasks / used), workers=workers)
    ran = f"tasks run {_show_ms(serial / tasks)}"
    choice = choose(costs)
    if choice is Choice.POOL:
        return ""
    if choice is Choice.THREADS:
        return f"{ran}, without the interpreter lock for most of it: use threads"
    if choice is Choice.LOOP:
        return f"{ran}, all {tasks:,} together {_show_ms(serial)}: use no pool"
    if choice is Choice.LARGER_TASKS:
        wanted = min(math.ceil(TASK_SECONDS / serial * tasks), math.ceil(tasks / workers))
        return f"{ran}: use chunksize {wanted}, or no pool"
    if run <= 0:
        return f"{ran}, less than a pool costs: do more in each task, or use no pool"
    # What all workers together lose, by its cause: the largest one is said.
    slowed, waited = run - serial, pool * workers - run - moving
    if slowed > max(moving, waited):
        return (
            f"{ran}, and {run / serial:.1f} times as long in the workers: fewer cores are free than there are workers. Measure again on "
            "an idle machine, or use fewer workers"
        )
    if waited > moving:
        share = waited / (pool * workers)
        return f"{ran}, and the workers waited for {share:.0%} of the time: use more and smaller tasks, or no pool"
    return f"{ran}, and moving their data takes {_show_ms(moving / tasks)}: do more in each task, or use no pool"


def _show_ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2g} ms"
