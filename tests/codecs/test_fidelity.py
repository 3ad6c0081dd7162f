"""Every awkward object arrives as the standard library's pool would deliver it, whatever of it travels outside."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from tests.codecs.awkward import AWKWARD, Awkward
from tests.codecs.harness import as_the_stdlib_does, move
from tests.codecs.sameness import facts, memory_of

SMALL, LARGE = 40, 6_000
KIB = 1 << 10


@pytest.mark.parametrize("inline_limit", [1, 64 * KIB], ids=["all-outside", "default-limit"])
@pytest.mark.parametrize("awkward", AWKWARD, ids=str)
def test_small_objects_arrive_as_by_pickle(awkward: Awkward, inline_limit: int) -> None:
    obj = awkward.make(SMALL)
    assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj))


@pytest.mark.parametrize("awkward", AWKWARD, ids=str)
def test_large_objects_arrive_as_by_pickle(awkward: Awkward) -> None:
    obj = awkward.make(LARGE)
    assert facts(move(obj, 1 * KIB).obj) == facts(as_the_stdlib_does(obj))


@pytest.mark.parametrize("awkward", [a for a in AWKWARD if a.shared], ids=str)
def test_all_memory_of_large_objects_is_in_the_rooms(awkward: Awkward) -> None:
    moved = move(awkward.make(LARGE), 128)
    pieces = [piece for piece in memory_of(moved.obj) if piece.nbytes >= 256 and not piece.dtype.hasobject]
    assert pieces
    for piece in pieces:
        assert any(np.shares_memory(piece, room) for room in moved.rooms)
    assert len(moved.stream) < 8 * KIB


@pytest.mark.parametrize("awkward", AWKWARD, ids=str)
def test_nothing_costs_more_bytes_than_pickle(awkward: Awkward) -> None:
    obj = awkward.make(LARGE)
    moved = move(obj, 1 * KIB)
    # Arrow pads, and adds its metadata per column and chunk; strings go as Arrow, whose offsets take eight bytes each.
    assert moved.nbytes + len(moved.stream) <= 1.02 * len(ForkingPickler.dumps(obj)) + 16 * KIB + 9 * LARGE


@pytest.mark.parametrize("awkward", [a for a in AWKWARD if a.shared and a.library != "xarray"], ids=str)
def test_only_what_is_visible_is_placed(awkward: Awkward) -> None:
    moved = move(awkward.make(LARGE))
    visible = sum(piece.nbytes for piece in memory_of(moved.obj))
    allowance = 64 if awkward.library in ("numpy", "scipy") else 16 * KIB
    assert moved.nbytes <= visible + allowance
