"""polars frames and series: they travel as Arrow tables, and the visible rows are written once.

Found by :func:`arrowpool.codecs.encoder_for`. polars' own pickling serializes them into new bytes, in band. Here the table goes
through the Arrow codec, and the rebuilt frame reads from shared memory. Lazy frames are plans, not data: they are pickled.

Guarantees the result of polars' own pickling: dtypes, names, and the known properties of a column. Small chunks become one; large
chunks stay as they are, where polars would also cut them. A frame whose dtypes do not come back exactly from Arrow (Object, 128-bit
integers) is pickled.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import polars as pl

from arrowpool.codecs.kept import WITNESS, keeper
from arrowpool.codecs.outbox import Encode, Outbox, Reduced

__all__ = ["encoder_for"]


#: A chunk of at least this many rows stays separate.
_CHUNK = 1 << 18


def encoder_for(cls: type) -> Encode | None:
    """The encoder of objects of the polars type `cls`; None for plain pickle."""
    if not hasattr(pl, "CompatLevel"):  # before 1.3: the conversion to Arrow copies and changes data
        return None
    if cls is pl.DataFrame:
        return _encode_frame
    if cls is pl.Series:
        return _encode_series
    return None


def _encode_frame(frame: pl.DataFrame, out: Outbox) -> Reduced:
    if not _can_be_shared(frame, out):
        return NotImplemented
    # Only polars itself can mark lists as without empty ones (FAST_EXPLODE): such columns go by its own pickling.
    lists = [(at, column) for at, column in enumerate(frame) if _explodes_fast(column)]
    if lists:
        others = [column for column in frame if not _explodes_fast(column)]
        if not others:
            return NotImplemented
        frame = pl.DataFrame(others)
        return _rebuild_with_lists, (*_reduced(frame), lists)
    return rebuild_frame, _reduced(frame)


def _explodes_fast(series: pl.Series) -> bool:
    return isinstance(series.dtype, pl.List) and bool(series.flags["FAST_EXPLODE"])


def _rebuild_with_lists(table: Any, order: dict[str, bool], lists: list[tuple[int, pl.Series]]) -> pl.DataFrame:
    frame = rebuild_frame(table, order)
    for at, column in lists:
        frame.insert_column(at, column)
    return frame


def as_table(frame: pl.DataFrame) -> tuple[Any, dict[str, bool]] | None:
    """The Arrow table of `frame`, and the known sort order of its columns, for `rebuild_frame`; None if there is none."""
    return (
        _reduced(frame)
        if encoder_for(type(frame)) and frame.width and all(map(_survives_arrow, frame.dtypes))
        else None
    )


def _encode_series(series: pl.Series, out: Outbox) -> Reduced:
    frame = series.to_frame()
    if not _can_be_shared(frame, out) or _explodes_fast(series):
        return NotImplemented
    return _rebuild_series, _reduced(frame)


def _can_be_shared(frame: pl.DataFrame, out: Outbox) -> bool:
    # Each column costs some 16 us on either side. With few bytes in each, polars' own pickling is faster.
    least = max(out.inline_limit, 1) * max(frame.width, 1)
    return frame.estimated_size() >= least and all(map(_survives_arrow, frame.dtypes))


def _reduced(frame: pl.DataFrame) -> tuple[Any, dict[str, bool]]:
    if max(frame.n_chunks("all")) > 1:
        frame = _merged(frame)
    flags = {column.name: column.flags for column in frame}
    order = {name: known["SORTED_DESC"] for name, known in flags.items() if known["SORTED_ASC"] or known["SORTED_DESC"]}
    # The newest level copies nothing. Both ends have the same polars.
    return frame.to_arrow(compat_level=pl.CompatLevel.newest()), order


def _merged(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its small chunks merged, as polars' own pickling does, and with its large chunks unchanged."""
    cuts = [[len(chunk) for chunk in column.get_chunks()] for column in frame]
    if any(lengths != cuts[0] for lengths in cuts):
        return _in_one_chunk(frame)
    parts = []
    start = stop = 0
    for number, length in enumerate(cuts[0]):
        stop += length
        if stop - start >= _CHUNK or number == len(cuts[0]) - 1:
            parts.append(_in_one_chunk(frame[start:stop]))
            start = stop
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.vstack(part)
    return merged


def _in_one_chunk(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([column.rechunk() for column in frame])


class _Stream:
    """A table that offers only its Arrow C stream, which polars reads without its thread pool.

    That pool does not run in a process that was forked after its first use: `polars.from_arrow` would never return.
    """

    def __init__(self, table: Any):
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def rebuild_frame(table: Any, order: dict[str, bool]) -> pl.DataFrame:
    """The frame over the table's memory, which polars may release in any thread."""
    return cast(pl.DataFrame, keeper().give(table, partial(_read, order)))


def _rebuild_series(table: Any, order: dict[str, bool]) -> pl.Series:
    return cast(pl.Series, keeper().give(table, lambda witnessed: _read(order, witnessed).to_series()))


def _read(order: dict[str, bool], witnessed: Any) -> pl.DataFrame:
    frame = pl.DataFrame(_Stream(witnessed))
    frame.drop_in_place(WITNESS)
    for name, descending in order.items():
        frame.replace_column(frame.get_column_index(name), frame[name].set_sorted(descending=descending))
    return frame


_SIMPLE = frozenset(
    {
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
        *(pl.Boolean, pl.String, pl.Binary, pl.Null, pl.Date, pl.Time, pl.Datetime, pl.Duration, pl.Decimal),
        *(pl.Categorical, pl.Enum),
    }
)


def _survives_arrow(dtype: Any) -> bool:
    kind = _kind(dtype)
    known = _answers.get(kind)
    if known is None:
        if len(_answers) >= _ANSWERS_KEPT:
            _answers.clear()
        known = _answers[kind] = _may_survive(dtype) and _comes_back(dtype)
    return known


def _kind(dtype: Any) -> Any:
    """The dtype without the categories of its enums, of which there may be many. Which they are makes no difference here."""
    if isinstance(dtype, pl.Enum):
        return pl.Enum, len(dtype.categories) > 0
    if isinstance(dtype, (pl.List, pl.Array)):
        return type(dtype), getattr(dtype, "shape", None), _kind(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return pl.Struct, *((field.name, _kind(field.dtype)) for field in dtype.fields)
    return dtype


def _may_survive(dtype: Any) -> bool:
    if isinstance(dtype, (pl.List, pl.Array)):
        return _may_survive(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return bool(dtype.fields) and all(_may_survive(field.dtype) for field in dtype.fields)
    return dtype.base_type() in _SIMPLE


#: By the kind of a dtype: whether it survives.
_answers: dict[Any, bool] = {}
_ANSWERS_KEPT = 1024


def _comes_back(dtype: Any) -> bool:
    """Whether a sample of the dtype survives. That depends on the versions: some turn an enum into a categorical."""
    if _has_arrays(dtype) and not _arrays_are_sound():
        return False
    try:
        sample = pl.Series("", [None, None, None], dtype=dtype)[1:].to_frame()
        came = pl.DataFrame(_Stream(sample.to_arrow(compat_level=pl.CompatLevel.newest())))
        return bool(came.dtypes == [dtype] and came.shape == (2, 1))
    except Exception:  # versions raise different errors for types that they do not support
        return False


def _has_arrays(dtype: Any) -> bool:
    if isinstance(dtype, pl.Struct):
        return any(_has_arrays(field.dtype) for field in dtype.fields)
    return isinstance(dtype, pl.Array) or (isinstance(dtype, pl.List) and _has_arrays(dtype.inner))


def _arrays_are_sound() -> bool:
    """Whether slices of arrays with nulls are valid: in polars 1 they begin past the end of their elements."""
    sliced = pl.Series([[1, 2], None] * 4, dtype=pl.Array(pl.Int8, 2))[3:].to_arrow()
    return bool((sliced.offset + len(sliced)) * 2 <= len(sliced.values))
