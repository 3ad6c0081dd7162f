"""Arrow: only the slice is sent, the receiver copies nothing, and the received data cannot be written to."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowpool.codecs import schemas
from arrowpool.codecs.visible import visible_bytes
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


@pytest.mark.parametrize("name", sorted(ARROW_ARRAYS))
def test_what_is_visible_is_what_arrow_says(name: str) -> None:
    for n, offset, length in [(40, 0, 40), (40, 13, 20), (400, 1, 350), (400, 399, 1), (40, 7, 0)]:
        array = ARROW_ARRAYS[name](n).slice(offset, length)
        visible = visible_bytes(array)
        if not length:
            assert visible == 0
            continue
        try:
            said = array.nbytes
        except pa.ArrowException:  # not for views, in older versions
            continue
        if "view" in name:  # of which Arrow counts all that is behind them
            assert visible <= said
        else:
            assert abs(visible - said) <= max(16, 0.05 * said)


UNION_WITHOUT_ROWS = """
import numpy as np
import pyarrow as pa
from tests.codecs.harness import move

def union(n):
    children = [pa.array(np.arange(n)), pa.array([str(i) for i in range(n)], pa.string())]
    return pa.UnionArray.from_sparse(pa.array(np.arange(n) % 2, pa.int8()), children)

table = pa.table({"u": pa.chunked_array([union(0), union(2000), union(0)])})
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
came = pa.ipc.open_stream(sink.getvalue()).read_all()
for obj in (came, came["u"], came["u"].chunk(0), came.to_batches()[0]):
    assert move(move(obj).obj).obj.equals(obj)
"""


def test_a_union_without_rows_that_came_from_a_stream() -> None:
    """Its buffers have no address, and Arrow's own `nbytes` reads there."""
    subprocess.run([sys.executable, "-c", UNION_WITHOUT_ROWS], check=True, timeout=60)


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


@pytest.mark.parametrize("inline_limit", [1, 64 * KIB])
@pytest.mark.parametrize("nested", [False, True])
def test_metadata_that_names_a_type_that_the_receiver_knows_is_only_metadata(nested: bool, inline_limit: int) -> None:
    """Readers of IPC make an extension type of such a field."""
    metadata = {"ARROW:extension:name": "arrow.uuid", "ARROW:extension:metadata": ""}
    field = pa.field("u", pa.binary(16), metadata=metadata)
    values = pa.array([b"x" * 16] * 40, pa.binary(16))
    if nested:
        field, values = pa.field("s", pa.struct([field])), pa.StructArray.from_arrays([values], fields=[field])
    table = pa.Table.from_arrays([values], schema=pa.schema([field]))
    for obj in (table, table.to_batches()[0], table.column(0), values):
        assert facts(move(obj, inline_limit).obj) == facts(as_the_stdlib_does(obj))


def test_small_tables_of_one_schema_have_it_once_in_a_message() -> None:
    tables = [
        pa.table({"a long name of a column": np.arange(4), "s": list("abcd")}).replace_schema_metadata(
            {"k": f"v{number}"}
        )
        for number in (0, 0, 0, 1)
    ]
    moved = move(tables, 32 * KIB)
    assert facts(moved.obj) == facts(as_the_stdlib_does(tables))
    assert moved.stream.count(b"a long name of a column") == 2
    assert not moved.rooms


def test_small_slices_of_a_large_table_have_its_schema_once_in_a_message() -> None:
    table = pa.table({f"column {i}": np.arange(float(N)) for i in range(5)}, metadata={"note": "x"})
    table = table.append_column("texts", pa.array(_texts(N)))
    for cut in (table.slice, table.combine_chunks().to_batches()[0].slice):
        slices = [cut(start, 20) for start in range(0, 2000, 100)]
        moved = move(slices, 32 * KIB)
        assert not moved.rooms
        assert moved.stream.count(b"column 3") == 1
        assert facts(moved.obj) == facts(as_the_stdlib_does(slices))


@pytest.mark.parametrize("name", sorted(ARROW_ARRAYS))
def test_a_stream_fills_its_room(name: str) -> None:
    array = ARROW_ARRAYS[name](60)
    for start, length in ((0, 60), (7, 21), (8, 1)):
        table = pa.table({"c": array, "i": np.arange(len(array))}, metadata={"note": "x"}).slice(start, length)
        if not schemas.carried(table.schema).exactly:
            continue
        for obj in (table, pa.concat_tables([table, table])):
            (room,) = move(obj, 1).rooms
            assert room[-8:].tobytes() == b"\xff" * 4 + bytes(4)  # the end of a stream


def test_small_tables_differ_in_all_that_a_schema_says() -> None:
    kinds = [
        pa.field("a", pa.int8()),
        pa.field("b", pa.int8()),
        pa.field("a", pa.int8(), nullable=False),
        pa.field("a", pa.int8(), metadata={"k": "v"}),
        pa.field("a", pa.list_(pa.field("item", pa.int8()))),
        pa.field("a", pa.list_(pa.field("element", pa.int8()))),
        pa.field("a", pa.list_(pa.field("item", pa.int8(), metadata={"k": "v"}))),
        pa.field("a", pa.timestamp("s", "UTC")),
        pa.field("a", pa.timestamp("s")),
        pa.field("a", pa.dictionary(pa.int8(), pa.string())),
        pa.field("a", pa.dictionary(pa.int8(), pa.string(), ordered=True)),
    ]
    for metadata in (None, {"k": "v"}):
        for field in kinds:
            cell: Any = [[1]] if field.type.num_fields else ["x"] if isinstance(field.type, pa.DictionaryType) else [1]
            table = pa.Table.from_arrays([pa.array(cell, field.type)], schema=pa.schema([field], metadata))
            for obj in (table, table.to_batches()[0], table.column(0), table.column(0).chunk(0)):
                assert facts(move(obj, 32 * KIB).obj) == facts(as_the_stdlib_does(obj))


def test_a_little_memory_that_is_shown_many_times_arrives() -> None:
    row = pa.table({"s": ["x" * 1000]})
    table = pa.concat_tables([row] * 300)
    moved = move(table, 32 * KIB)
    assert facts(moved.obj) == facts(as_the_stdlib_does(table))


def test_schemas_are_bounded() -> None:
    for number in range(600):
        table = pa.table({f"column {number}": [1]})
        assert move(table, 32 * KIB).obj.equals(table)
    assert max(len(schemas._known), len(schemas._schemas)) <= 2 * schemas._LIMIT
    wide = pa.table({f"column {number}": [number] for number in range(400)})
    assert move(wide, 32 * KIB).obj.equals(wide)
    assert schemas.carried(wide.schema).token is None


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
