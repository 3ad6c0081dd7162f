"""Descriptions of persistent objects: damaged ones, and long ones."""

from __future__ import annotations

import json
import os

import pandas as pd
import pytest

import arrowpool
from arrowpool import Shelf, ShelfKeyError
from arrowpool.shelf import store
from tests.shelf.conftest import everything_in


@pytest.mark.parametrize(
    "written",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"",
        b"[" * 50_000,
        b'{"kind": "x"}',
        {"kind": None},
        {"created": "today"},
        {"created": float("inf")},
        {"created": float("nan")},
        {"created": 1e300},
        {"created": 10**400},
        {"nbytes": -1},
        {"nbytes": True},
        {"files": []},
        {"files": {}},
        {"files": {"table.arrow": "5"}},
        {"files": {"table.arrow": 1 << 70}},
        {"names": {"table.arrow": "../../../etc/passwd"}},
        {"names": {"table.arrow": "\0"}},
        {"names": {"table.arrow": 5}},
        {"names": {"table.arrow": ".."}},
        {"names": []},
        None,
        "directory",
        "fifo",
    ],
    ids=lambda written: repr(written)[:40],
)
def test_damage_is_one_damaged_object(own_shelf, written):
    for key in ("a", "b", "c"):
        arrowpool.put(pd.DataFrame({"x": [1, 2]}), persist=True, key=key)
    about = own_shelf / "default" / "b" / "about.json"
    described = json.loads(about.read_text())
    about.unlink()
    if written == "directory":
        about.mkdir()
    elif written == "fifo":
        os.mkfifo(about)
    elif written is not None:
        about.write_bytes(written if isinstance(written, bytes) else json.dumps({**described, **written}).encode())
    for ask in (arrowpool.get, arrowpool.get_arrow):
        with pytest.raises(ShelfKeyError, match="damaged"):
            ask("b")
    assert {"a", "c"} <= set(arrowpool.list_keys())
    assert arrowpool.memory_usage() >= arrowpool.memory_usage("a") + arrowpool.memory_usage("c")
    arrowpool.put("well", persist=True, key="b")
    assert arrowpool.get("b") == "well"
    assert {"a", "b", "c"} <= set(arrowpool.list_keys())


def test_what_is_damaged_can_be_deleted(own_shelf):
    for key in ("a", "b", "c"):
        arrowpool.put(1, persist=True, key=key)
    for key in ("a", "b"):
        (own_shelf / "default" / key / "about.json").write_text("{")
    (own_shelf / "default" / "empty").mkdir()
    (own_shelf / "default" / "file").write_text("")
    (own_shelf / "default" / "link").symlink_to("/etc")
    (own_shelf / "file").write_text("")
    assert Shelf("default").list_keys() == ["c"]
    assert store.stores() == ["default"]
    arrowpool.delete("a")
    arrowpool.delete_all()
    assert everything_in(own_shelf) == []
    assert os.path.exists("/etc")


def test_a_long_name_of_a_type_is_cut(own_shelf):
    """Its description can be read nevertheless."""
    cls = type("C" * 70_000, (), {"__reduce__": lambda self: (int, (7,))})
    assert arrowpool.get(arrowpool.put(cls(), persist=True)) == 7
    kind = arrowpool.info(arrowpool.put(cls())).kind
    assert kind == "C" * len(kind)
