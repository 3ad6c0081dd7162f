"""Jobs as users have them: much work on frames of 2 kB to 8 MB, with strings and groups, and a frame back from each task.

Read by `jobs`, which runs them, and by `fresh`. Each job is a `Scenario` whose check compares with what a plain loop returns.
The task functions stand at module level, so that every start method finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd

from arrowpool.cli.demo import load_flights
from benchmarks.contenders import Serial
from benchmarks.scenarios import MapPool, Scenario

#: Business days of five years, and of one.
FIVE_YEARS, ONE_YEAR = 1_260, 250
TICKERS, FRAMES, ROLLING_CHUNKS, ROLLING_ROWS, BACKTESTS = 1_500, 5_000, 16, 100_000, 400
PARTS = 35


# -- tasks ------------------------------------------------------------------------------------------------------------


def rsi_and_macd(prices: pd.DataFrame) -> pd.DataFrame:
    """The ticker's frame with its relative strength index, MACD and signal line."""
    close = prices["close"]
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    loss = -change.clip(upper=0).ewm(alpha=1 / 14, adjust=False).mean()
    macd = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    signal = macd.ewm(span=9, adjust=False).mean()
    return prices.assign(rsi=100 - 100 / (1 + gain / loss), macd=macd, signal=signal)


def last_close(prices: pd.DataFrame) -> float:
    return float(prices["close"].to_numpy()[-1])


def scaled_prices(prices: pd.DataFrame) -> pd.DataFrame:
    return prices * 2


def plane_features(plane: pd.DataFrame) -> pd.DataFrame:
    """One plane's flights in order of time: its recent delays, its time on the ground, its speed."""
    ordered = plane.sort_values("time_hour", kind="stable")
    delay = ordered["dep_delay"].fillna(0)
    return pd.DataFrame(
        {
            "flight": ordered["flight"],
            "recent": delay.rolling(10, min_periods=1).mean().shift(fill_value=0.0),
            "ground": ordered["time_hour"].diff().dt.total_seconds(),
            "speed": ordered["distance"] / ordered["air_time"] * 60,
            "legs": np.arange(len(ordered)),
        }
    )


def clean(part: pd.DataFrame) -> pd.DataFrame:
    return part.dropna(subset=["dep_delay", "arr_delay"])


def enrich(part: pd.DataFrame) -> pd.DataFrame:
    return part.assign(
        route=part["origin"] + "-" + part["dest"],
        speed=part["distance"] / part["air_time"] * 60,
        made_up=part["dep_delay"] - part["arr_delay"],
    )


def figures_of_routes(part: pd.DataFrame) -> pd.DataFrame:
    return part.groupby("route")[["speed", "made_up", "arr_delay"]].mean()


def rolling_means(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.rolling(20).mean()


def backtest(prices: pd.DataFrame, number: int) -> float:
    """What a momentum rule would have gained in the half of the days that begins with day `number`."""
    values = prices.to_numpy()[number : number + len(prices) // 2]
    returns = values[1:] / values[:-1] - 1
    return float((returns[1:] * (returns[:-1] > 0)).mean())


# -- inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """The inputs of a round: the items, or what the function has captured; and what a loop returns, made once a job."""

    items: Sequence[Any]
    captured: pd.DataFrame | None
    expected: list[Any]

    def fresh(self) -> Work:
        """The same in new memory."""
        items = [item.copy() for item in self.items] if self.captured is None else self.items
        return replace(self, items=items, captured=None if self.captured is None else self.captured.copy())


def _some(count: int, scale: float) -> int:
    return max(4, round(count * scale))


def ohlcv(days: int, count: int) -> list[pd.DataFrame]:
    """`count` tickers: five columns of floats, dates as index."""
    dates = pd.bdate_range("2020-01-01", periods=days, unit="ns")
    rng = np.random.default_rng(0)
    names = ["open", "high", "low", "close", "volume"]
    return [
        pd.DataFrame(100 + rng.standard_normal((days, len(names))).cumsum(axis=0), index=dates, columns=names)
        for _ in range(count)
    ]


@cache
def _flights() -> pd.DataFrame:
    return load_flights()


def _planes(scale: float) -> Work:
    flights = _flights().dropna(subset=["tailnum"])
    planes = [plane for _, plane in flights.groupby("tailnum")]
    return Work(planes[: _some(len(planes), scale)], None, [])


def _parts(scale: float) -> Work:
    flights = _flights()
    flights = flights.iloc[: max(PARTS, round(len(flights) * scale))]
    step = -(-len(flights) // PARTS)
    return Work([flights.iloc[at : at + step] for at in range(0, len(flights), step)], None, [])


def _rolling_chunks(scale: float) -> Work:
    rng = np.random.default_rng(0)
    shape = (_some(ROLLING_ROWS, scale), 10)
    return Work([pd.DataFrame(rng.random(shape)) for _ in range(ROLLING_CHUNKS)], None, [])


def _history(scale: float) -> Work:
    values = 100 + np.random.default_rng(0).random((2_500, 300)).cumsum(axis=0)
    count = _some(BACKTESTS, scale)
    return Work(range(count), pd.DataFrame(values), [])


# -- calls and checks -------------------------------------------------------------------------------------------------

Call = Callable[[MapPool, Work], list[Any]]


def mapped(function: Callable[[Any], Any], chunksize: int | None = None) -> Call:
    """`pool.map(function, items, chunksize)`."""
    return lambda pool, work: pool.map(function, work.items, chunksize)


def captured(function: Callable[[Any, Any], Any], chunksize: int | None = None) -> Call:
    """The same with a function that has captured the frame."""
    return lambda pool, work: pool.map(partial(function, work.captured), work.items, chunksize)


def _three_steps(pool: MapPool, work: Work) -> list[Any]:
    return pool.map(figures_of_routes, pool.map(enrich, pool.map(clean, work.items)))


def same_as_a_loop(call: Call) -> Callable[[Work, list[Any]], None]:
    """A check that compares each result with a loop's, which runs with the first check only."""

    def check(work: Work, result: list[Any]) -> None:
        if not work.expected:
            work.expected.extend(call(Serial(), work))
        assert len(result) == len(work.expected)
        for found, wanted in zip(result, work.expected, strict=True):
            if not isinstance(wanted, pd.DataFrame):
                assert found == wanted
            elif not found.equals(wanted):  # far quicker than what says where they differ
                pd.testing.assert_frame_equal(found, wanted, check_exact=True)

    return check


def _job(name: str, title: str, tasks: int, make: Callable[[float], Work], call: Call) -> Scenario:
    return Scenario(
        name=name, title=title, tasks=tasks, make=make, run=call, fresh=Work.fresh, check=same_as_a_loop(call)
    )


def _tickers(scale: float) -> Work:
    return Work(ohlcv(FIVE_YEARS, _some(TICKERS, scale)), None, [])


def _small_frames(scale: float) -> Work:
    return Work(ohlcv(ONE_YEAR, _some(FRAMES, scale)), None, [])


JOBS: tuple[Scenario, ...] = (
    _job("tickers", "RSI and MACD of 1,500 tickers x 5 years, frame in, frame out", 1_500, _tickers, mapped(rsi_and_macd)),
    _job("tickers_single", "... chunksize 1", 1_500, _tickers, mapped(rsi_and_macd, 1)),
    _job("small_in", "5,000 frames of 12 kB in, a number back", 5_000, _small_frames, mapped(last_close)),
    _job("small_back", "5,000 frames of 12 kB there and back", 5_000, _small_frames, mapped(scaled_prices)),
    _job("planes", '4,043 planes of flights.groupby("tailnum"), features back', 4_043, _planes, mapped(plane_features)),
    _job("steps", "flights in three steps over 35 parts (clean, enrich, measure)", 105, _parts, _three_steps),
    _job("rolling", "rolling means of 16 chunks, 128 MB", 16, _rolling_chunks, mapped(rolling_means)),
    _job("backtests", "400 back-tests over a captured frame of 6 MB", 400, _history, captured(backtest)),
    _job("backtests_single", "... chunksize 1", 400, _history, captured(backtest, 1)),
)  # fmt: skip
