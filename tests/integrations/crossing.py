"""A strategy for backtesting.py, in a module that workers can import."""

from __future__ import annotations

import pandas as pd

from tests.integrations.conftest import library

backtesting = library("backtesting")


def mean_of(closes, window):
    return pd.Series(closes).rolling(window).mean()


class Crossing(backtesting.Strategy):
    """In the market while the price is above its mean."""

    window = 5

    def init(self):
        self.mean = self.I(mean_of, self.data.Close, self.window)

    def next(self):
        if self.data.Close[-1] > self.mean[-1]:
            self.buy(size=1)
        else:
            self.position.close()
