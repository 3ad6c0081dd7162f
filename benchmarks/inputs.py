"""The inputs of the scenarios: seeded, made once, and copied for each round.

Called by `scenarios`. The copy keeps the comparison fair: no contender gains from having seen the same memory in the
round before.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

CHUNKS = 40
ROWS = 4_000_000
COLUMNS = 10
MIXED_ROWS = 1_500_000


def whole_floats(*shape: int) -> np.ndarray:
    """Whole numbers as floats: their sums are exact in any order, so results can be compared with `==`."""
    return np.random.default_rng(0).integers(0, 1_000, shape).astype(np.float64)


def scaled(count: int, scale: float) -> int:
    """`count` times `scale`, but never too few for a row in each chunk."""
    return max(CHUNKS, round(count * scale))


def float_frame(scale: float = 1.0) -> pd.DataFrame:
    """4 M rows of 10 floats in one block: 320 MB, times `scale`."""
    values = whole_floats(COLUMNS, scaled(ROWS, scale))
    return pd.DataFrame(values.T, columns=[f"c{i}" for i in range(COLUMNS)], copy=False)


def mixed_frame(scale: float = 1.0) -> pd.DataFrame:
    """1.5 M rows, times `scale`, of Arrow strings, a categorical, datetimes with a time zone, nullable integers and floats."""
    rows = scaled(MIXED_ROWS, scale)
    rng = np.random.default_rng(0)
    words = pa.array([f"ticker-{i:04d}" for i in range(5_000)], pa.large_string())
    names = words.take(pa.array(rng.integers(0, len(words), rows)))
    return pd.DataFrame(
        {
            "name": pd.Series(names.to_pandas(), dtype="string[pyarrow]"),
            "venue": pd.Categorical.from_codes(rng.integers(0, 12, rows), [f"venue-{i}" for i in range(12)]),
            "time": pd.date_range("2024-01-01", periods=rows, freq="s", tz="America/New_York"),
            "volume": pd.array(rng.integers(0, 1_000, rows), dtype="Int64"),
            "price": rng.integers(0, 1_000, rows).astype(np.float64),
            "spread": rng.random(rows),
        }
    )


def float_table(scale: float = 1.0) -> pa.Table:
    """The bytes of `float_frame` as one Arrow table of one chunk a column: 320 MB, times `scale`."""
    values = whole_floats(COLUMNS, scaled(ROWS, scale))
    return pa.table({f"c{i}": pa.array(column) for i, column in enumerate(values)})


def float_arrays(scale: float = 1.0) -> list[np.ndarray]:
    """40 arrays of 8 MB, times `scale`."""
    return list(whole_floats(CHUNKS, scaled(1_000_000, scale)))


def row_chunks(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The frame as 40 views of consecutive rows."""
    step = -(-len(frame) // CHUNKS)
    return [frame.iloc[start : start + step] for start in range(0, len(frame), step)]


def table_slices(table: pa.Table) -> list[pa.Table]:
    """The table as 40 views of consecutive rows."""
    step = -(-len(table) // CHUNKS)
    return [table.slice(start, step) for start in range(0, len(table), step)]


def copy_table(table: pa.Table) -> pa.Table:
    """The same rows in new memory; `Table` is immutable, so pyarrow has no copy of its own for this."""
    return pa.table({name: pa.array(table[name].to_numpy().copy()) for name in table.column_names})


def frame_bytes(frame: pd.DataFrame) -> int:
    """The bytes of the frame's columns, counted as pandas does (the index apart)."""
    return int(frame.memory_usage(index=False).sum())
