"""CPython's own tests of its pool pass with ours put in its place."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("test._test_multiprocessing", reason="this Python comes without its test package")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_interpreters_own_pool_tests(method):
    done = subprocess.run(
        [sys.executable, "-m", "tests.cpython.stock_tests", method],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran is not None
    assert int(ran[1]) >= 25
