"""A separate shelf for each test, its places, and processes that read from it."""

from __future__ import annotations

import contextlib
import json
import os
import textwrap

import numpy as np
import pytest

from arrowpool.memory import platform
from arrowpool.shelf import directories, remote, store
from tests import programs
from tests.shelf.processes import Elsewhere, put_full

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def _own_shelf(own_shelf):
    """Used by every test in this folder."""


@pytest.fixture(params=["exchange", "no exchange"])
def renames(request, monkeypatch):
    """A file system that exchanges two names in one step, and one that cannot."""
    if request.param == "no exchange":
        monkeypatch.setattr(platform, "exchange", lambda directory, one, other: False)


@pytest.fixture
def two_roots(tmp_path, monkeypatch):
    """Two places for shelves. Large objects go to the second."""
    places = [tmp_path / "memory", tmp_path / "disk"]
    monkeypatch.setattr(directories, "roots", lambda: (places, False))
    fits = store._fits

    def fits_like_that(directory, nbytes):
        is_first = os.path.realpath(f"/proc/self/fd/{directory}").startswith(str(places[0]))
        return fits(directory, nbytes) and (nbytes < 100_000 or not is_first)

    monkeypatch.setattr(store, "_fits", fits_like_that)
    return places


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


def value(number, *, large=False):
    return np.full(30_000 if large else 5_000, number, dtype=np.int64)


def number_of(array):
    assert (array == array[0]).all()
    return int(array[0])


def everything_in(*roots):
    return sorted(str(path.relative_to(root)) for root in roots for path in root.glob("*/*"))
