"""A shelf of persistent objects has the effect of a dictionary, whatever is done to both."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

import arrowpool
from arrowpool import Shelf, ShelfKeyError
from tests.shelf.conftest import everything_in, number_of, value


class AsADictionary(RuleBasedStateMachine):
    """Each operation has the same effect on a shelf and on a dictionary."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.model = {}
        self.held = []
        self.shelves = {name: Shelf(name) for name in ("default", "features")}

    @rule(
        target=names, name=st.one_of(st.from_regex(r"[a-c0-9_][a-c0-9.-]{0,2}", fullmatch=True), st.just("2024-01-15"))
    )
    def named(self, name):
        return name

    @rule(shelf=st.sampled_from(["default", "features"]), name=names, number=st.integers(0, 99), large=st.booleans())
    def put(self, shelf, name, number, large):
        full = self.shelves[shelf].put(value(number, large=large), name)
        assert full == (name if shelf == "default" else f"features/{name}")
        self.model[shelf, name] = number

    @rule(shelf=st.sampled_from(["default", "features"]), name=names)
    def get(self, shelf, name):
        for ask in self.ways(shelf, name, "get"):
            if (shelf, name) in self.model:
                array = ask()
                assert number_of(array) == self.model[shelf, name]
                self.held = [*self.held[-3:], (array, self.model[shelf, name])]
            else:
                with pytest.raises(ShelfKeyError):
                    ask()

    @rule(shelf=st.sampled_from(["default", "features"]), name=names)
    def look(self, shelf, name):
        assert {ask() for ask in self.ways(shelf, name, "exists")} == {(shelf, name) in self.model}
        for ask in self.ways(shelf, name, "info") if (shelf, name) in self.model else ():
            assert ask().key == (name if shelf == "default" else f"features/{name}")

    @rule(shelf=st.sampled_from(["default", "features"]), name=consumes(names), by_full_key=st.booleans())
    def delete(self, shelf, name, by_full_key):
        ask = self.ways(shelf, name, "delete")[by_full_key]
        if self.model.pop((shelf, name), None) is None:
            with pytest.raises(ShelfKeyError):
                ask()
        else:
            ask()

    @rule(shelf=st.sampled_from(["default", "features"]))
    def delete_all(self, shelf):
        self.shelves[shelf].delete_all()
        self.model = {key: number for key, number in self.model.items() if key[0] != shelf}

    def ways(self, shelf, name, what):
        full = f"{shelf}/{name}"
        return [lambda: getattr(self.shelves[shelf], what)(name), lambda: getattr(arrowpool, what)(full)]

    @invariant()
    def same_keys(self):
        listed = {key for shelf in self.shelves.values() for key in shelf.list_keys()}
        assert listed == {name if shelf == "default" else f"{shelf}/{name}" for shelf, name in self.model}

    @invariant()
    def what_was_read_stays(self):
        assert all(number_of(array) == number for array, number in self.held)

    def teardown(self):
        self.held.clear()
        for shelf in self.shelves.values():
            shelf.delete_all()


def test_a_shelf_is_a_dictionary(renames, two_roots):
    run_state_machine_as_test(
        AsADictionary,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert everything_in(*two_roots) == []
