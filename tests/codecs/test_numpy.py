"""Arrays of any dtype, shape and stride; and that nothing is read, pinned or shared that should not be."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowpool.transport import reducer
from tests.codecs.harness import as_the_stdlib_does, move, room_of
from tests.codecs.sameness import facts

QUICK = settings(max_examples=150, deadline=None)

DTYPES = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.array_dtypes(hnp.scalar_dtypes(), max_size=3)
)


@st.composite
def any_array(draw: Any) -> np.ndarray:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    array = draw(hnp.arrays(draw(DTYPES), shape))
    if array.ndim:
        array = np.transpose(array, draw(st.permutations(range(array.ndim))))
        array = array[draw(hnp.basic_indices(array.shape, allow_newaxis=True))]
    array = np.asarray(array)
    if draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    elif draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


@QUICK
@given(array=any_array(), inline_limit=st.sampled_from([0, 1, 20, 1 << 16]))
def test_any_array_arrives_as_by_pickle(array: np.ndarray, inline_limit: int) -> None:
    moved = move(array, inline_limit)
    assert facts(moved.obj) == facts(as_the_stdlib_does(array))
    if moved.rooms:
        assert moved.nbytes == array.nbytes
        assert moved.obj.size == 0 or np.shares_memory(moved.obj, moved.rooms[0])


@QUICK
@given(elements=st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=50), columns=st.integers(1, 3))
def test_any_texts_arrive_as_by_pickle(elements: list[str | None], columns: int) -> None:
    array = np.array(elements * columns, dtype=object).reshape(columns, -1).T
    assert facts(move(array).obj) == facts(as_the_stdlib_does(array))


@pytest.mark.parametrize(
    "make", [lambda a: a, lambda a: a.T, lambda a: a[::2], lambda a: a.reshape(-1)[0:1].reshape(())]
)
@pytest.mark.parametrize("code", ["?", "i4", "f8", "D", "M8[s]", "U3", ">i2"])
def test_small_arrays_own_their_memory(code: str, make: Any) -> None:
    array = make(np.arange(12).astype(code).reshape(3, 4))
    came, expected = move(array, 1 << 15).obj, as_the_stdlib_does(array)
    assert came.flags.owndata
    assert facts(came) == facts(expected)
    came.resize((50,), refcheck=False)
    expected.resize((50,), refcheck=False)
    assert facts(came) == facts(expected)


def test_the_array_is_read_after_the_dump() -> None:
    array = np.zeros(10_000)
    stream, [unit] = reducer.dumps(array, inline_limit=1)
    array[:] = 3
    room = room_of(unit.nbytes)
    for copy in unit.copies_to(room, unit.nbytes):
        copy()
    assert (reducer.loads(stream, [room]) == 3).all()


def test_the_room_lives_as_long_as_any_view() -> None:
    moved = move(np.arange(10_000))
    alive = weakref.ref(moved.rooms.pop().base)  # NumPy lets views refer to the owner itself
    view = moved.obj[5:6].view("u1")
    del moved
    gc.collect()
    assert alive() is not None
    del view
    gc.collect()
    assert alive() is None


def test_a_view_of_a_large_array_places_only_its_elements() -> None:
    assert move(np.zeros((10_000, 100))[::1000, 3]).nbytes == 80


def test_the_same_array_twice_is_one_array() -> None:
    array = np.arange(10_000)
    moved = move({"a": array, "b": [array, array[:10]]})
    assert moved.obj["a"] is moved.obj["b"][0]
    assert [room.nbytes for room in moved.rooms] == [80_000, 80]
    assert not np.shares_memory(moved.obj["a"], moved.obj["b"][1])  # as by pickle: two views arrive as two arrays


def test_padding_of_records_carries_nothing_of_the_room() -> None:
    records = np.zeros(100, np.dtype([("a", "i1"), ("b", "f8")], align=True))
    assert bytes(move(records).obj.data) == bytes(records.data)


def test_subclass_that_looks_at_its_elements_goes_by_pickle() -> None:
    array = np.arange(10_000).view(Counting)
    moved = move(array)
    assert moved.rooms == []
    assert type(moved.obj) is Counting
    assert moved.obj.seen == as_the_stdlib_does(array).seen


class Counting(np.ndarray):
    seen = 0

    def __array_finalize__(self, obj: Any) -> None:
        self.seen = self.size


def test_repeated_text_stays_with_pickle() -> None:
    words = [f"word {i}" for i in range(20)]
    few = np.array(words * 500, dtype=object)
    many = np.array([f"word {i}" for i in range(10_000)], dtype=object)
    assert move(few).rooms == []
    assert len(move(many).stream) < 2000


@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_arrive_writeable(writeable: bool) -> None:
    array = np.arange(10_000)
    array.flags.writeable = writeable
    moved = move(array)
    moved.obj[0] = 7
    assert array[0] == 0
    assert moved.rooms[0][0] == 7
