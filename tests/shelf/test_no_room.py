"""No descriptors, no space, half of the objects: an error, and nothing stays."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import threading

import numpy as np
import pytest

import arrowpool
from arrowpool import Shelf
from arrowpool.errors import ArenaFullError
from arrowpool.shelf import directories, this_process
from tests.shelf.conftest import everything_in, in_a_child


@pytest.mark.parametrize("what", ["get", "info", "exists", "delete", "put"])
def test_a_process_without_a_descriptor_left_does_not_say_that_there_is_nothing(what):
    arrowpool.put(1, persist=True, key="k")
    work = {"put": lambda: arrowpool.put(2, persist=True, key="k")}.get(what, lambda: getattr(arrowpool, what)("k"))

    def without():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        opened = []
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        errors = set()
        while True:  # none left, then one, and so on
            try:
                return work() is not False, sorted(errors)
            except OSError as error:
                errors.add(errno.errorcode[error.errno])
            os.close(opened.pop())

    assert in_a_child(without) == [True, ["EMFILE"]]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_the_last_moment(own_shelf, monkeypatch, number):
    arrowpool.put(1, persist=True, key="k")

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directories, "write_file", fail)
    with pytest.raises(ArenaFullError, match=os.strerror(number)):
        arrowpool.put(2, persist=True, key="k")
    assert arrowpool.get("k") == 1
    assert everything_in(own_shelf) == ["default/k"]


@pytest.mark.parametrize("put_many", [arrowpool.put_many, Shelf().put_many, Shelf("named").put_many])
@pytest.mark.parametrize("persist", [False, True])
def test_of_many_that_cannot_all_be_put_none_stays(own_shelf, put_many, persist):
    if put_many is arrowpool.put_many:
        put_many = functools.partial(put_many, persist=persist)

    def objects():
        yield np.zeros(50_000)
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        put_many(objects())
    with pytest.raises(TypeError):
        put_many([np.zeros(50_000), threading.Lock()])
    mine = this_process.current()
    assert mine is None or mine.records() == []
    assert everything_in(own_shelf) == []
