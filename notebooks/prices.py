"""Daily closing prices for the notebooks: of five real tickers, and of any number of tickers made from them.

Data: the PyPI package ``bokeh-sampledata`` (AAPL, FB, GOOG, IBM and MSFT, 2000-03-01 to 2013-03-01), closing prices adjusted
for splits and dividends.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from bokeh_sampledata import stocks

TICKERS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def real_prices() -> pd.DataFrame:
    """Closing prices in dollars: one column a ticker, one row a day of trading; missing before a ticker's first day."""
    columns = {}
    for ticker in TICKERS:
        data = getattr(stocks, ticker)
        columns[ticker] = pd.Series(data["adj_close"], index=pd.to_datetime(data["date"]), dtype="float64")
    return pd.DataFrame(columns).rename_axis("date")


def extend(real: pd.DataFrame, tickers: int, block: int = 20, seed: int = 2013) -> pd.DataFrame:
    """The real tickers, and made ones up to `tickers` in all: a block bootstrap of the real daily returns.

    Each made ticker begins at 100 dollars and consists of blocks of consecutive real daily returns. Each block is drawn at random
    from any of the real tickers. So returns, volatility and its clusters of up to a month are realistic; correlations between
    tickers are not.

    Parameters
    ----------
    real : DataFrame
        Prices, one column a ticker.
    tickers : int
        Columns of the result, the real ones included.
    block : int
        Trading days in a block.
    seed : int
        Seed of the random numbers.
    """
    days = len(real)
    returns = [np.diff(np.log(real[ticker].dropna().to_numpy())) for ticker in real.columns]
    pool = np.concatenate(returns)
    # A block lies within one ticker.
    begins = np.cumsum([0, *(len(one) for one in returns[:-1])])
    starts = np.concatenate(
        [begin + np.arange(len(one) - block + 1) for begin, one in zip(begins, returns, strict=True)]
    )
    drawn = np.random.default_rng(seed).choice(starts, (tickers - real.shape[1], -(-(days - 1) // block)))
    steps = pool[(drawn[:, :, None] + np.arange(block)).reshape(len(drawn), -1)[:, : days - 1]]
    made = 100 * np.exp(np.pad(steps, ((0, 0), (1, 0))).cumsum(axis=1))
    names = [f"M{number:04d}" for number in range(1, len(drawn) + 1)]
    return pd.concat([real, pd.DataFrame(made.T, index=real.index, columns=names)], axis=1)
