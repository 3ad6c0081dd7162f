"""Every awkward object through a real pool, there and back, under every start method: as pickle delivers it."""

from __future__ import annotations

import functools

import polars as pl
import pytest

from tests.codecs.awkward import AWKWARD
from tests.codecs.harness import as_the_stdlib_does
from tests.codecs.sameness import facts
from tests.pool import tasks

# A third of it is above the size from which memory is shared.
SIZE = 12_000
LIMIT = 60


def use_the_threads_of_polars():
    """They do not run in processes that are forked after that: what is rebuilt there must not need them."""
    pl.DataFrame({"x": [1, 2]}).lazy().select(pl.col("x").sum()).collect()


use_the_threads_of_polars()  # and it keeps descriptors of its own from then on


@pytest.fixture(scope="module")
def objects_of(_pools):
    """The awkward objects of a library, and the facts of each as the standard library's pool would return it.

    Some objects hold files: they go before the module's descriptors are counted.
    """

    @functools.cache
    def objects_of(library):
        chosen = [awkward for awkward in AWKWARD if awkward.library == library]
        objects = [awkward.make(SIZE) for awkward in chosen]
        return chosen, objects, [facts(as_the_stdlib_does(as_the_stdlib_does(obj))) for obj in objects]

    yield objects_of
    objects_of.cache_clear()


@pytest.mark.parametrize("library", sorted({awkward.library for awkward in AWKWARD}))
def test_there_and_back(our_pool, objects_of, library):
    chosen, objects, expected = objects_of(library)
    came = our_pool.map_async(tasks.identity, objects, 1).get(LIMIT)
    wrong = [str(awkward) for awkward, fact, back in zip(chosen, expected, came, strict=True) if facts(back) != fact]
    assert not wrong
    del came
    # Anywhere in a structure, as keyword arguments, in a function; what is the same object stays the same object.
    for awkward, obj, fact in list(zip(chosen, objects, expected, strict=True))[::7]:
        nested = our_pool.apply(tasks.identity, (), {"x": {"a": [obj, obj], "b": (1, obj)}})
        assert nested["a"][0] is nested["a"][1] is nested["b"][1], awkward
        assert facts(nested["a"][0]) == fact, awkward
        assert facts(our_pool.apply(lambda obj=obj: obj)) == fact, awkward


@pytest.mark.parametrize("library", ["numpy", "pandas", "pyarrow", "polars"])
def test_results_that_are_changed_change_nothing_else(our_pool, library):
    """Each side writes to its copy where it may. The other side still sees the data that was sent."""
    chosen = [awkward for awkward in AWKWARD if awkward.library == library and awkward.shared][::3]
    objects = [awkward.make(SIZE) for awkward in chosen]
    before = [facts(obj) for obj in objects]
    for _ in range(2):
        scribbled = our_pool.map_async(tasks.scribble, objects, 1).get(LIMIT)
        assert len(scribbled) == len(objects)
        assert [facts(obj) for obj in objects] == before
        for obj in scribbled:
            tasks.scribble(obj)
    came = our_pool.map_async(tasks.identity, objects, 1).get(LIMIT)
    expected = [facts(as_the_stdlib_does(as_the_stdlib_does(obj))) for obj in objects]
    assert [facts(obj) for obj in came] == expected


def test_instances_of_a_class_that_only_the_caller_has(our_pool):
    class Later:
        def __init__(self, x):
            self.x = x

        def doubled(self):
            return Later(2 * self.x)

    assert our_pool.apply(lambda one: one.doubled().x, (Later(1),)) == 2
    came = our_pool.map(lambda x: Later(x).doubled(), range(3))
    assert [type(one) for one in came] == [Later] * 3
    assert [one.doubled().x for one in came] == [0, 4, 8]
