"""A shelf of its own for every test, and processes that read from it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

import arrowpool.shelf


@pytest.fixture(autouse=True)
def own_shelf(tmp_path_factory, monkeypatch):
    """Persistent objects lie in a directory of the test's; what this process owns is let go of at its end."""
    directory = tmp_path_factory.mktemp("shelf")
    monkeypatch.setenv("ARROWPOOL_SHELF_DIR", str(directory / "root"))
    yield directory / "root"
    arrowpool.shelf._close()


@pytest.fixture
def elsewhere(tmp_path):
    """Run a program in a process of its own: ``elsewhere(program, *args)`` gives what it printed."""

    def run(program, *args, prepare=None, check=True):
        script = tmp_path / "elsewhere.py"
        script.write_text("import sys, arrowpool\n" + textwrap.dedent(program))
        command = [sys.executable, str(script), *args]
        if prepare is not None:
            shell = "mount --make-rprivate / && " + prepare + ' && exec "$@"'
            command = ["unshare", "-m", "sh", "-ec", shell, "sh", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )
        if check:
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()
        return done

    return run
