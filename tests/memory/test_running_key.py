"""The key of the running group in the control page: what is shown of it, and when. No process."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from arrowpool.memory.running_key import RUNNING_KEY_END, RunningKey, text_of


class Loud:
    def __repr__(self):
        raise AssertionError("code of the user")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("T17", "'T17'"),
        (617, "617"),
        (1.5, "1.5"),
        (True, "True"),
        (None, "None"),
        (np.int64(3), repr(np.int64(3))),
        (pd.Timestamp("2024-01-02"), "Timestamp('2024-01-02 00:00:00')"),
        (datetime.date(2024, 1, 2), "datetime.date(2024, 1, 2)"),
        (("a", 1, ("b", 2)), "('a', 1, ('b', 2))"),
        (tuple(range(9)), "(0, 1, 2, 3, ...)"),
        (Loud(), ""),
        (("a", Loud()), ""),
        (10**5000, ""),
    ],
    ids=lambda value: value[:9] if type(value) is str else type(value).__name__,
)
def test_a_key_in_words(key, text):
    assert text_of(key) == text


def test_only_the_group_that_runs_is_shown():
    key = RunningKey(memoryview(bytearray(RUNNING_KEY_END)))
    assert key.read(0, 0) == ""
    key.write(5, 2, "A")
    assert key.read(5, 2) == "'A'"
    assert [key.read(5, 1), key.read(4, 2), key.read(-1, -1)] == ["", "", ""]
    key.write(5, 3, "B")
    assert (key.read(5, 2), key.read(5, 3)) == ("", "'B'")


@pytest.mark.parametrize("text", ["x" * 10**6, "ö" * 500, "\ud800"], ids=["long", "of two bytes", "not encodable"])
def test_what_does_not_fit_is_cut(text):
    key = RunningKey(memoryview(bytearray(RUNNING_KEY_END)))
    key.write(0, 0, text)
    shown = key.read(0, 0)
    assert shown
    assert len(shown) <= 122
    assert shown[1:-1] in (text[:120], text[:60], "\\\\ud800")
