"""A user's iterator and the thread that draws from it. No process."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections import deque
from multiprocessing.pool import _helper_reraises_exception, mapstar

import pytest

from arrowpool.engine.recorder import Recorder
from arrowpool.engine.source import Source, tasks_of

LIMIT = 30


class Reader:
    """Takes from a source as the feeder does."""

    def __init__(self, iterable, function=abs):
        self._said = queue.SimpleQueue()
        self.took = []
        self.source = Source(tasks_of(0, function, iterable), self._said.put, self.took.append, Recorder())
        self.source.start()

    def next(self):
        while not self.source.has_some():
            self._said.get(timeout=LIMIT)
        return next(self.source)[3][0]

    def ended(self):
        return self.source.join(LIMIT)


@pytest.fixture
def read():
    readers = []

    def make(*arguments):
        readers.append(Reader(*arguments))
        return readers[-1]

    yield make
    for reader in readers:
        reader.source.close()
        assert reader.ended()


def test_only_what_is_asked_for_is_drawn(read):
    drawn = []
    reader = read(drawn.append(i) or i for i in range(10))
    assert reader.source.may_go_on()
    reader.source.ask(3)
    assert [reader.next() for _ in range(3)] == [0, 1, 2]
    assert not reader.source.has_some()
    assert drawn == [0, 1, 2]
    reader.source.ask(1)
    assert reader.next() == 3


def test_it_stops_behind_what_could_change(read):
    buffer = [0]

    def states():
        for i in range(4):
            yield i
            buffer[0] = i
            yield buffer

    reader = read(states())
    for i in range(4):
        reader.source.ask(100)
        assert reader.next() == i
        assert reader.next() == [i], "it went on before this was read"
        assert reader.source.may_go_on()


def test_it_may_go_on_ahead_only_of_plain_values(read):
    reader = read([1, 2, 3, 4, "5", [6], 7])
    reader.source.ask(4)
    taken = [reader.next()]
    taken += [reader.next() for _ in range(2)]
    while not reader.source.may_go_on():  # it appends the last one of those asked for
        assert not reader.source.has_some()
    reader.source.ask(4)
    taken += [reader.next(), reader.next()]
    while not reader.source.has_some():
        pass
    assert not reader.source.may_go_on(), "a list waits to be encoded"
    taken.append(reader.next())
    assert reader.source.may_go_on()
    assert taken == [1, 2, 3, 4, "5", [6]]


class Looking(deque):
    """Before something is appended, the reader has looked whether the iterator may go on."""

    def __init__(self, may_go_on):
        super().__init__()
        self._may_go_on = may_go_on
        self.answers = []

    def append(self, drawn):
        self.answers.append(self._may_go_on())
        super().append(drawn)


def test_it_does_not_go_on_before_the_last_task_is_there(read):
    """The feeder, which finds none there, would let the iterator change it before it is encoded."""
    reader = read([[0], [1], [2]])
    looking = reader.source._there = Looking(reader.source.may_go_on)
    for i in range(3):
        reader.source.ask(1)
        assert reader.next() == [i]
    assert looking.answers == [False] * 3


def test_a_request_is_not_ended_by_the_tasks_of_an_earlier_one(read):
    goes_on = threading.Event()

    def items():
        yield from range(4)
        assert goes_on.wait(LIMIT)
        yield from range(4, 10)

    reader = read(items())
    reader.source.ask(4)
    assert [reader.next() for _ in range(2)] == [0, 1]
    while not reader.source.may_go_on():
        pass
    reader.source.ask(4)
    assert not reader.source.may_go_on()
    assert [reader.next() for _ in range(2)] == [2, 3]
    assert not reader.source.may_go_on(), "it is drawn from"
    goes_on.set()
    assert [reader.next() for _ in range(4)] == [4, 5, 6, 7]
    assert reader.source.may_go_on()


def test_chunks_are_plain_if_all_in_them_is(read):
    reader = read([(abs, (1, 2)), (abs, (3, [4])), (abs, (5,))], mapstar)
    reader.source.ask(10)
    assert [reader.next()[1] for _ in range(2)] == [(1, 2), (3, [4])]
    assert not reader.source.has_some()


def test_the_end_and_errors(read):
    def items(error):
        yield 1
        raise error

    reader = read(items(ValueError("here")))
    reader.source.ask(5)
    assert reader.next() == 1
    assert isinstance(reader.next(), ValueError)
    for _ in range(2):
        if reader.source.may_go_on():
            reader.source.ask(1)
    with pytest.raises(StopIteration):
        reader.next()
    assert reader.ended()
    reader = read(items(SystemExit("here")))
    reader.source.ask(5)
    assert reader.next() == 1
    with pytest.raises(SystemExit):
        reader.next()
    reader.source.ask(1)
    with pytest.raises(StopIteration):
        reader.next()
    assert reader.ended()


def test_it_stays_at_its_end(read):
    """Several tasks are taken at a time: the end that comes behind them must be met once more."""
    reader = read([0, 1])
    reader.source.ask(5)
    assert [reader.next() for _ in range(2)] == [0, 1]
    assert reader.ended()
    for _ in range(2):
        assert reader.source.has_some()
        assert reader.source.count() == 1
        with pytest.raises(StopIteration):
            next(reader.source)


def test_closing_lets_go_of_a_generator_that_waits_to_be_asked(read):
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    reader = read(endless())
    reader.source.ask(1)
    assert reader.next() == 1
    reader.source.close()
    assert reader.ended()
    assert closed.is_set()


def test_closing_does_not_wait_for_one_that_blocks(read):
    blocks, goes_on = threading.Event(), threading.Event()

    class Item:
        pass

    def items(first):
        yield first.pop()
        blocks.set()
        assert goes_on.wait(LIMIT)
        yield 2
        raise AssertionError("asked for more")

    item = Item()
    gone = weakref.ref(item)
    reader = read(items([item]))
    del item
    reader.source.ask(1)
    reader.next()
    reader.source.ask(10)
    assert blocks.wait(LIMIT)
    reader.source.close()
    gc.collect()
    assert gone() is None, "what was given is kept alive"
    assert not reader.source.join(0)
    goes_on.set()
    assert reader.ended()
    assert not reader.source.has_some()


@pytest.mark.parametrize(
    ("items", "length", "indexes", "errors"),
    [
        ([5, 6], None, [0, 1], 0),
        ([5, 6], 2, [0, 1], 0),
        ([5, 6, 7], 2, [0, 1], 0),  # it has grown
        ([5], 3, [0, 1, 2], 2),
        ([], None, [], 0),
        ([], 0, [], 0),
    ],
)
def test_tasks_of(items, length, indexes, errors):
    tasks = list(tasks_of(7, abs, items, length))
    assert [task[1] for task in tasks] == indexes
    assert {task[0] for task in tasks} <= {7}
    failing = [task for task in tasks if task[2] is _helper_reraises_exception]
    assert len(failing) == errors
    assert failing == tasks[len(tasks) - errors :]
    assert [task[3] for task in tasks[: len(tasks) - errors]] == [(item,) for item in items[: len(tasks) - errors]]


def test_tasks_of_what_raises():
    def items():
        yield 1
        raise KeyError("x")

    assert [task[2] for task in tasks_of(0, abs, items())] == [abs, _helper_reraises_exception]
    assert [task[2] for task in tasks_of(0, abs, items(), 4)] == [abs] + [_helper_reraises_exception] * 3
    assert [task[2] for task in tasks_of(0, abs, 5)] == [_helper_reraises_exception]
