"""A web service that hands a frame to a script by key and gets the features back by key."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import arrowpool
from tests import programs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SCRIPT = NOTEBOOKS / "compute_rsi_macd.py"
LIMIT = 60

pytestmark = pytest.mark.usefixtures("own_shelf")


def load(name):
    spec = importlib.util.spec_from_file_location(name, NOTEBOOKS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prices():
    rng = np.random.default_rng(3)
    dates = pd.bdate_range("2020-01-01", periods=400, name="date")
    walk = 100 * np.exp(0.01 * rng.standard_normal((400, 120)).cumsum(axis=0))
    return pd.DataFrame(walk, index=dates, columns=[f"T{i:03d}" for i in range(120)])


def by_hand(close):
    """The last RSI and MACD of one column, day by day, as the textbooks tell it."""
    gain = loss = None
    for before, now in itertools.pairwise(close):
        up, down = max(now - before, 0), max(before - now, 0)
        gain = up if gain is None else gain + (up - gain) / 14
        loss = down if loss is None else loss + (down - loss) / 14
    fast = slow = close[0]
    signal = 0.0
    for now in close[1:]:
        fast += (now - fast) * 2 / 13
        slow += (now - slow) * 2 / 27
        signal += (fast - slow - signal) * 2 / 10
    return {
        "rsi": 100 - 100 / (1 + gain / loss),
        "macd": fast - slow,
        "signal": signal,
        "histogram": fast - slow - signal,
    }


def test_the_features_are_those_of_the_textbooks(prices):
    features = load("compute_rsi_macd").features(prices)
    assert features.shape == (400, 480)
    assert features[("T000", "rsi")].iloc[:14].isna().all()
    assert features.iloc[14:].notna().all(axis=None)
    for ticker in ("T000", "T077"):
        expected = by_hand(prices[ticker].to_list())
        assert features[ticker].iloc[-1].to_dict() == pytest.approx(expected)


def test_the_script_from_a_notebook(prices):
    """A blocking call: a key in, a key out."""
    key = arrowpool.put(prices)
    ran = programs.run([SCRIPT, key], timeout=LIMIT)
    assert ran.returncode == 0, ran.stderr
    features = arrowpool.get(ran.stdout.strip())
    arrowpool.delete(ran.stdout.strip())
    arrowpool.delete(key)
    pd.testing.assert_frame_equal(features, load("compute_rsi_macd").features(prices))


def test_the_script_says_what_is_wrong_with_a_key(prices):
    key = arrowpool.put(prices)
    arrowpool.delete(key)
    ran = programs.run([SCRIPT, key], timeout=LIMIT)
    assert ran.returncode == 1
    assert ran.stderr.startswith("compute_rsi_macd: ")
    assert "Traceback" not in ran.stderr


@pytest.fixture
def client():
    pytest.importorskip("fastapi")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants another client from some version on, and takes either
        from fastapi.testclient import TestClient
    with TestClient(load("service").app) as client:
        yield client


def keys():
    """Keys on the shelf, but for those of other programs that run at this moment: such a key begins with its process."""
    return [key for key in arrowpool.list_keys() if key.startswith(f"{os.getpid()}-") or not re.match(r"\d+-", key)]


def finished(client, job):
    deadline = time.monotonic() + LIMIT
    while True:
        seen = client.get(f"/jobs/{job}").json()
        if seen["status"] != "running":
            return seen
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_service(client, prices):
    before = keys()
    jobs = [client.post("/jobs", content=prices.to_csv()).json()["job"] for _ in range(2)]
    for job in jobs:
        assert finished(client, job) == {"job": job, "status": "done", "error": ""}
        seen = client.get(f"/jobs/{job}/features/T042").json()
        assert seen == pytest.approx(by_hand(prices["T042"].to_list()))
    assert client.get(f"/jobs/{jobs[0]}/features/NONE").status_code == 404
    assert client.delete(f"/jobs/{jobs[0]}").status_code == 204
    assert client.get(f"/jobs/{jobs[0]}").status_code == 404
    assert client.post("/jobs", content="a,b\n1,2\n").status_code == 422
    client.__exit__(None, None, None)  # the service ends
    assert keys() == before


def test_a_job_that_is_given_up_leaves_nothing(client, prices):
    before = keys()
    job = client.post("/jobs", content=prices.to_csv()).json()["job"]
    assert client.get(f"/jobs/{job}/features/T000").status_code == 409
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert keys() == before


def test_prices_that_the_script_cannot_use(client):
    job = client.post("/jobs", content="date,A\n2020-01-01,text\n2020-01-02,more\n").json()["job"]
    seen = finished(client, job)
    assert seen["status"] == "failed"
    assert seen["error"]
