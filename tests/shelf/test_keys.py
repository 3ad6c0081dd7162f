"""Names and keys: which are accepted, and on which shelf each is found."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool import Shelf, ShelfKeyError
from arrowpool.shelf import keys
from tests.shelf.conftest import in_a_child

ODD = [
    "2024-01-15",
    "20240115-12345678-1",
    "2024-01-15-close",
    "1-2",
    "1-2-3",
    "_",
    "x" * 100,
    "a.b",
    "a..",
    "CON",
    "default",
    "1234-abcd123-1",
    "1234-ABCD1234-1",
    "0123-abcd1234-1",
    "x",
    "-x",
    ".x",
    "..",
    "",
    "x/y",
    "x\n",
    "é",
    "日本",
    "x y",
    "x\0",
    "\ud800",
    "x" * 101,
    "1234-abcd1234-1",
    "1-00000000-1",
    None,
    5,
    b"x",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("shelf", ["default", "features"])
def test_what_put_accepts_is_found_and_all_else_refused(shelf, name):
    one = Shelf(shelf)
    if name is None:
        full = one.put("it")
        name = full.rpartition("/")[2]
    else:
        try:
            keys.check_name(name)
        except ValueError:
            with pytest.raises(ValueError, match=r"letters|a process holds"):
                one.put("it", name)
            assert not one.list_keys()
            with pytest.raises(ShelfKeyError):
                one.get(name)
            return
        full = one.put("it", name)
    for ask, key in [(arrowpool, full), (one, full), (one, name), (Shelf("other"), f"{shelf}/{name}")]:
        assert ask.get(key) == "it"
        assert ask.exists(key)
        assert ask.info(key).key == full
        assert ask.memory_usage(key) > 0
    assert one.list_keys() == [full]
    assert full in arrowpool.list_keys()
    one.delete(name)
    assert not one.exists(name)
    assert not arrowpool.exists(full)


def test_keys_are_refused_in_the_words_of_the_rule():
    with pytest.raises(ValueError, match="the form of a key of an object that a process holds"):
        arrowpool.put(1, persist=True, key="1234-abcd1234-1")
    assert isinstance(keys.parse("2024-01-15"), keys.PersistentKey)


@pytest.mark.parametrize(
    ("shelf", "key", "found"),
    [
        ("module", "x", "default's"),
        ("module", "default/x", "default's"),
        ("module", "features/x", "features'"),
        ("module", "living", "the process's"),
        ("default", "x", "default's"),
        ("default", "features/x", "features'"),
        ("default", "living", "the process's"),
        ("features", "x", "features'"),
        ("features", "features/x", "features'"),
        ("features", "default/x", "default's"),
        ("features", "living", "the process's"),
        ("other", "x", None),
        ("other", "features/x", "features'"),
        ("private", "x", None),
        ("private", "default/x", "default's"),
        ("private", "living", "the process's"),
    ],
)
def test_on_which_shelf_a_key_is_looked_for(shelf, key, found):
    everything = {
        arrowpool.put("default's", persist=True, key="x"),
        Shelf("features").put("features'", "x"),
        living := arrowpool.put("the process's"),
    }
    asked = arrowpool if shelf == "module" else Shelf(None if shelf == "private" else shelf)
    key = living if key == "living" else key
    assert asked.exists(key) == (found is not None)
    if found is None:
        for what in (asked.get, asked.info, asked.delete, asked.get_arrow, asked.get_numpy, asked.memory_usage):
            with pytest.raises(ShelfKeyError):
                what(key)
    else:
        assert asked.get(key) == found
        full = asked.info(key).key
        asked.delete(key)
        assert not arrowpool.exists(full)
        everything.remove(full)
    assert everything <= set(arrowpool.list_keys()), "nothing else is deleted"


def test_a_named_shelf_has_all_that_the_module_has():
    shelf = Shelf("features")
    frame = pd.DataFrame({"a": np.arange(5)})
    assert shelf.put(frame, "x") == "features/x"
    assert shelf.get_arrow("x").column_names == ["a"]
    assert shelf.get_numpy("x", "a").tolist() == [0, 1, 2, 3, 4]
    assert shelf.get_many(["x", "features/x"])[1].equals(frame)
    assert len(shelf.put_many([1, 2])) == 2
    assert shelf.memory_usage("x") < shelf.memory_usage()
    shelf.delete("x")
    assert len(shelf.list_keys()) == 2


def test_a_child_that_leaves_the_block_of_a_private_shelf_takes_nothing_along():
    with Shelf() as shelf:
        key = shelf.put("it")
        child = os.fork()
        if child == 0:
            shelf.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert shelf.get(key) == "it"
    assert not arrowpool.exists(key)


def test_a_private_shelf_forgets_the_keys_that_others_have_deleted():
    with Shelf() as shelf:
        kept = shelf.put("kept")
        for number in range(100):
            arrowpool.delete(shelf.put(number))
        by_another_process = shelf.put("it")
        assert in_a_child(lambda: arrowpool.delete(by_another_process)) is None
        assert shelf._keys == {kept}
        assert shelf.list_keys() == [kept]
