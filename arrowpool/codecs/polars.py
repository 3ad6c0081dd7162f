"""polars frames and series: they travel as the Arrow table that they are, and the visible rows are written once.

Found by :func:`arrowpool.codecs.encoder_for`. polars would serialize them into new bytes, in band. Here the table goes
through the Arrow codec, and what arrives reads from the room. Lazy frames are plans, not data: pickle takes them.

Guarantees what polars' own pickling delivers: dtypes, names, one chunk, and what is known of the order of a column.
Dtypes that do not come back exactly from Arrow (Object, 128-bit integers) make the frame go by pickle.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import polars as pl

from arrowpool.codecs.kept import WITNESS, keeper
from arrowpool.codecs.outbox import Encode, Outbox, Reduced

__all__ = ["encoder_for"]


def encoder_for(cls: type) -> Encode | None:
    """How to encode objects of the polars type `cls`; None leaves it to pickle."""
    if cls is pl.DataFrame:
        return _encode_frame
    if cls is pl.Series:
        return _encode_series
    return None


def _encode_frame(frame: pl.DataFrame, out: Outbox) -> Reduced:
    if not _can_be_shared(frame, out):
        return NotImplemented
    return rebuild_frame, _reduced(frame)


def as_table(frame: pl.DataFrame) -> tuple[Any, dict[str, bool]] | None:
    """The Arrow table that `frame` is, and what is known of its columns' order, for `rebuild_frame`; None if there is none."""
    return _reduced(frame) if frame.width and all(map(_survives_arrow, frame.dtypes)) else None


def _encode_series(series: pl.Series, out: Outbox) -> Reduced:
    frame = series.to_frame()
    if not _can_be_shared(frame, out):
        return NotImplemented
    return _rebuild_series, _reduced(frame)


def _can_be_shared(frame: pl.DataFrame, out: Outbox) -> bool:
    return frame.estimated_size() >= max(out.inline_limit, 1) and all(map(_survives_arrow, frame.dtypes))


def _reduced(frame: pl.DataFrame) -> tuple[Any, dict[str, bool]]:
    if max(frame.n_chunks("all")) > 1:
        frame = frame.rechunk()
    flags = {column.name: column.flags for column in frame}
    order = {name: known["SORTED_DESC"] for name, known in flags.items() if known["SORTED_ASC"] or known["SORTED_DESC"]}
    # The newest level is the one that copies nothing; both ends are the same polars.
    return frame.to_arrow(compat_level=pl.CompatLevel.newest()), order


class _Stream:
    """A table as nothing but its Arrow C stream, which polars reads without its thread pool.

    That pool does not run in a process that was forked after its first use: `polars.from_arrow` would wait for ever.
    """

    def __init__(self, table: Any):
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def rebuild_frame(table: Any, order: dict[str, bool]) -> pl.DataFrame:
    """The frame over the table's memory, which polars may let go of in any thread."""
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
    if isinstance(dtype, (pl.List, pl.Array)):
        return _survives_arrow(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return bool(dtype.fields) and all(_survives_arrow(field.dtype) for field in dtype.fields)
    return dtype.base_type() in _SIMPLE
