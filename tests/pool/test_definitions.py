"""Classes and functions of scripts: by name if workers have them, whatever has happened to their state; else by value.

Each case is a program of its own, since the first pickling of an instance changes its class.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

METHODS = ("fork", "spawn", "forkserver")
HERE = Path(__file__).parent


def run(program, *args):
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(HERE / program), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", METHODS)
def test_all_kinds_of_classes_and_functions_are_the_workers_own(method):
    ours = run("kinds.py", method, "arrowpool")
    assert ours == run("kinds.py", method, "multiprocessing")
    # The standard library compares the same things, and they are true.
    assert all(all(same) for name, same in ours.items() if name not in ("states", "methods") and "called" not in name)
    assert [count for count, *_ in ours["states"]] == [3, 4, 5]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_newer_than_the_workers_goes_whole(method):
    found = run("newer.py", method)
    assert [name for name, right in found.items() if not right] == []
