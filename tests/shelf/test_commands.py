"""``python -m arrowpool ls``, ``info``, ``rm``, ``clean``."""

from __future__ import annotations

import os

import pandas as pd

import arrowpool
from arrowpool.__main__ import main
from tests import programs


def test_ls_info_and_rm(capsys):
    df = pd.DataFrame({"close": [1.0, 2.0], "ticker": ["A", "B"]})
    keys = [arrowpool.put(df), arrowpool.put({"x": 1}, persist=True, key="settings")]
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["KEY", "KIND", "SIZE", "PUT", "(UTC)", "LIVES"]
    # Other tests run at this moment, in processes of the same user.
    lines = [line for line in lines if "with process" not in line or line.endswith(f"with process {os.getpid()}")]
    assert len(lines) == 3
    assert lines[1].startswith(keys[0])
    assert lines[1].endswith(f"with process {os.getpid()}")
    assert lines[2].startswith("settings")
    assert lines[2].endswith("until it is deleted")
    assert main(["info", keys[0]]) == 0
    told = capsys.readouterr().out
    assert "close: double" in told
    assert arrowpool.info(keys[0]).path in told
    assert main(["info", "settings"]) == 0
    assert "not a table" in capsys.readouterr().out
    assert main(["rm", *keys]) == 0
    assert not set(keys) & set(arrowpool.list_keys())
    assert main(["rm", "settings"]) == 1
    assert main(["info", "settings"]) == 1
    assert capsys.readouterr().err.count("settings") == 2
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "0 unfinished objects removed\n"


def test_from_another_process():
    key = arrowpool.put(pd.DataFrame({"a": range(5)}))
    listed = programs.run(["-m", "arrowpool", "ls"], timeout=60)
    assert key in listed.stdout
    assert programs.run(["-m", "arrowpool", "rm", key], timeout=60).returncode == 0
    assert not arrowpool.exists(key)
