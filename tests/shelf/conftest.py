"""A separate shelf for each test, and processes that read from it."""

from __future__ import annotations

import contextlib
import json
import os
import textwrap

import pytest

from arrowpool.shelf import remote
from tests import programs
from tests.shelf.processes import Elsewhere, put_full

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def _own_shelf(own_shelf):
    """Used by every test in this folder."""


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


@pytest.fixture(params=["looks", "asks"])
def way(request, monkeypatch):
    """A reader that may look into its owner's descriptors, and one that may not, and has to ask."""
    if request.param == "asks":
        monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
    return request.param


@pytest.fixture
def elsewhere_process():
    """Fork processes that run functions: ``elsewhere_process()`` starts one and returns its `Elsewhere`."""
    with contextlib.ExitStack() as started:

        def start():
            one = Elsewhere()
            started.callback(one.close)
            return one

        yield start


@pytest.fixture
def stopped_owner(elsewhere_process):
    """A process that holds an object and is stopped, and the key of the object."""
    one = elsewhere_process()
    key = one.do(put_full, 3)
    one.stop()
    return one, key


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
