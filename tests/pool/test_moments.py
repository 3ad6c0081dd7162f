"""The moment at which an object is read: what it is then, and which other object it is the same as.

The standard library pickles a task in one piece, function and arguments, when its item was drawn.
"""

from __future__ import annotations

import functools
import gc
import threading
import time
import traceback
import weakref

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from arrowpool import Pool, TaskExitError, TransferError, WorkerLostError
from tests.codecs.harness import as_the_stdlib_does
from tests.conftest import EVERY, OURS
from tests.pool import tasks

pl.DataFrame({"x": [2, 1]}).sort("x")  # starts the threads of polars, and it keeps descriptors of its own from then on

BIG = 100_000  # floats: well above what stays in the stream
LIMIT = 60


@pytest.fixture(params=EVERY[:2], ids=repr)
def implementation(request):
    """The standard library's pool and ours, with forked workers: how they start does not matter for the moment of a call."""
    return request.param


@pytest.fixture
def ours():
    return OURS[0]


STATES = {
    "dict": lambda: {"i": -1},
    "small array": lambda: np.full(3, -1.0),
    "large array": lambda: np.full(BIG, -1.0),
    "frame": lambda: pd.DataFrame(np.full((BIG, 2), -1.0)),
}
CALLABLES = {
    "partial": lambda state: functools.partial(tasks.state_and, state),
    "method": lambda state: tasks.Counter(state).method,
    "object": tasks.Counter,
}


def put(state, value):
    """The same object in another state."""
    if isinstance(state, dict):
        state["i"] = value
    elif isinstance(state, np.ndarray):
        state[:] = value
    else:
        state.iloc[:, :] = value


# --------------------------------------------------------------------------- a callable that changes between two items


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("make", CALLABLES)
@pytest.mark.parametrize("kind", STATES)
def test_a_callable_whose_state_the_iterator_changes(pool, kind, make, chunksize):
    state = STATES[kind]()

    def items():
        for i in range(9):
            put(state, i)
            yield 10 * i

    expected = [(i // chunksize * chunksize + chunksize - 1, 10 * i) for i in range(9)]
    assert list(pool.imap(CALLABLES[make](state), items(), chunksize)) == expected
    assert sorted(pool.imap_unordered(CALLABLES[make](state), items(), chunksize)) == expected


def test_a_sequence_that_changes_the_callable(pool):
    state = {"i": -1}

    class Sequence:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index >= 8:
                raise IndexError(index)
            state["i"] = index
            return index

    assert pool.map(functools.partial(tasks.state_and, state), Sequence(), 1) == [(i, i) for i in range(8)]


def test_a_closure_that_changes(our_pool):
    state = {"i": -1}
    number = -1

    def items():
        nonlocal number
        for i in range(6):
            number = state["i"] = i
            yield i

    assert list(our_pool.imap(lambda x: (state["i"], number, x), items())) == [(i, i, i) for i in range(6)]


def make_strided():
    base = np.zeros((BIG, 3))
    return base[::2, 1], lambda i: base.__setitem__((BIG - 2, 1), i)


def make_frame_rows():
    frame = pd.DataFrame(np.zeros((BIG, 3)), copy=False)
    array = frame.to_numpy()
    array.flags.writeable = True
    return frame.iloc[10:-10], lambda i: array.__setitem__((BIG - 20, 2), i)


def make_mixed():
    frame = pd.DataFrame({"x": np.zeros(BIG), "y": np.zeros(BIG, dtype=int), "t": [f"row {i}" for i in range(BIG)]})
    return frame, lambda i: frame.__setitem__("y", frame["y"] + i)


def make_objects():
    texts = pd.Series([f"row {i}" for i in range(BIG)], dtype=object)
    return texts, lambda i: texts.iloc.__setitem__(BIG - 1, f"changed {i}")


def make_holder(obj, change):
    held = tasks.Holder(obj(), {"array": np.zeros(3)})
    return held, lambda i: setattr(held, "frame", change(held.frame, i))


CHANGED = {
    "strided": make_strided,
    "rows": make_frame_rows,
    "mixed": make_mixed,
    "texts": make_objects,
    "foreign": lambda: (array := np.zeros(BIG, dtype=">f8"), lambda i: array.__setitem__(BIG - 1, i)),
    "fortran": lambda: (array := np.zeros((BIG, 2), order="F"), lambda i: array.__setitem__((BIG - 1, 1), i)),
    "small blocks": lambda: (
        frame := pd.concat([pd.Series(np.zeros(2000), name=f"c{i}") for i in range(40)], axis=1),
        lambda i: frame.__setitem__("c39", float(i)),
    ),
    "table": lambda: make_holder(
        lambda: pa.table({"x": np.zeros(BIG)}), lambda t, i: t.set_column(0, "x", pa.array(np.full(BIG, float(i))))
    ),
    "nested table": lambda: make_holder(
        lambda: pa.table({"x": [[0.0], [1.0]] * 20_000}),
        lambda t, i: t.set_column(0, "x", pa.array([[float(i)], [1.0]] * 20_000)),
    ),
    "slices": lambda: make_holder(lambda: WHOLE.slice(0, BIG // 2), lambda t, i: WHOLE.slice(i, BIG // 2)),
    "dictionary": lambda: make_holder(
        lambda: pa.table({"x": CODES}),
        lambda t, i: pa.table({"x": pa.DictionaryArray.from_arrays(CODES.indices, [f"a{i}", "b"])}),
    ),
    "polars": lambda: make_holder(
        lambda: pl.DataFrame({"x": np.zeros(BIG)}), lambda f, i: f.with_columns(pl.lit(float(i)).alias("x"))
    ),
    "bytes": lambda: make_holder(lambda: b"0" * BIG, lambda b, i: bytes([i]) * BIG),
}
WHOLE = pa.table({"x": np.arange(float(BIG))})
CODES = pa.DictionaryArray.from_arrays(pa.array(np.arange(BIG) % 2, pa.int32()), ["a0", "b"])


@pytest.mark.parametrize("kind", CHANGED)
def test_large_memory_of_every_kind_is_compared_to_its_last_byte(kind):
    obj, change = CHANGED[kind]()
    look = tasks.contents_of if isinstance(obj, tasks.Holder) else tasks.digest_of
    expected = []

    def items():
        for i in (0, 1, 1, 2):
            if i:
                change(i)
            for _ in range(2):
                expected.append(look(as_the_stdlib_does(obj), 0))
                yield len(expected)

    with Pool(2) as pool:
        assert list(pool.imap(functools.partial(look, obj), items())) == expected
    pool.join()
    assert len(set(expected)) > 2


def over_numpy(make):
    """What Arrow or polars makes of NumPy's memory without a copy, and how a generator writes to that."""
    memory = np.zeros(BIG)
    return make(memory), lambda obj, i: memory.fill(i)


def rename(frame, i):
    frame.columns = [f"x{i}"]


#: Nothing of Arrow's own changes; what lies under it does, or what it is called.
NOT_FROZEN = {
    "array": lambda: over_numpy(pa.array),
    "table": lambda: over_numpy(lambda memory: pa.table({"x": memory})),
    "slice": lambda: over_numpy(lambda memory: pa.table({"x": memory}).slice(5)),
    "foreign buffer": lambda: over_numpy(
        lambda memory: pa.Array.from_buffers(pa.float64(), BIG, [None, pa.py_buffer(memory)])
    ),
    "pandas": lambda: over_numpy(lambda memory: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(memory)))),
    "polars": lambda: over_numpy(lambda memory: pl.from_arrow(pa.table({"x": memory}))),
    "name": lambda: (pl.DataFrame({"x": np.zeros(BIG)}), rename),
}


@pytest.mark.parametrize("kind", NOT_FROZEN)
def test_memory_and_names_that_change_under_arrow(kind):
    obj, change = NOT_FROZEN[kind]()
    expected = []

    def items():
        for i in (0, 1, 1, 2):
            change(obj, i)
            expected.append(tasks.first_and_names(obj, 0))
            yield i

    with Pool(2) as pool:
        assert list(pool.imap(functools.partial(tasks.first_and_names, obj), items())) == expected
    pool.join()
    assert len(set(expected)) == 3


@pytest.mark.parametrize("kind", ["array", "frame", "table", "polars", "shared"])
def test_what_does_not_change_is_copied_once(our_pool, kind):
    make = {
        "frame": lambda array: pd.DataFrame({"x": array, "t": pd.array(["text"] * BIG, dtype="string[pyarrow]")}),
        "table": lambda array: pa.table({"x": array, "n": pa.array([None, 1] * (BIG // 2))}),
        "polars": lambda array: pl.DataFrame({"x": array}),
    }
    obj = make.get(kind, lambda array: array)(np.arange(float(BIG)))
    function = functools.partial(tasks.digest_of, obj)
    our_pool.apply(function, (0,))
    before = our_pool.stats().shared_bytes
    our_pool.apply(function, (0,))
    once = our_pool.stats().shared_bytes - before
    assert once > BIG
    if kind == "shared":
        with our_pool.share(obj):
            list(our_pool.imap(function, (i for i in range(20))))
    else:
        list(our_pool.imap(function, (i for i in range(20))))
    assert our_pool.stats().shared_bytes - before == 2 * once


def test_states_that_are_over_give_their_memory_back():
    state = np.zeros(BIG)

    def items():
        for i in range(60):
            state[:] = i
            yield i, np.full(BIG, float(i))

    with Pool(2, max_bytes=6 * state.nbytes) as pool:
        came = pool.imap(functools.partial(tasks.state_and, state), items())
        for i, (in_state, (number, array)) in enumerate(came):
            assert (in_state, number, array[0]) == (i, i, i)
        assert pool.stats().peak_bytes <= 8 * state.nbytes
        pool.apply(tasks.square, (2,))
        assert pool._task_handler.parts.budget.pinned == 0
        deadline = time.monotonic() + LIMIT
        while (
            pool._task_handler.parts.sender.lifecycle.bytes_live
        ):  # a worker lets go of functions after its last reply
            assert time.monotonic() < deadline
            pool._task_handler.wake()
            time.sleep(0.005)
        assert all(len(worker.known_blobs) < 10 for worker in pool._task_handler.workers)
    pool.join()


def test_a_state_that_cannot_be_pickled_is_the_error_of_its_items(pool):
    counter = tasks.Counter({"i": 0})

    def items():
        for i in range(6):
            counter.state["lock"] = threading.Lock() if i in (2, 3) else None
            counter.state["i"] = i
            yield i

    came = pool.imap(counter.method, items())
    for i in range(6):
        if i in (2, 3):
            with pytest.raises(TypeError, match="pickle"):
                came.next(LIMIT)
        else:
            assert came.next(LIMIT) == (i, i)


# -------------------------------------------------------------------------------------------------------- single calls


def small_frame():
    return pd.DataFrame({"a": [-1.0, 2.0]})


@pytest.mark.parametrize("kind", ["dict", "small array", "small frame"])
def test_a_single_call_takes_what_is_small_at_once(our_pool, kind):
    state = {**STATES, "small frame": small_frame}[kind]()
    listed = [None, 0]
    named = {"state": None, "x": None}
    counter = tasks.Counter(state)
    results = []
    for i in range(30):
        put(state, i)
        listed[0], listed[1] = state, i
        named["state"], named["x"] = state, i
        results += [
            our_pool.apply_async(tasks.state_and, (state, i)),
            our_pool.apply_async(tasks.state_and, listed),
            our_pool.apply_async(tasks.state_and, (), named),
            our_pool.apply_async(functools.partial(tasks.state_and, state), (i,)),
            our_pool.apply_async(counter.method, (i,)),
            our_pool.apply_async(counter, (i,)),
        ]
    put(state, -2)
    assert [result.get(LIMIT) for result in results] == [(i, i) for i in range(30) for _ in range(6)]
    assert our_pool._task_handler.parts.snapshots._taken == our_pool._task_handler.parts.snapshots._dropped > 0


def test_more_single_calls_than_may_wait(monkeypatch):
    """Those beyond the bound are taken later, and that is all."""
    monkeypatch.setattr("arrowpool.engine.snapshot.SNAPSHOT_BYTES", 5000)
    with Pool(1) as pool:
        results = [pool.apply_async(tasks.identity, (list(range(i, i + 500)),)) for i in range(40)]
        assert [result.get(LIMIT)[0] for result in results] == list(range(40))
        assert 5000 <= pool._task_handler.parts.snapshots._taken < 40 * 1000
        assert pool._task_handler.parts.snapshots._taken == pool._task_handler.parts.snapshots._dropped
    pool.join()


class Calls:
    """Makes a call while it is pickled."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return tasks.square, (self.call(),)


def test_pickling_that_makes_calls_of_its_own(our_pool):
    inner = Calls(lambda: our_pool.apply(tasks.square, (2,)))
    outer = Calls(lambda: our_pool.apply(tasks.identity, (inner,)))
    assert our_pool.apply(tasks.identity, ([outer, inner],)) == [256, 16]


def test_errors_of_pickling_belong_to_the_result(our_pool):
    def raises(error):
        def call():
            raise error

        return Calls(call)

    failed = []
    result = our_pool.apply_async(tasks.identity, (raises(RuntimeError("no")),), error_callback=failed.append)
    with pytest.raises(RuntimeError, match="no"):
        result.get(LIMIT)
    assert len(failed) == 1
    with pytest.raises(TaskExitError, match="pickling it raised SystemExit"):
        our_pool.apply(tasks.identity, (raises(SystemExit(3)),))
    with pytest.raises(TypeError, match="mapping"):
        our_pool.apply(tasks.identity, (1,), np.zeros(3))
    # The main thread may have been interrupted: then there is no call.
    with pytest.raises(KeyboardInterrupt):
        our_pool.apply_async(tasks.identity, (raises(KeyboardInterrupt()),))
    assert our_pool.apply(tasks.square, (3,)) == 9
    del result, failed
    assert not our_pool._cache


# ------------------------------------------------------------------------------------------------------------ identity

SHARED = {
    "list": lambda: [1],
    "dict": lambda: {"i": [1]},
    "tuple with a list": lambda: (1, [2]),
    "set": lambda: {1},
    "bytearray": lambda: bytearray(b"abc"),
    "small array": lambda: np.zeros(3),
    "large array": lambda: np.zeros(BIG),
    "frame": lambda: pd.DataFrame({"a": np.zeros(BIG)}),
    "object": lambda: tasks.Counter({"i": 1}),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_a_function_captured_is_the_argument(pool, kind):
    obj = SHARED[kind]()
    same = functools.partial(tasks.is_same, obj)
    assert pool.apply(same, (obj,)) is True
    assert pool.apply(same, (), {"b": obj}) is True
    assert pool.apply(same, (SHARED[kind](),)) is False
    assert pool.apply(functools.partial(tasks.is_inside, obj), ([obj],)) is True
    assert pool.map(same, [obj, SHARED[kind](), obj], 1) == [True, False, True]
    assert pool.map(same, [obj, SHARED[kind](), obj], 3) == [True, False, True]
    assert pool.starmap(same, [(obj,)] * 2, 1) == [True, True]
    assert list(pool.imap(same, (one for one in [1, obj, SHARED[kind](), obj]))) == [False, True, False, True]


@pytest.mark.parametrize("one", OURS, ids=repr)
def test_functions_with_data_under_every_start_method(one):
    state = {"i": -1}
    array = np.zeros(BIG)

    def items():
        for i in range(6):
            state["i"] = i
            yield array if i % 2 else i

    with one.pool(2) as pool:
        came = list(pool.imap(functools.partial(tasks.state_and_same, state, array), items()))
        assert came == [(i, bool(i % 2)) for i in range(6)]
    pool.join()


def test_an_object_and_its_method(pool):
    counter = tasks.Counter([5, 6])
    assert pool.apply(getattr, (counter, "state")) == [5, 6]
    assert pool.apply(functools.partial(tasks.is_same, counter.state), (counter.state,)) is True
    assert pool.map(functools.partial(tasks.one_is_written, array := np.zeros(BIG)), [array, array]) == [5.0, 5.0]
    assert array[0] == 0


def test_what_is_the_same_goes_once(our_pool):
    array = np.zeros(BIG)
    same = functools.partial(tasks.is_same, array)
    before = our_pool.stats().shared_bytes
    assert our_pool.apply(same, (array,))
    assert all(our_pool.map(same, [array] * 10, 1))
    assert our_pool.stats().shared_bytes - before == 2 * array.nbytes


def test_new_objects_with_ids_of_old_ones_are_not_mistaken_for_them(our_pool):
    """Pickling a function makes objects for the occasion; later ones with their ids are others."""

    class Fresh:
        def __reduce__(self):
            return tasks.identity, ([object, 1.5],)

    same = functools.partial(tasks.is_same, Fresh())
    for _ in range(20):
        assert our_pool.map(same, [[object, 1.5] for _ in range(50)], 5) == [False] * 50
        gc.collect()


def test_a_large_stream_next_to_large_arguments(our_pool):
    """Both so large that their streams are placed as memory."""
    texts = [f"text {i}" for i in range(20_000)]
    function = functools.partial(tasks.is_inside, texts)
    assert our_pool.apply(function, ([texts, np.zeros(BIG), [f"other {i}" for i in range(20_000)]],)) is True
    assert our_pool.map(function, [[texts, [f"other {i}" for i in range(20_000)]]] * 4, 1) == [True] * 4


@pytest.mark.own_pool
def test_a_worker_that_is_new_gets_both(our_pool):
    array = np.zeros(BIG)
    same = functools.partial(tasks.is_same, array)
    assert our_pool.map(same, [array] * 4, 1) == [True] * 4
    for _ in range(2):
        with pytest.raises(WorkerLostError):
            our_pool.apply(tasks.die, ("sigkill",))
    assert our_pool.map(same, [array] * 4, 1) == [True] * 4


@pytest.mark.parametrize("kind", [tasks.Packed, tasks.Offered])
@pytest.mark.parametrize("how", ["chunk", "tuple", "result", "captured", "calls"])
def test_what_a_reduction_packs_is_taken_at_once(pool, how, kind):
    """Code that packs objects into memory of its own may use it again for the next object."""
    many = tasks.packed(4, kind)
    if how == "chunk":
        found = [value for [value] in pool.map(tasks.first_packed, many, 4)]
    elif how == "tuple":
        found = pool.apply(tasks.first_packed, many)
    elif how == "result":
        found = tasks.first_packed(*pool.apply(tasks.packed, (4, kind)))
    elif how == "captured":
        found = pool.apply(functools.partial(tasks.first_packed, *many[:2]), many[2:])
    else:
        results = [pool.apply_async(tasks.first_packed, (one,)) for one in many]
        found = [value for [value] in [result.get(LIMIT) for result in results]]
    assert found == [0.0, 1.0, 2.0, 3.0]


def test_a_list_s_arrays_are_let_go_of_once_all_are_sent(our_pool, tmp_path):
    """As with the standard library: not when the results are there."""
    gate = tmp_path / "go on"
    arrays = [np.ones(100_000), np.ones(20)]
    known = [weakref.ref(array) for array in arrays]
    result = our_pool.starmap_async(tasks.wait_for_file, [(array, str(gate)) for array in arrays], 1)
    del arrays
    until = time.monotonic() + 30
    while any(one() is not None for one in known):
        assert time.monotonic() < until
        time.sleep(0.01)
    gate.touch()
    assert result.get(30) == [1.0, 1.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda pool, argument: pool.apply(tasks.identity, (argument,)),
        lambda pool, argument: pool.map(tasks.identity, [argument]),
        lambda pool, argument: next(pool.imap(tasks.identity, [argument])),
    ],
    ids=["apply", "map", "imap"],
)
def test_an_argument_that_cannot_be_pickled_is_let_go_of_with_its_error(our_pool, call):
    """It is in the error's traceback. No thread of the pool keeps that while it waits."""

    class Argument:
        def __reduce__(self):
            raise ZeroDivisionError

    argument = Argument()
    known = weakref.ref(argument)
    with pytest.raises(ZeroDivisionError):
        call(our_pool, argument)
    del argument
    until = time.monotonic() + 30
    while known() is not None:
        gc.collect()
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_error_of_rebuilding_a_result_keeps_nothing_of_it(our_pool):
    """Its traceback has the frames in which the memory was read, and the error may be kept for long."""
    gc.collect()
    before = our_pool.stats().live_results
    gc.disable()
    try:
        with pytest.raises(TransferError, match="100,000 values") as raised:
            our_pool.apply(tasks.large_and_cannot_be_rebuilt)
        assert our_pool.stats().live_results == before
        frames = traceback.extract_tb(raised.value.__cause__.__traceback__)
        assert frames[-1].name == "_explode_with", "it says where the error was"
    finally:
        gc.enable()
