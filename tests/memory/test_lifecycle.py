"""The lifecycle manager's rules, as a table and under random sequences of events. No memory, no process."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arrowpool.memory.lifecycle import LifecycleManager, Segment


def placed(manager, offset=0, size=100):
    segment = Segment(offset, size)
    manager.placed(segment)
    return segment


def test_a_pin_alone():
    manager = LifecycleManager()
    segment = placed(manager)
    assert manager.bytes_live == 100
    assert manager.unpin([segment]) == [segment]
    assert manager.bytes_live == 0
    assert not manager.live


def test_a_lease_outlives_the_pin():
    manager = LifecycleManager()
    manager.consumer_joined("w")
    segment = placed(manager)
    slot = manager.grant(segment, "w")
    assert manager.unpin([segment]) == []
    assert manager.grants() == 1
    assert manager.released("w", [slot]) == [segment]


def test_two_leases_of_one_consumer_have_two_slots():
    manager = LifecycleManager()
    manager.consumer_joined("w")
    segment = placed(manager)
    first, second = manager.grant(segment, "w"), manager.grant(segment, "w")
    assert first != second
    manager.unpin([segment])
    assert manager.released("w", [first]) == []
    assert manager.released("w", [second]) == [segment]
    assert manager.slots_in_use("w") == 0


def test_the_death_of_a_consumer_ends_all_its_leases_and_only_its():
    manager = LifecycleManager()
    manager.consumer_joined("a")
    manager.consumer_joined("b")
    mine, ours = placed(manager), placed(manager, 100)
    manager.grant(mine, "a")
    manager.grant(ours, "a")
    manager.grant(ours, "a")
    slot = manager.grant(ours, "b")
    manager.unpin([mine, ours])
    assert manager.consumer_lost("a") == [mine]
    assert manager.consumer_lost("a") == []
    assert manager.released("b", [slot]) == [ours]


def test_slots_are_used_again():
    manager = LifecycleManager()
    manager.consumer_joined("w")
    segment = placed(manager)
    slots = [manager.grant(segment, "w") for _ in range(3)]
    manager.released("w", [slots[1]])
    assert manager.grant(segment, "w") == slots[1]
    assert manager.slots_in_use("w") == 3


@pytest.mark.parametrize("move", ["pin", "unpin", "grant", "placed twice", "joined twice"])
def test_an_illegal_move_raises_and_changes_nothing(move):
    manager = LifecycleManager()
    manager.consumer_joined("w")
    segment, gone = placed(manager), placed(manager, 100)
    manager.unpin([gone])
    before = repr(manager)
    illegal = {
        "pin": lambda: manager.pin(gone),
        "unpin": lambda: manager.unpin([gone]),
        "grant": lambda: manager.grant(gone, "w"),
        "placed twice": lambda: manager.placed(segment),
        "joined twice": lambda: manager.consumer_joined("w"),
    }
    with pytest.raises(ValueError, match=r"live|joined"):
        illegal[move]()
    assert repr(manager) == before


class LifecycleMachine(RuleBasedStateMachine):
    """Against a model that lists every hold by name: a segment is free exactly when its list is empty."""

    def __init__(self):
        super().__init__()
        self.manager = LifecycleManager()
        self.holds: dict[Segment, list[object]] = {}
        self.leases: dict[str, dict[int, Segment]] = {}
        self.freed: list[Segment] = []

    def drop(self, segment, hold, freed):
        self.holds[segment].remove(hold)
        if not self.holds[segment]:
            del self.holds[segment]
            assert segment in freed
        else:
            assert segment not in freed

    @rule(size=st.integers(1, 1000))
    def place(self, size):
        segment = Segment(0, size)
        self.manager.placed(segment)
        self.holds[segment] = ["pin"]

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def pin(self, data):
        segment = data.draw(st.sampled_from(list(self.holds)))
        self.manager.pin(segment)
        self.holds[segment].append("pin")

    @precondition(lambda self: any("pin" in holds for holds in self.holds.values()))
    @rule(data=st.data())
    def unpin(self, data):
        segment = data.draw(st.sampled_from([s for s, holds in self.holds.items() if "pin" in holds]))
        self.drop(segment, "pin", self.manager.unpin([segment]))

    @rule(name=st.sampled_from("abc"))
    def join_or_lose(self, name):
        if name not in self.leases:
            self.manager.consumer_joined(name)
            self.leases[name] = {}
            return
        leases = self.leases.pop(name)
        freed = self.manager.consumer_lost(name)
        expected = []
        for slot, segment in leases.items():
            self.holds[segment].remove((name, slot))
            if not self.holds[segment]:
                del self.holds[segment]
                expected.append(segment)
        assert sorted(map(id, freed)) == sorted(map(id, expected))

    @precondition(lambda self: self.holds and self.leases)
    @rule(data=st.data())
    def grant(self, data):
        segment = data.draw(st.sampled_from(list(self.holds)))
        name = data.draw(st.sampled_from(sorted(self.leases)))
        slot = self.manager.grant(segment, name)
        assert slot not in self.leases[name]
        self.leases[name][slot] = segment
        self.holds[segment].append((name, slot))

    @precondition(lambda self: any(self.leases.values()))
    @rule(data=st.data())
    def release(self, data):
        name = data.draw(st.sampled_from(sorted(n for n, leases in self.leases.items() if leases)))
        slot = data.draw(st.sampled_from(sorted(self.leases[name])))
        segment = self.leases[name].pop(slot)
        self.drop(segment, (name, slot), self.manager.released(name, [slot]))

    @invariant()
    def books_agree(self):
        assert self.manager.live == set(self.holds)
        assert self.manager.bytes_live == sum(segment.size for segment in self.holds)
        assert self.manager.grants() == sum(map(len, self.leases.values()))
        for name, leases in self.leases.items():
            assert all(slot < self.manager.slots_in_use(name) for slot in leases)


TestLifecycle = LifecycleMachine.TestCase
