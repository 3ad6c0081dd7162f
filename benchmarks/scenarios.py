"""What is measured: each scenario's inputs, the call that is timed, its check and its goals.

Read by `measure`, `compare`, `memory` and `test_speed`. A scenario knows nothing of who competes: it is given an object
with the stdlib's `map(fn, items, chunksize)`. The task functions stand at module level, so that every start method
finds them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import inputs


class MapPool(Protocol):
    """What a scenario may ask of a contender."""

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]: ...


class Timing(enum.Enum):
    """What the clock sees."""

    WARM_CALL = "a call on a pool that has answered the same call before"
    FIRST_CALL = "the first large call of a new pool in a new process; its workers have answered one tiny task"
    OPEN = "making the pool, and nothing else"


@dataclass(frozen=True, slots=True)
class Goal:
    """What `arrowpool` has to reach.

    `stdlib` and `ray` are ratios of seconds (theirs to ours), `memcpy` is the share of the speed of one `np.copyto` of
    the same bytes into warm memory, `task_ms` the most milliseconds a task may take once one copy is paid for.
    """

    stdlib: float | None = None
    ray: float | None = None
    memcpy: float | None = None
    task_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table. `fresh` gives each round its own copy of the inputs; it is not timed, nor is `check`.

    `make` takes the size of the inputs, 1 for what the title says. `rows_task` is the task of a scenario that is nothing but
    that task over row chunks of one float frame, which is what one can write by hand with `SharedMemory`.
    """

    name: str
    title: str
    tasks: int
    make: Callable[[float], Any]
    run: Callable[[MapPool, Any], Any]
    check: Callable[[Any, Any], None]
    fresh: Callable[[Any], Any] = lambda made: made
    copied_bytes: Callable[[Any], int] | None = None
    goal: Goal = Goal()
    timing: Timing = Timing.WARM_CALL
    left_out: dict[str, str] = field(default_factory=dict)
    rows_task: Callable[[pd.DataFrame], Any] | None = None
    scale: float = 1.0

    def inputs(self) -> Any:
        """New inputs."""
        return self.make(self.scale)


# -- tasks ------------------------------------------------------------------------------------------------------------


def sum_column(chunk: pd.DataFrame) -> float:
    return float(chunk["c0"].sum())


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk * 2


def sum_price(chunk: pd.DataFrame) -> float:
    return float(chunk["price"].sum())


def raise_price(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(price=chunk["price"] * 2)


def sum_table_column(chunk: pa.Table) -> float:
    return float(pc.sum(chunk["c0"]).as_py())


def first_and_last(array: np.ndarray) -> float:
    return float(array[0] + array[-1])


def cell(frame: pd.DataFrame, row: int) -> float:
    return float(frame.iat[row, 0])


def cell_of_pair(pair: tuple[pd.DataFrame, int]) -> float:
    return cell(*pair)


def negative(number: int) -> int:
    return -number


# -- checks -----------------------------------------------------------------------------------------------------------


def check_sums(chunks: list[Any], result: list[float], task: Callable[[Any], float]) -> None:
    assert result == [task(chunk) for chunk in chunks]


def check_doubled(chunks: list[pd.DataFrame], result: list[pd.DataFrame]) -> None:
    assert len(result) == len(chunks)
    for chunk, doubled in zip(chunks, result, strict=True):
        assert doubled.index.equals(chunk.index)
        assert doubled.columns.equals(chunk.columns)
        assert np.array_equal(doubled.to_numpy(), chunk.to_numpy() * 2)


def check_raised(chunks: list[pd.DataFrame], result: list[pd.DataFrame]) -> None:
    assert len(result) == len(chunks)
    for chunk, raised in zip(chunks, result, strict=True):
        pd.testing.assert_frame_equal(raised, raise_price(chunk))


def check_cells(frame: pd.DataFrame, result: list[float]) -> None:
    assert result == frame["c0"].iloc[: inputs.CHUNKS].tolist()


def check_negatives(numbers: Sequence[int], result: list[int]) -> None:
    assert result == [-number for number in numbers]


def check_usable(_: None, pool: MapPool) -> None:
    assert pool.map(negative, range(4)) == [0, -1, -2, -3]


# -- the scenarios ----------------------------------------------------------------------------------------------------

_BATCHES_NOTHING = "sends every task alone, which takes minutes"
_LAZY = "starts its processes with the first call"


frame_in = Scenario(
    name="frame_in",
    title="map(sum of a column, chunksize=1) over 40 row chunks of a 320 MB frame",
    tasks=inputs.CHUNKS,
    make=inputs.float_frame,
    fresh=pd.DataFrame.copy,
    run=lambda pool, frame: pool.map(sum_column, inputs.row_chunks(frame), 1),
    check=lambda frame, result: check_sums(inputs.row_chunks(frame), result, sum_column),
    copied_bytes=inputs.frame_bytes,
    rows_task=sum_column,
    goal=Goal(stdlib=10, ray=3, memcpy=0.65),
)

arrow_slices = Scenario(
    name="arrow_slices",
    title="40 slices of the same bytes as one pyarrow Table",
    tasks=inputs.CHUNKS,
    make=inputs.float_table,
    fresh=inputs.copy_table,
    run=lambda pool, table: pool.map(sum_table_column, inputs.table_slices(table), 1),
    check=lambda table, result: check_sums(inputs.table_slices(table), result, sum_table_column),
    copied_bytes=lambda table: int(table.nbytes),
    goal=Goal(stdlib=100, ray=3),
)

SCENARIOS: tuple[Scenario, ...] = (
    frame_in,
    Scenario(
        name="frame_there_and_back",
        title="map(x * 2) over the same chunks, a frame back from each",
        tasks=inputs.CHUNKS,
        make=inputs.float_frame,
        fresh=pd.DataFrame.copy,
        run=lambda pool, frame: pool.map(double, inputs.row_chunks(frame), 1),
        check=lambda frame, result: check_doubled(inputs.row_chunks(frame), result),
        copied_bytes=lambda frame: 2 * inputs.frame_bytes(frame),
        rows_task=double,
        goal=Goal(stdlib=12, ray=2.5),
    ),
    Scenario(
        name="mixed_in",
        title="40 row chunks of a mixed frame of 1.5 M rows, in",
        tasks=inputs.CHUNKS,
        make=inputs.mixed_frame,
        fresh=pd.DataFrame.copy,
        run=lambda pool, frame: pool.map(sum_price, inputs.row_chunks(frame), 1),
        check=lambda frame, result: check_sums(inputs.row_chunks(frame), result, sum_price),
        copied_bytes=inputs.frame_bytes,
        goal=Goal(stdlib=4),
    ),
    Scenario(
        name="mixed_there_and_back",
        title="the mixed frame, there and back",
        tasks=inputs.CHUNKS,
        make=inputs.mixed_frame,
        fresh=pd.DataFrame.copy,
        run=lambda pool, frame: pool.map(raise_price, inputs.row_chunks(frame), 1),
        check=lambda frame, result: check_raised(inputs.row_chunks(frame), result),
        copied_bytes=lambda frame: 2 * inputs.frame_bytes(frame),
        goal=Goal(stdlib=6),
    ),
    arrow_slices,
    Scenario(
        name="numpy_arrays",
        title="40 NumPy arrays of 8 MB",
        tasks=inputs.CHUNKS,
        make=inputs.float_arrays,
        fresh=lambda arrays: [array.copy() for array in arrays],
        run=lambda pool, arrays: pool.map(first_and_last, arrays, 1),
        check=lambda arrays, result: check_sums(arrays, result, first_and_last),
        copied_bytes=lambda arrays: sum(array.nbytes for array in arrays),
        goal=Goal(stdlib=6, ray=2),
    ),
    Scenario(
        name="partial_frame",
        title="partial(f, 320 MB frame) over 40 tasks",
        tasks=inputs.CHUNKS,
        make=inputs.float_frame,
        fresh=pd.DataFrame.copy,
        run=lambda pool, frame: pool.map(partial(cell, frame), range(inputs.CHUNKS), 1),
        check=check_cells,
        copied_bytes=inputs.frame_bytes,
        goal=Goal(stdlib=300, task_ms=0.5),
    ),
    Scenario(
        name="same_frame",
        title="the same 320 MB frame as an argument of 40 tasks",
        tasks=inputs.CHUNKS,
        make=inputs.float_frame,
        fresh=pd.DataFrame.copy,
        run=lambda pool, frame: pool.map(cell_of_pair, [(frame, row) for row in range(inputs.CHUNKS)], 1),
        check=check_cells,
        copied_bytes=inputs.frame_bytes,
        goal=Goal(stdlib=300, task_ms=0.5),
    ),
    Scenario(
        name="tiny_single",
        title="20,000 tiny tasks, chunksize 1",
        tasks=20_000,
        make=lambda scale: range(inputs.scaled(20_000, scale)),
        run=lambda pool, numbers: pool.map(negative, numbers, 1),
        check=check_negatives,
        goal=Goal(stdlib=3),
    ),
    Scenario(
        name="tiny_default",
        title="200,000 tiny tasks, default chunksize",
        tasks=200_000,
        make=lambda scale: range(inputs.scaled(200_000, scale)),
        run=lambda pool, numbers: pool.map(negative, numbers),
        check=check_negatives,
        goal=Goal(stdlib=1),
        left_out={"dask": _BATCHES_NOTHING, "futures": _BATCHES_NOTHING},
    ),
    Scenario(
        name="array_rows",
        title="4,000 rows of one array, default chunksize",
        tasks=4_000,
        make=lambda scale: inputs.whole_floats(inputs.scaled(4_000, scale), 100),
        fresh=np.copy,
        run=lambda pool, array: pool.map(first_and_last, list(array)),
        check=lambda array, result: check_sums(list(array), result, first_and_last),
        goal=Goal(stdlib=1),
    ),
    replace(
        frame_in,
        name="frame_in_cold",
        title="the first map of a new pool in a new process (cold memory)",
        timing=Timing.FIRST_CALL,
        goal=Goal(stdlib=4),
    ),
    Scenario(
        name="new_pool",
        title="making a pool of 2 processes",
        tasks=0,
        make=lambda scale: None,
        run=lambda pool, _: pool,
        check=check_usable,
        timing=Timing.OPEN,
        goal=Goal(stdlib=1 / 1.3),
        left_out=dict.fromkeys(("joblib", "mpire", "futures"), _LAZY),
    ),
    replace(
        frame_in,
        name="frame_in_batched",
        title="the same map with the default chunksize, 5 chunks a message",
        run=lambda pool, frame: pool.map(sum_column, inputs.row_chunks(frame)),
        rows_task=None,
        goal=Goal(),
    ),
    replace(
        frame_in,
        name="frame_in_again",
        title="map(sum of a column) again over the very frame of the round before",
        fresh=lambda frame: frame,
        goal=Goal(),
    ),
    replace(
        arrow_slices,
        name="arrow_slices_again",
        title="the slices again of the very table of the round before",
        fresh=lambda table: table,
        goal=Goal(),
    ),
)


def by_name(name: str, among: Sequence[Scenario] = SCENARIOS) -> Scenario:
    """The scenario of this name; `LookupError` names those that exist."""
    for scenario in among:
        if scenario.name == name:
            return scenario
    raise LookupError(f"no scenario {name!r}; there are: {', '.join(s.name for s in among)}")


def scaled(scenario: Scenario, scale: float) -> Scenario:
    """The scenario with inputs of another size; 1 is what its title says."""
    return replace(scenario, scale=scale)


def titled(scenario: Scenario) -> str:
    """Its title, with the scale unless that is 1."""
    return scenario.title if scenario.scale == 1 else f"{scenario.title} (inputs times {scenario.scale:g})"
