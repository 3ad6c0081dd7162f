"""Copies in several threads: all made, or none runs any more."""

from __future__ import annotations

import functools
import threading
import weakref

import pytest

from arrowpool.transport.copiers import Copiers, _Helper

LIMIT = 30


@pytest.fixture
def copiers():
    copiers = Copiers(3)
    yield copiers
    copiers.close()


def test_every_copy_is_made_once(copiers):
    for count in (1, 2, 50):
        made = []
        copiers.run([functools.partial(made.append, number) for number in range(count)])
        assert sorted(made) == list(range(count))


def test_they_are_made_at_the_same_time(copiers):
    together = threading.Barrier(3, timeout=LIMIT)
    copiers.run([together.wait] * 3)


def test_one_that_fails_does_not_end_the_others(copiers):
    made = []

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copiers.run([fail, *[lambda: made.append(1)] * 10])
    assert len(made) == 10
    copiers.run([lambda: made.append(1)])
    assert len(made) == 11


def test_where_no_thread_can_be_started(copiers, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    made = []
    with monkeypatch.context() as patch:
        patch.setattr(_Helper, "start", refuse)
        copiers.run([lambda: made.append(threading.current_thread())] * 4)
    assert made == [threading.current_thread()] * 4
    together = threading.Barrier(3, timeout=LIMIT)
    copiers.run([together.wait] * 3)  # they can again


def test_nothing_of_a_copy_is_kept(copiers):
    class Copy:
        def __call__(self):
            pass

    copy, ended = Copy(), threading.Event()
    weakref.finalize(copy, ended.set)
    copiers.run([copy] * 8)
    del copy
    assert ended.wait(LIMIT)
