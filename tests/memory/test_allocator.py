"""The interval set and the allocator against the simplest model there is: a Python set of integers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from arrowpool.memory.allocator import Allocator, IntervalSet

CAPACITY = 64

intervals = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.tuples(st.booleans(), intervals), max_size=30))
def test_interval_set_is_a_set(steps):
    tested, model = IntervalSet(), set()
    for adding, (start, end) in steps:
        if adding:
            tested.add(start, end)
            model |= set(range(start, end))
        else:
            removed = {i for s, e in tested.remove(start, end) for i in range(s, e)}
            assert removed == model & set(range(start, end))
            model -= set(range(start, end))
        pieces = list(tested)
        assert {i for s, e in pieces for i in range(s, e)} == model
        assert tested.total() == len(model)
        assert all(a_end < b_start for (_, a_end), (b_start, _) in itertools.pairwise(pieces))


def test_first_fit_is_the_lowest():
    tested = IntervalSet()
    for start, end in ((0, 2), (10, 20), (30, 90)):
        tested.add(start, end)
    assert tested.first_fit(1) == 0
    assert tested.first_fit(3) == 10
    assert tested.first_fit(11) == 30
    assert tested.first_fit(61) is None


class AllocatorMachine(RuleBasedStateMachine):
    """No two ranges overlap, nothing is lost, and what is said to be cold was never written since it was."""

    ranges = Bundle("ranges")

    def __init__(self):
        super().__init__()
        self.allocator = Allocator(CAPACITY)
        self.used: set[int] = set()
        self.warm: set[int] = set()

    @rule(target=ranges, size=st.integers(1, 20))
    def allocate(self, size):
        found = self.allocator.allocate(size)
        if found is None:
            free = sorted(set(range(CAPACITY)) - self.used)
            assert not any(set(range(at, at + size)) <= set(free) for at in free)
            return (0, 0)
        start, cold = found
        taken = set(range(start, start + size))
        assert not taken & self.used
        assert taken <= set(range(CAPACITY))
        assert {i for s, e in cold for i in range(s, e)} == taken - self.warm
        self.used |= taken
        self.warm |= taken
        return (start, size)

    @rule(held=consumes(ranges))
    def free(self, held):
        start, size = held
        if size:
            self.allocator.free(start, size)
            self.used -= set(range(start, start + size))

    @rule()
    def chill(self):
        given_back = {i for s, e in self.allocator.chill() for i in range(s, e)}
        assert given_back == self.warm - self.used
        self.warm &= self.used

    @invariant()
    def adds_up(self):
        assert self.allocator.used == len(self.used)
        assert self.allocator.resident() == len(self.warm)


TestAllocator = AllocatorMachine.TestCase
