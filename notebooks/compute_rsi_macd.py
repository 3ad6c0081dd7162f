"""RSI and MACD of many tickers, on all cores. Any program can call this script with a key.

    key=$(python compute_rsi_macd.py KEY)

KEY is the key that `arrowpool.put(prices)` returned. `prices` is a frame of closing prices: one column a ticker, one row a day,
oldest first. The script prints the key of the features: a frame with the same rows and, for each ticker, the columns `rsi`, `macd`,
`signal` and `histogram`. The features persist after the script: the caller deletes them.

RSI: Wilder's, over 14 days. MACD: the difference of exponential averages over 12 and 26 days, with a signal line over 9. Averages
are recursive and begin with the first price.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import pandas as pd

import arrowpool


def rsi(close: pd.DataFrame, days: int = 14) -> pd.DataFrame:
    """Relative strength index, 0 to 100, of each column; missing for the first `days` rows.

    J. Welles Wilder, New Concepts in Technical Trading Systems, 1978; averages with a weight of 1 / `days`.
    """
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / days, min_periods=days, adjust=False).mean()
    loss = -change.clip(upper=0).ewm(alpha=1 / days, min_periods=days, adjust=False).mean()
    return 100 - 100 / (1 + gain / loss)


def macd(close: pd.DataFrame, fast: int = 12, slow: int = 26, signal: int = 9) -> dict[str, pd.DataFrame]:
    """Moving average convergence/divergence of each column, in the price's unit: line, signal line and histogram.

    Gerald Appel, Technical Analysis: Power Tools for Active Investors, 2005.
    """
    line = _mean(close, fast) - _mean(close, slow)
    average = _mean(line, signal)
    return {"macd": line, "signal": average, "histogram": line - average}


def _mean(values: pd.DataFrame, days: int) -> pd.DataFrame:
    return values.ewm(span=days, adjust=False).mean()


def features(close: pd.DataFrame) -> pd.DataFrame:
    """All features of some tickers: columns ``(ticker, feature)``."""
    named = {"rsi": rsi(close), **macd(close)}
    joined = pd.concat(named, axis=1).swaplevel(axis=1)
    return joined[[(ticker, name) for ticker in close.columns for name in named]]


def features_of_all(pool: arrowpool.Pool, close: pd.DataFrame, chunk: int = 50) -> pd.DataFrame:
    """All features, computed by a pool: `chunk` tickers in each task."""
    chunks = [close.iloc[:, at : at + chunk] for at in range(0, close.shape[1], chunk)]
    return pd.concat(pool.map(features, chunks), axis=1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Compute RSI and MACD of closing prices on the shelf; put them on the shelf."
    )
    parser.add_argument("key", help="key of the prices")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one for each core")
    arguments = parser.parse_args(argv)
    try:
        close = arrowpool.get(arguments.key)
    except KeyError as error:
        print(f"compute_rsi_macd: {error.args[0]}", file=sys.stderr)
        return 1
    with arrowpool.Pool(arguments.processes) as pool:
        print(arrowpool.put(features_of_all(pool, close), persist=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
