"""Arrow: only the slice is shipped, nothing is copied on arrival, and nobody can write to what arrived."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs.awkward import ARROW_ARRAYS, Kelvin
from tests.codecs.harness import as_the_stdlib_does, move
from tests.codecs.sameness import facts, memory_of

N = 20_000
KIB = 1 << 10


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(ARROW_ARRAYS)),
    n=st.integers(4, 60),
    offset=st.integers(0, 30),
    length=st.integers(0, 60),
    inline_limit=st.sampled_from([1, 200, 1 << 16]),
)
def test_any_slice_of_any_type_arrives_as_by_pickle(
    name: str, n: int, offset: int, length: int, inline_limit: int
) -> None:
    array = ARROW_ARRAYS[name](n).slice(offset, length)
    for obj in (array, pa.chunked_array([array, array.slice(1)]), pa.table({"c": array, "i": np.arange(len(array))})):
        assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj))


def _texts(n: int) -> list[str]:
    return [f"a text of some length {i}" for i in range(n)]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_a_slice_ships_only_itself(type_: pa.DataType) -> None:
    table = pa.table({"f": np.arange(float(N)), "s": pa.array(_texts(N), type_)}).slice(1001, 2000)
    moved = move(table, 1 * KIB)
    assert moved.obj.equals(table)
    assert moved.nbytes < 2000 * (8 + 8 + 16 + 30)


@pytest.mark.parametrize("inline_limit", [1, 64 * KIB])
def test_a_small_slice_of_much_stays_small(inline_limit: int) -> None:
    table = pa.table({"f": np.arange(float(N)), "s": _texts(N), "v": pa.array(_texts(N), pa.string_view())})
    for obj in (
        table.slice(7, 5),
        table.slice(7, 0),
        table.column("s").slice(9, 3),
        table.column("v").chunk(0).slice(3, 1),
    ):
        moved = move(obj, inline_limit)
        assert facts(moved.obj) == facts(as_the_stdlib_does(obj))
        assert moved.nbytes + len(moved.stream) < 4 * KIB


def test_hidden_strings_of_empty_lists_stay_behind() -> None:
    array = pa.array([_texts(N), [], []], pa.list_(pa.string())).slice(1)
    moved = move(array)
    assert moved.obj.equals(array)
    assert moved.nbytes + len(moved.stream) < 2 * KIB


def test_what_arrives_is_read_only_and_in_the_room() -> None:
    table = pa.table({"f": np.arange(float(N)), "s": _texts(N)})
    moved = move(table)
    for column in moved.obj.columns:
        assert not any(buffer.is_mutable for buffer in column.chunk(0).buffers() if buffer)
    assert not moved.obj["f"].to_numpy().flags.writeable
    assert all(np.shares_memory(piece, moved.rooms[0]) for piece in memory_of(moved.obj))
    assert not moved.obj.to_pandas(split_blocks=True)["f"]._mgr.blocks[0].values.flags.writeable


@pytest.mark.parametrize("source", [b"x" * N, bytearray(b"x" * N)], ids=["immutable", "mutable"])
def test_buffers_are_as_mutable_as_they_were(source: Any) -> None:
    moved = move(pa.py_buffer(source))
    assert moved.obj.is_mutable == as_the_stdlib_does(pa.py_buffer(source)).is_mutable == isinstance(source, bytearray)
    assert moved.nbytes == N


def test_the_room_lives_as_long_as_any_slice() -> None:
    moved = move(pa.table({"f": np.arange(float(N))}))
    alive = weakref.ref(moved.rooms.pop().base)  # NumPy lets views refer to the owner itself
    values = moved.obj["f"].slice(3, 1).to_numpy()
    del moved
    gc.collect()
    assert alive() is not None
    del values
    gc.collect()
    assert alive() is None


def test_an_unregistered_type_arrives_as_itself() -> None:
    array = pa.ExtensionArray.from_storage(Kelvin(), pa.array(np.arange(float(N))))
    moved = move(array.slice(5, N // 2))
    assert isinstance(moved.obj.type, Kelvin)
    assert moved.nbytes < 4 * N + 2 * KIB


def test_a_dictionary_per_chunk_stays_so() -> None:
    words = [["a", "b"], ["b", "c", "d"], ["a", "b"]]
    chunks = [pa.array(some * N).dictionary_encode() for some in words]
    table = pa.table({"d": pa.chunked_array(chunks), "n": pa.chunked_array([np.arange(len(c)) for c in chunks])})
    moved = move(table)
    assert [chunk.dictionary.to_pylist() for chunk in moved.obj["d"].chunks] == words
    assert len(moved.rooms) == 1


def test_wide_tables_are_one_unit() -> None:
    table = pa.table({f"c{i}": np.arange(100) for i in range(500)})
    moved = move(table, 32 * KIB)
    assert moved.obj.equals(table)
    assert len(moved.rooms) == 1
    assert len(moved.stream) < 200


def test_the_same_table_twice_is_one_table() -> None:
    table = pa.table({"f": np.arange(float(N))})
    moved = move([table, (table,)])
    assert moved.obj[0] is moved.obj[1][0]
    assert len(moved.rooms) == 1
