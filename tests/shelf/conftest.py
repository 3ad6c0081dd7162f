"""A shelf of its own for every test, and processes that read from it."""

from __future__ import annotations

import json
import os
import textwrap

import pytest

from tests import programs

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def _own_shelf(own_shelf):
    """For every test here."""


@pytest.fixture
def elsewhere(tmp_path):
    """Run a program in another process: ``elsewhere(program, *args)`` returns its output."""

    def run(program, *args, prepare=None, check=True):
        script = tmp_path / "elsewhere.py"
        script.write_text("import sys, arrowpool\n" + textwrap.dedent(program))
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        done = programs.run([script, *args], timeout=60, env=environment, prepare=prepare)
        if check:
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()
        return done

    return run


def as_nobody(work):
    """Run `work` in a forked child that has become another user; return what it returned."""

    def drop():
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        return work()

    return in_a_child(drop)


def in_a_child(work):
    """Run `work` in a forked child; return what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = json.loads(file.read())
    os.waitpid(child, 0)
    return answer
