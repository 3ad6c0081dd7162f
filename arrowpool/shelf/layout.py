"""The layout of an object on a shelf: up to two parts, each a file by its content.

table    an Arrow IPC file, for tables and for frames that Arrow can express. Any Arrow implementation opens it.
exact    a pickle stream that restores the exact object, and the large buffers of the object that are not in the table.
         Absent where the table itself is the object.

The exact part; all numbers are little-endian and have 8 bytes:

    magic | bytes of the stream | number of buffers | (offset, bytes) of each buffer | stream | buffers, 64-byte aligned
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from arrowpool.codecs import library_of
from arrowpool.codecs.schemas import carried
from arrowpool.errors import ShelfKeyError
from arrowpool.shelf.frames import FrameTable, resolve
from arrowpool.transport.reducer import Reducer, loads
from arrowpool.transport.sharing import PinnedOnly
from arrowpool.transport.unit import Unit
from arrowpool.tuning import ALIGNMENT, COPY_THREADS, INLINE_LIMIT, PIECE

Memory = NDArray[np.uint8]

TABLE, EXACT = "table.arrow", "exact.bin"
_MAGIC = b"ARROWPL1"
_HEADER = struct.Struct("<8sQQ")
_SPAN = struct.Struct("<QQ")
#: The name of a type is cut off after this many characters.
_KIND_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Part:
    """One part to write: its name, its size in bytes, and a function that writes it into memory of that size."""

    name: str
    size: int
    write: Callable[[Memory], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """An object taken apart; its large buffers are not copied yet."""

    kind: str
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its parts."""
        return sum(part.size for part in self.parts)


def plan(obj: Any) -> Plan:
    """Take an object apart for the shelf.

    Raises
    ------
    Exception
        Any error of pickling it.
    """
    kind = type(obj).__name__[:_KIND_LENGTH]
    try:
        parts = _table_and_exact(obj)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError):
        parts = None  # Arrow cannot express it
    return Plan(kind, parts or (_exact_part(obj),))


def _table_and_exact(obj: Any) -> tuple[Part, ...] | None:
    """The parts of an object that Arrow can express; None, or an error of Arrow, for any other."""
    if isinstance(obj, (pa.Table, pa.RecordBatch)) and obj.num_columns:
        table = obj if isinstance(obj, pa.Table) else pa.Table.from_batches([obj])
        if not carried(obj.schema).exactly:
            return _table_part(table), _exact_part(obj)
        return (_table_part(table),) if table is obj else (_table_part(table), _exact_part(_AsBatch()))
    if type(obj) is pd.DataFrame and obj.shape[1]:
        frame = FrameTable(obj)
        return _table_part(frame.table), _exact_part(frame.frame, frame)
    if library_of(type(obj)) == "polars" and type(obj).__name__ == "DataFrame":
        from arrowpool.codecs import polars

        found = polars.as_table(obj)
        if found is not None:
            table, order = found
            return _table_part(table), _exact_part(_AsPolars(order))
    return None


class _AsBatch:
    """Stands for the record batch that the table holds."""

    def rebuild(self, table: pa.Table) -> pa.RecordBatch:
        return table.combine_chunks().to_batches()[0]


@dataclass
class _AsPolars:
    """Stands for the polars frame that the table holds, with the known sort order of its columns."""

    order: dict[str, bool]

    def rebuild(self, table: pa.Table) -> Any:
        from arrowpool.codecs import polars

        return polars.rebuild_frame(table, self.order)


def _table_part(table: pa.Table) -> Part:
    counter = pa.MockOutputStream()
    _write_table(table, counter)

    def write(memory: Memory) -> None:
        sink = pa.FixedSizeBufferWriter(pa.py_buffer(memory))
        sink.set_memcopy_threads(COPY_THREADS)
        _write_table(table, sink)

    return Part(TABLE, counter.size(), write)


def _write_table(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _exact_part(obj: Any, frame: FrameTable | None = None) -> Part:
    in_table = _InTable(frame)
    # Arrays that are placed together are not looked for in the table.
    reducer = Reducer(inline_limit=INLINE_LIMIT, heap_limit=INLINE_LIMIT)
    body, units = reducer.reduce(obj, sharing=in_table)
    references = in_table.references
    shared = tuple(unit.shared_object for unit in units)
    stream = _dump_small((references, shared)) + body
    placed = [unit for unit in units if unit.shared_object is None]
    spans = []
    at = _HEADER.size + _SPAN.size * len(placed) + len(stream)
    for unit in placed:
        at = -(-at // ALIGNMENT) * ALIGNMENT
        spans.append((at, unit.nbytes))
        at += unit.nbytes

    def write(memory: Memory) -> None:
        head = _HEADER.pack(_MAGIC, len(stream), len(spans)) + b"".join(_SPAN.pack(*span) for span in spans) + stream
        memory[: len(head)] = np.frombuffer(head, dtype=np.uint8)
        for unit, (offset, nbytes) in zip(placed, spans, strict=True):
            _copy(unit, memory[offset : offset + nbytes])

    return Part(EXACT, at, write)


class _InTable(PinnedOnly):
    """Refers to columns of the table instead of storing them twice."""

    def __init__(self, frame: FrameTable | None):
        super().__init__({})
        self._frame = frame
        self.may_repeat = frame is not None
        self.references: list[Any] = []

    def number_of(self, obj: Any) -> int | None:
        reference = self._frame.reference(obj) if self._frame is not None else None
        if reference is None:
            return None
        self.references.append(reference)
        return len(self.references) - 1


def _copy(unit: Unit, buffer: Memory) -> None:
    for copy in unit.copies_to(buffer, PIECE):
        copy()


def _dump_small(obj: Any) -> bytes:
    dumped = pickle.dumps(obj, protocol=5)
    return struct.pack("<Q", len(dumped)) + dumped


def open_table(memory: Memory) -> pa.Table:
    """The table in a table part, without a copy.

    Raises
    ------
    ShelfKeyError
        When it is not an Arrow IPC file.
    """
    try:
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(memory))).read_all()
    except pa.ArrowException as error:
        raise ShelfKeyError(f"not an Arrow file: {error}") from error


def rebuild(table: Memory | None, exact: Memory | None) -> Any:
    """The object in these parts; its buffers are views of their memory.

    Raises
    ------
    ShelfKeyError
        When `plan` does not write such parts.
    """
    if exact is None:
        if table is None:
            raise ShelfKeyError("the object has no parts")
        return open_table(table)
    if len(exact) < _HEADER.size:
        raise ShelfKeyError("the object is cut off")
    view = exact.data
    magic, length, count = _HEADER.unpack_from(view)
    start = _HEADER.size + _SPAN.size * count
    if magic != _MAGIC or start + length > len(exact):
        raise ShelfKeyError("not an object of a shelf")
    spans = [_SPAN.unpack_from(view, _HEADER.size + _SPAN.size * number) for number in range(count)]
    if any(offset + nbytes > len(exact) for offset, nbytes in spans):
        raise ShelfKeyError("the object is cut off")
    stream = exact[start : start + length].tobytes()
    (small,) = struct.unpack_from("<Q", stream)
    references, shared = loads(stream[8 : 8 + small])
    opened = open_table(table) if table is not None and references else None

    def arrays() -> Iterator[Any]:
        remaining = iter(spans)
        for reference in shared:
            if reference is None:
                offset, nbytes = next(remaining)
                yield exact[offset : offset + nbytes]
            else:
                assert opened is not None
                assert table is not None
                yield resolve(references[reference], opened, table)

    obj = loads(stream[8 + small :], arrays())
    if isinstance(obj, (_AsBatch, _AsPolars)) and table is not None:
        return obj.rebuild(open_table(table))
    return obj


def column(memory: Memory, key: str, name: str) -> np.ndarray[Any, Any]:
    """A column of a table part as an array, without a copy where NumPy has the same representation.

    Raises
    ------
    ShelfKeyError
        When there is no such column.
    TypeError
        When NumPy does not have its type.
    ValueError
        When it has nulls and is not of dates or times, whose nulls come as NaT.
    """
    table = open_table(memory)
    found = [number for number, one in enumerate(table.column_names) if one == name]
    if len(found) != 1:
        raise ShelfKeyError(f"{len(found)} columns {name!r} under {key!r}; there are: {', '.join(table.column_names)}")
    values = table.column(found[0])
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        raise TypeError(f"column {name!r} is of type {kind}, which NumPy does not have; use get() or get_arrow()")
    has_gaps = pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_date(kind)
    if values.null_count and not has_gaps:
        raise ValueError(
            f"column {name!r} has {values.null_count:,} nulls, which an array cannot express; use get() or get_arrow()"
        )
    if values.num_chunks == 1 and not values.null_count:
        dtype = _same_bytes(kind)
        if dtype is not None:
            same: np.ndarray[Any, Any] = resolve(((found[0],), dtype.str), table, memory)
            return same
    converted: np.ndarray[Any, Any] = values.to_numpy()
    return converted if converted.flags.writeable else converted.copy()


def _same_bytes(kind: pa.DataType) -> np.dtype[Any] | None:
    """The NumPy dtype with the same bytes as an Arrow type; None where there is none."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        same: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return same
    if pa.types.is_timestamp(kind):
        return np.dtype(f"M8[{kind.unit}]")
    if pa.types.is_duration(kind):
        return np.dtype(f"m8[{kind.unit}]")
    return None
