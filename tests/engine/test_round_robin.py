"""Whose turn it is, as a table. No thread, no process."""

from __future__ import annotations

import pytest

from arrowpool.engine.round_robin import Turns
from tests.workers import a_call


class FakeSource:
    def __init__(self, count):
        self.count = count
        self.closed = False

    def has_some(self):
        return self.count > 0

    def close(self):
        self.closed = True


class Calls:
    """Calls by name, which say what they give."""

    def __init__(self, **counts):
        self.held_back = set()
        self.turns = Turns(lambda call: call.job in self.held_back)
        self.left = {}
        self.by_name = {}
        for job, (name, count) in enumerate(counts.items()):
            call = self.by_name[name] = a_call(job)
            if name.isupper():  # it has a source
                call.source = FakeSource(count)
            self.left[job] = count
            self.turns.add(call)
            if name.isupper() and count:
                self.turns.drawn(job)

    def name(self, call):
        return next(name for name, one in self.by_name.items() if one is call)

    def give(self, most=100):
        """Names of the calls that give tasks, in order."""
        given = ""
        while len(given) < most and (call := self.turns.next()) is not None:
            assert self.turns.next() is call, "asking changes nothing"
            if call.source is None and not self.left[call.job]:
                self.turns.exhausted(call)
                continue
            self.left[call.job] -= 1
            if call.source is not None:
                call.source.count -= 1
            self.turns.took(call)
            given += self.name(call)
        return given


@pytest.mark.parametrize(
    ("counts", "given"),
    [
        ({}, ""),
        ({"a": 3}, "aaa"),
        ({"a": 2, "b": 2, "c": 1}, "aabbc"),  # one after the other
        ({"A": 2}, "AA"),
        ({"A": 2, "B": 3, "C": 1}, "ABCABB"),  # in turns
        ({"a": 3, "A": 3}, "aAaAaA"),  # both kinds in turns
        ({"a": 1, "A": 3, "b": 1}, "aAbAA"),
        ({"A": 0, "b": 2}, "bb"),
    ],
)
def test_the_order(counts, given):
    assert Calls(**counts).give() == given


def test_an_endless_call_leaves_half_to_others():
    calls = Calls(A=10**6, b=50, C=50)
    given = calls.give(200)
    assert given.count("b") == 50
    assert given.count("C") == 50


def test_a_source_is_asked_again_only_when_it_says_so():
    calls = Calls(A=1, b=1)
    assert calls.give() == "bA"
    calls.by_name["A"].source.count = 2
    assert calls.turns.next() is None
    calls.turns.drawn(0)
    calls.turns.drawn(0)  # said twice
    assert calls.give() == "AA"
    calls.turns.drawn(77)  # of a call that is over
    assert calls.turns.next() is None


@pytest.mark.parametrize("name", ["a", "A"])
def test_one_that_is_held_back_gives_nothing_until_it_is_released(name):
    calls = Calls(**{name: 2, "b": 1})
    calls.held_back.add(0)
    assert calls.give() == "b"
    calls.turns.drawn(0)
    assert calls.turns.next() is None
    calls.turns.release(0)
    assert calls.turns.next() is None, "it is too much still"
    calls.held_back.clear()
    assert calls.turns.next() is None, "nobody looks again by itself"
    calls.turns.release_all()
    calls.turns.release(0)
    assert calls.give() == name * 2


def test_one_that_ends_while_held_back():
    calls = Calls(a=2, A=2)
    calls.held_back |= {0, 1}
    assert calls.give() == ""
    for call in list(calls.by_name.values()):
        source = call.source
        calls.turns.exhausted(call)
        assert source is None or source.closed
    calls.held_back.clear()
    calls.turns.release_all()
    assert calls.give() == ""
    assert len(calls.turns) == 2, "tasks of them may be under way"
    for call in calls.by_name.values():
        calls.turns.over(call)
    assert len(calls.turns) == 0
    assert calls.turns.find(0) is None


def test_ending_lets_go_of_the_items():
    class Item:
        pass

    import weakref

    item = Item()
    gone = weakref.ref(item)
    call = a_call(3)
    call.tasks = iter([item])
    turns = Turns(lambda _: False)
    turns.add(call)
    del item
    turns.exhausted(call)
    assert gone() is None
    assert turns.find(3) is call
