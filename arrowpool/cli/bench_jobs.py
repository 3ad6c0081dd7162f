"""The jobs of ``python -m arrowpool bench``, with generated frames or with the user's own file.

Called by `bench`, and by the workers of its pools: the tasks are at module level, so that every start method finds them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from arrowpool import portable
from arrowpool.cli.bench_runner import Job

_CHUNKS = 40
_CAPTURING_TASKS = 8
_TINY_TASKS = 100_000
#: A frame may take one part in so many of the available memory: both sides have copies, and there are results.
_SHARE = 10
_SAMPLE_ROWS = 10_000
#: The beginning of a date, and in how many rows it is looked for.
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
_LIKE_DATES_ROWS = 100


# -- tasks -------------------------------------------------------------------------------------------------------------


def sum_first(chunk: pd.DataFrame) -> float:
    return float(chunk.iloc[:, 0].sum())


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk * 2


def raise_price(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(price=chunk["price"] * 2)


def row_of(frame: pd.DataFrame, index: int) -> pd.DataFrame:
    return frame.iloc[[index]]


def negative(number: int) -> int:
    return -number


def summary(chunk: pd.DataFrame) -> pd.DataFrame:
    """For each column the number of values, and for numbers the minimum, mean and maximum."""
    numbers = _numbers(chunk)
    return pd.DataFrame(
        {"count": chunk.count(), "min": numbers.min(), "mean": numbers.mean(), "max": numbers.max()},
        index=pd.Index(chunk.columns),
    )


def standardised(chunk: pd.DataFrame) -> pd.DataFrame:
    """The chunk with its numeric columns scaled to mean 0 and standard deviation 1."""
    numbers = _numbers(chunk).astype("float64")
    changed = chunk.copy()
    changed[numbers.columns] = (numbers - numbers.mean()) / numbers.std()
    return changed


def ordered(column: Any, chunk: pd.DataFrame) -> pd.DataFrame:
    """The chunk sorted by a column."""
    return chunk.sort_values(column, kind="stable")


def _numbers(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.select_dtypes("number", exclude="timedelta")


def _sortable(frame: pd.DataFrame) -> Iterator[Any]:
    """The columns by which the frame can be sorted: not those of lists, or of numbers and words."""
    for column in frame.columns:
        with contextlib.suppress(Exception):  # a comparison of the user's objects may raise anything
            frame.sort_values(column)
            yield column


# -- jobs --------------------------------------------------------------------------------------------------------------


def generated_jobs(megabytes: float) -> list[Job]:
    """Jobs with generated frames of about this size."""
    rng = np.random.default_rng(0)
    rows = max(_CHUNKS, int(megabytes * 1e6) // 80)
    # Whole numbers as floats: their sums are exact in any order.
    floats = pd.DataFrame(rng.integers(0, 1_000, (10, rows)).astype("float64").T, columns=list("abcdefghij"))
    venues = np.array([f"venue-{i}" for i in range(12)])
    words = np.array([f"word-{i:04d}" for i in range(5_000)])
    mixed = pd.DataFrame(
        {
            "name": pd.array(words[rng.integers(0, len(words), rows)], dtype="string[pyarrow]"),
            "venue": pd.Categorical(venues[rng.integers(0, len(venues), rows)]),
            "time": pd.date_range("2024-01-01", periods=rows, freq="s", tz="America/New_York"),
            "volume": pd.array(rng.integers(0, 1_000, rows), dtype="Int64"),
            "price": rng.random(rows),
        }
    )
    return [
        Job("sum of a column, row chunks", sum_first, _row_chunks(floats), nbytes=frame_bytes(floats)),
        Job("x * 2, a frame back for each", double, _row_chunks(floats), nbytes=2 * frame_bytes(floats)),
        Job("mixed dtypes, there and back", raise_price, _row_chunks(mixed), nbytes=2 * frame_bytes(mixed)),
        _capturing(floats),
        Job(f"{_TINY_TASKS:,} tiny tasks", negative, range(_TINY_TASKS), chunksize=None),
    ]


def jobs_on(frame: pd.DataFrame) -> list[Job]:
    """Jobs with a frame of any columns."""
    chunks, nbytes = _row_chunks(frame), frame_bytes(frame)
    jobs = [Job("summary of each column", summary, chunks, nbytes=nbytes)]
    if len(_numbers(frame).columns):
        jobs.append(Job("numbers standardised", standardised, chunks, nbytes=2 * nbytes))
    for column in itertools.islice(_sortable(frame), 1):
        jobs.append(Job("sorted by a column", partial(ordered, column), chunks, nbytes=2 * nbytes))
    jobs.append(_capturing(frame))
    return jobs


def _capturing(frame: pd.DataFrame) -> Job:
    title = f"frame captured by {_CAPTURING_TASKS} tasks"
    return Job(title, partial(row_of, frame), range(min(_CAPTURING_TASKS, len(frame))), nbytes=frame_bytes(frame))


def _row_chunks(frame: pd.DataFrame) -> list[pd.DataFrame]:
    step = max(1, -(-len(frame) // _CHUNKS))
    return [frame.iloc[at : at + step] for at in range(0, len(frame), step)]


def frame_bytes(frame: pd.DataFrame) -> int:
    return int(frame.memory_usage(deep=True, index=False).sum())


# -- files -------------------------------------------------------------------------------------------------------------


def read_csv(path: str, by: Sequence[str] = (), dates: Sequence[str] = ()) -> tuple[pd.DataFrame, bool]:
    """The file as a frame, and whether the frame has all rows: rows that do not fit into memory several times are left out.

    Raises
    ------
    OSError, ValueError
        When the file cannot be read, has no column of `by`, or something else than dates in a column of `dates`.
    """
    parsed = list(dates)
    first = _checked_dates(pd.read_csv(path, nrows=_SAMPLE_ROWS, parse_dates=parsed), dates)
    _check_columns(first, by)
    if len(first) < _SAMPLE_ROWS:
        return first, True
    most = _most_rows(first)
    frame = pd.read_csv(path, nrows=most + 1, low_memory=False, parse_dates=parsed)
    return _checked_dates(frame, dates).iloc[:most], len(frame) <= most


def _check_columns(frame: pd.DataFrame, by: Sequence[str]) -> None:
    missing = [column for column in by if column not in frame.columns]
    if missing:
        raise ValueError(f"there is no column {missing[0]!r}; the columns are {', '.join(map(str, frame.columns))}")


def _checked_dates(frame: pd.DataFrame, dates: Sequence[str]) -> pd.DataFrame:
    for column in dates:
        if len(frame) and not pd.api.types.is_datetime64_any_dtype(frame[column]):
            raise ValueError(f"pandas cannot read column {column!r} as dates")
    return frame


def columns_like_dates(frame: pd.DataFrame) -> list[Any]:
    """Columns of text that begins as dates do."""
    texts = frame.columns[[pd.api.types.is_string_dtype(dtype) for dtype in frame.dtypes]]
    return [column for column in texts if _all_like_dates(frame[column].dropna().head(_LIKE_DATES_ROWS).tolist())]


def _all_like_dates(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) and _DATE.match(value) for value in values)


def read_parquet(path: str, by: Sequence[str] = ()) -> tuple[pd.DataFrame, bool]:
    """As `read_csv`, for a Parquet file."""
    frame, whole = _read_parquet(path)
    _check_columns(frame, by)
    return frame, whole


def _read_parquet(path: str) -> tuple[pd.DataFrame, bool]:
    with ParquetFile(path) as file:
        first = next(file.iter_batches(_SAMPLE_ROWS), None)
        total: int = file.metadata.num_rows
        if first is None or total <= (most := _most_rows(first.to_pandas())):
            return file.read().to_pandas(), True
        batches, rows = [], 0
        for batch in file.iter_batches():
            batches.append(batch)
            rows += batch.num_rows
            if rows >= most:
                break
        return pa.Table.from_batches(batches).slice(0, most).to_pandas(), False


def _most_rows(sample: pd.DataFrame) -> int:
    available = _available()
    return max(_SAMPLE_ROWS, int(available / _SHARE / max(1, frame_bytes(sample)) * len(sample)))


def _available() -> int:
    """Bytes of memory that are available; without the limits of containers where those cannot be known."""
    if portable.missing() is not None:
        found: int = psutil.virtual_memory().available
        return found
    from arrowpool.memory.limits import memory

    return memory()[1]
