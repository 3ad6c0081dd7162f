"""Where the object is that cannot be pickled: found after the failure, without code of the user's."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import multiprocessing
import pickle
import sys
import threading
import typing
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest

from arrowpool.transport import culprits
from arrowpool.transport.contents import parts, shown
from arrowpool.transport.culprits import explain, in_task
from arrowpool.transport.protocol import Star
from arrowpool.transport.reducer import Reducer
from arrowpool.transport.resolution import Reach

LOCK = threading.Lock()


class Pair(typing.NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Config:
    name: str
    db: object


class Slots:
    __slots__ = ("db", "unset")

    def __init__(self, db):
        self.db = db


class Below(Slots):
    pass


class Drops:
    """Says itself what is pickled, and leaves the lock out."""

    def __init__(self):
        self.lock = LOCK

    def __getstate__(self):
        return {}


class Keeps(Drops):
    def __getstate__(self):
        return {"state": self.lock}


class Raises:
    def __reduce__(self):
        raise ValueError("my own reason")


class Mapping(dict):
    def keys(self):
        raise RuntimeError("code of the user's")

    def __iter__(self):
        raise RuntimeError("code of the user's")


class Hostile:
    """Whatever is asked of it, raises: it has to be left alone."""

    def __getattribute__(self, name):
        if name in ("__reduce_ex__", "__class__", "__reduce__"):
            return object.__getattribute__(self, name)
        raise RuntimeError("code of the user's")

    def __reduce_ex__(self, protocol):
        return str, ()

    def __eq__(self, other):
        raise RuntimeError("code of the user's")

    __hash__ = None


def captures(lock):
    return lambda: lock


def uses_a_global():
    return LOCK


def with_default(lock=LOCK):
    return lock


def error_of(obj, by_value=True):
    reducer = Reducer(inline_limit=sys.maxsize, reach=Reach(forks=True) if by_value else None)
    try:
        reducer.reduce(obj)
    except Exception as error:
        return error
    raise AssertionError("it can be pickled")


def notes_of(error):
    """Without those of CPython, which says where pickle was, from 3.14 on."""
    return [note for note in error.__notes__ if not note.startswith("when serializing ")]


def path_of(obj, by_value=True):
    error = error_of(obj, by_value)
    before = type(error), error.args
    assert explain(error, [("argument 0", obj)]) == 0
    assert (type(error), error.args) == before
    (note,) = notes_of(error)
    return note.partition(": ")[0]


loop = []
loop.append(loop)
shared = {"first": [1, 2], "lock": LOCK}

CASES = {
    "itself": (lambda: LOCK, "argument 0"),
    "a dict": (lambda: {"a": 1, "db": LOCK}, "argument 0, key 'db'"),
    "a key": (lambda: {LOCK: 1}, "argument 0, the key <lock>"),
    "a long key": (lambda: {"k" * 100: LOCK}, f"argument 0, key '{'k' * 56}..."),
    "a tuple as key": (lambda: {("a", 1): LOCK}, "argument 0, key ('a', 1)"),
    "lists and tuples": (lambda: [1, ([2, LOCK],)], "argument 0, element 1, element 0, element 1"),
    "a set": (lambda: {1, LOCK}, "argument 0, an element"),
    "a deque": (lambda: collections.deque([1, LOCK]), "argument 0, element 1"),
    "a named tuple": (lambda: Pair(1, LOCK), "argument 0, field 'right'"),
    "a dataclass": (lambda: Config("x", {"db": LOCK}), "argument 0, attribute 'db', key 'db'"),
    "slots": (lambda: Slots(LOCK), "argument 0, attribute 'db'"),
    "slots of a base": (lambda: Below(LOCK), "argument 0, attribute 'db'"),
    "a subclass of dict": (lambda: Mapping(a=LOCK), "argument 0, key 'a'"),
    "a default factory": (
        lambda: collections.defaultdict(captures(LOCK)),
        "argument 0, the default_factory, captured variable 'lock'",
    ),
    "a partial": (lambda: functools.partial(print, 1, file=LOCK), "argument 0, argument 'file' of the partial"),
    "a closure": (lambda: captures(LOCK), "argument 0, captured variable 'lock'"),
    "a bound method": (lambda: Config("x", LOCK).__repr__, "argument 0, the object of the method, attribute 'db'"),
    "a builtin's method": (lambda: [LOCK].append, "argument 0, the object of the method, element 0"),
    "an exception": (lambda: ValueError("x", LOCK), "argument 0, argument 1 of the exception"),
    "an array": (lambda: np.array([[1, None], [2, LOCK]], dtype=object), "argument 0, element 1, 1"),
    "a column": (lambda: pd.DataFrame({"a": ["x", object], "b": [1, LOCK]}), "argument 0, column 'b', row 1"),
    "a series": (lambda: pd.Series([1, LOCK], index=["x", "y"]), "argument 0, row 1"),
    "attrs": (lambda: with_attrs(pd.DataFrame({"a": [1]})), "argument 0, the attrs, key 'source'"),
    "a loop": (lambda: [loop, LOCK], "argument 0, element 1"),
    "what drops its lock first": (lambda: [Drops(), shared], "argument 0, element 1, key 'lock'"),
    "what drops its lock before an object": (
        lambda: [Drops(), Config("x", LOCK)],
        "argument 0, element 1, attribute 'db'",
    ),
    "what keeps its lock": (lambda: [1, Keeps()], "argument 0, element 1, attribute 'lock'"),
    "what raises": (lambda: {"a": [Raises()]}, "argument 0, key 'a', element 0"),
    "a lock of multiprocessing": (lambda: {"a": multiprocessing.Lock()}, "argument 0, key 'a'"),
    "a file": (lambda: [io.StringIO(), sys.__stdout__], "argument 0, element 1"),
    "hostile objects around": (lambda: [Hostile(), {"a": Hostile()}, LOCK], "argument 0, element 2"),
    "an interpreter's frame": (lambda: [sys._getframe()], "argument 0, element 0"),
    "a generator": (lambda: [iter(range(3)), (x for x in "ab")], "argument 0, element 1"),
}


def test_no_step_leads_into_a_frame_of_the_interpreter():
    """From one, everything in the process can be reached, and the search would end there."""
    for obj in ((x for x in "ab"), sys._getframe(), (lambda: 1).__code__):
        assert list(parts(obj)) == []


def with_attrs(frame):
    frame.attrs["source"] = LOCK
    return frame


@pytest.mark.parametrize("case", CASES)
def test_the_path_to_what_cannot_be_pickled(case):
    make, path = CASES[case]
    assert path_of(make()) == path


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: {"f": captures(1)}, "argument 0, key 'f'"),
        (lambda: {"f": lambda: 1}, "argument 0, key 'f'"),
        (lambda: [local_class()()], "argument 0, element 0"),
        (lambda: [local_class()], "argument 0, element 0"),
    ],
)
def test_what_goes_by_name_only(make, path):
    """Results: functions and classes that nothing can import."""
    assert path_of(make(), by_value=False) == path


def local_class():
    class Local:
        pass

    return Local


@pytest.mark.parametrize(
    ("star", "payload", "number", "path"),
    [
        (Star.CALL, ((1, LOCK), {}), 1, "argument 1"),
        (Star.CALL, ((1,), {"db": [LOCK]}), 1, "argument 'db', element 0"),
        (Star.MAP, (1, 2, {"a": LOCK}), 2, "argument 0, key 'a'"),
        (Star.MAP_ALL, (LOCK,), 0, "argument 0"),
        (Star.STARMAP, ((1, 2), (1, [LOCK])), 1, "argument 1, element 0"),
        (Star.STARMAP_ALL, ([LOCK], (1, 2)), 0, "argument 0"),
        (Star.STARMAP, (1, LOCK), 1, "the arguments"),
    ],
)
def test_the_arguments_of_a_task(star, payload, number, path):
    error = error_of(payload)
    assert explain(error, in_task(star, payload)) == number
    assert notes_of(error)[0].partition(": ")[0] == path


@pytest.mark.parametrize(
    ("make", "returned", "advice"),
    [
        (
            lambda: LOCK,
            False,
            "a _thread.lock, which cannot be pickled. Make it in the task, or once in each worker with",
        ),
        (lambda: LOCK, True, "a _thread.lock, which cannot be pickled. Return its data instead."),
        (lambda: (x for x in "ab"), True, "a generator, which cannot be pickled. Make a list of it."),
        (Raises, False, f"a {__name__}.Raises, which cannot be pickled. Make it"),
    ],
)
def test_what_to_do(make, returned, advice):
    obj = make()
    error = error_of([obj])
    explain(error, [("it", [obj])], returned)
    assert notes_of(error)[0].startswith(f"it, element 0: {advice}")


def test_what_is_not_found_gets_no_note():
    for error in (
        ValueError("something else"),
        TypeError("cannot pickle 'nothing.Such' object"),
        pickle.PicklingError(),
    ):
        assert explain(error, [("it", [1, LOCK, {"a": Hostile()}])]) is None
        assert not hasattr(error, "__notes__")


class Mute(TypeError):
    def __str__(self):
        raise RuntimeError("code of the user's")


def test_it_never_fails():
    for roots in ([("it", Hostile())], [("it", {1: Mute()})], [], None, [1]):
        for error in (Mute(), TypeError("cannot pickle '_thread.lock' object")):
            assert explain(error, roots) is None


def test_deep_and_large_objects_take_a_while_at_most():
    deep = [LOCK]
    for _ in range(20_000):
        deep = [deep]
    error = TypeError("cannot pickle '_thread.lock' object")
    assert explain(error, [("it", deep)]) == 0
    path = notes_of(error)[0].partition(": ")[0].split(", ")
    assert path == ["it", *["element 0"] * 9, "19,982 more steps", *["element 0"] * 10]
    large = [[] for _ in range(culprits._MOST_STEPS)] + [LOCK]
    error = TypeError("cannot pickle '_thread.lock' object")
    assert explain(error, [("it", large)]) is None


def test_a_container_that_changes_meanwhile():
    class Growing(dict):
        pass

    growing = Growing(a=1, b=LOCK)
    error = error_of(growing)
    walk = iter([("it", growing)])

    def disturbed():
        yield from walk
        growing["c"] = 2

    assert explain(error, disturbed()) == 0
    with contextlib.suppress(Exception):
        ForkingPickler.dumps(growing)


def test_keys_are_shown_briefly():
    assert shown("db") == "'db'"
    assert shown(1.5) == "1.5"
    assert shown(Hostile()) == "<Hostile>"
    assert shown(("a", Hostile())) == "('a', <Hostile>)"
    assert len(shown("x" * 1000)) == 60
