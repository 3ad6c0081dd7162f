"""Arrow arrays that travel buffer by buffer arrive as by pickle, whatever part of them is visible."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from arrowpool.codecs.buffers import visible_buffers
from tests.codecs.harness import as_the_stdlib_does, move
from tests.codecs.sameness import facts

NOW = datetime.datetime(2024, 2, 29, 12, 30, 1)
VALUES: dict[pa.DataType, list[Any]] = {
    pa.bool_(): [True, False, True, True, False] * 5,
    pa.int8(): list(range(25)),
    pa.uint64(): list(range(25)),
    pa.float16(): [np.float16(number) for number in range(25)],
    pa.float64(): [number / 3 for number in range(25)],
    pa.string(): ["", "é", "ab", "x" * 40, "z"] * 5,
    pa.large_string(): ["", "é", "ab", "x" * 40, "z"] * 5,
    pa.binary(): [b"", b"\0", b"ab"] * 9,
    pa.large_binary(): [b"", b"\0", b"ab"] * 9,
    pa.binary(3): [b"abc", b"\0\0\0"] * 13,
    pa.binary(0): [b""] * 25,
    pa.timestamp("us", "Europe/Paris"): [NOW] * 25,
    pa.duration("ms"): [datetime.timedelta(seconds=number) for number in range(25)],
    pa.time32("s"): [datetime.time(1, 2, 3)] * 25,
    pa.date32(): [NOW.date()] * 25,
    pa.decimal128(9, 2): [decimal.Decimal("1.25")] * 25,
    pa.decimal256(60, 1): [decimal.Decimal("-1.5")] * 25,
}


@pytest.mark.parametrize("inline_limit", [1, 32 << 10])
@pytest.mark.parametrize("has_nulls", [False, True], ids=["whole", "with-nulls"])
@pytest.mark.parametrize("type_", VALUES, ids=str)
def test_every_part_of_an_array_arrives(type_: pa.DataType, has_nulls: bool, inline_limit: int) -> None:
    values = [None if has_nulls and number % 3 == 1 else value for number, value in enumerate(VALUES[type_])]
    array = pa.array(values, type_)
    for start in (0, 1, 3, 8, 9, 16):
        for length in (0, 1, 2, 7, 8, 9):
            part = array.slice(start, length)
            arrived = move(part, inline_limit).obj
            assert facts(arrived) == facts(as_the_stdlib_does(part))
            assert not length or not arrived.offset
            assert not length or not any(buffer.is_mutable for buffer in arrived.buffers() if buffer is not None)


@pytest.mark.parametrize("type_", VALUES, ids=str)
def test_only_what_is_visible_travels(type_: pa.DataType) -> None:
    part = pa.array(VALUES[type_] * 1000, type_).slice(1001, 5)
    buffers = visible_buffers(part)
    assert buffers is not None
    assert sum(buffer.nbytes for buffer in buffers if buffer is not None) <= 5 * 45 + 8 * 6
    assert len(move(part, 1 << 30).stream) < 1500


def test_types_with_children_have_more_than_their_buffers() -> None:
    for array in (
        *(pa.array([[1], [2, 3]]), pa.array([{"a": 1}]), pa.array(["a", "b"]).dictionary_encode(), pa.nulls(3)),
        *(pa.array([1, 2])[:0], pa.array([], pa.string())),
    ):
        assert visible_buffers(array) is None
        assert facts(move(array, 1).obj) == facts(as_the_stdlib_does(array))
