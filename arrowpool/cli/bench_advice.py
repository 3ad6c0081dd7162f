"""What `bench` says about its figures: how the pools compare, and what to do if a pool does not pay. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Two times whose ratio is smaller than this count as equal.
NOISE = 1.1
#: A chunk should run this long: many times the cost of a message.
_CHUNK_SECONDS = 0.02


def show_gain(gain: float) -> str:
    """A ratio with two significant digits: ``17x``, ``2.3x``, ``0.84x``."""
    return f"{gain:.0f}x" if gain >= 10 else f"{gain:.1f}x" if gain >= 1 else f"{gain:.2f}x"


def verdict(gains: Sequence[tuple[str, float]]) -> str:
    """One sentence about the measured jobs, each given as title and gain over the standard library."""
    faster = [gain for _, gain in gains if gain > NOISE]
    slower = [f"'{title}' ({show_gain(gain)})" for title, gain in gains if gain < 1 / NOISE]
    equal = len(gains) - len(faster) - len(slower)
    parts = []
    if faster:
        span = show_gain(min(faster)) if len(faster) == 1 else f"{show_gain(min(faster))} to {show_gain(max(faster))}"
        parts.append(f"faster in {len(faster)} ({span})")
    if equal:
        parts.append(f"about as fast in {equal}")
    if slower:
        parts.append(f"slower in {len(slower)}: {', '.join(slower)}")
    return f"Of {len(gains)} jobs, arrowpool.Pool was {', '.join(parts)}."


def transport_share(run: float, seconds: float, workers: int) -> float:
    """The share of the workers' time in which no task ran: they moved data, or waited for data."""
    return min(1.0, max(0.0, 1 - run / (seconds * workers)))


def advice(*, serial: float, threads: float, pool: float, tasks: int, chunksize: int | None, workers: int) -> str:
    """What to do if a pool does not pay; empty if it does.

    Parameters
    ----------
    serial, threads, pool : float
        Seconds of the same call by a loop, by threads and by the pool.
    tasks : int
        Number of items of the call.
    chunksize : int or None
        The chunksize of the call; None for the default.
    workers : int
        Number of workers of the pool.
    """
    if pool <= min(serial, threads) * NOISE:
        return ""
    each = serial / tasks
    ran = f"tasks run {_show_ms(each)}"
    if threads * NOISE < serial:
        return f"{ran}, without the interpreter lock for most of it: use threads"
    if serial < _CHUNK_SECONDS * workers:
        return f"{ran}, all {tasks:,} together {_show_ms(serial)}: use no pool"
    wanted = min(math.ceil(_CHUNK_SECONDS / each), math.ceil(tasks / workers))
    used = chunksize or math.ceil(tasks / (4 * workers))
    if wanted > used:
        return f"{ran}: use chunksize {wanted}, or no pool"
    return f"{ran}, less than moving their data takes: do more in each task, or use no pool"


def _show_ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2g} ms"
