"""A trace of a pool: what is in the file, in the table and in the plot, and what goes wrong."""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import logging
import os
import threading
import time
import warnings
import weakref

import numpy as np
import pytest

from arrowpool import ProcessPoolExecutor, WorkerLostError
from arrowpool.engine.recorder import Activity
from tests.conftest import OURS, forked_only
from tests.pool import tasks

LIMIT = 30


@pytest.fixture(scope="module", autouse=True)
def _fonts_are_open():
    """matplotlib keeps the files of its fonts open from the first plot on."""
    if importlib.util.find_spec("matplotlib") is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that matplotlib uses
            figures = importlib.import_module("matplotlib.figure")
            figures.Figure().subplots().figure.savefig(io.BytesIO())


def slices(path, activity=None):
    events = json.loads(path.read_text())["traceEvents"]
    return [one for one in events if one["ph"] == "X" and activity in (None, one["cat"])]


def names(path):
    events = json.loads(path.read_text())["traceEvents"]
    return {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}


def workers_of(pool):
    return {process.pid for process in pool._pool}


def replace_by_a_directory(path):
    path.unlink()
    path.mkdir()


def bars(trace, activity):
    return [bar for row in trace.rows for bar in row.bars if bar.activity is activity]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_the_file_has_each_task_in_the_row_of_its_worker(our_pool, tmp_path, chunksize):
    path = tmp_path / "trace.json"
    arrays = [np.full(20_000, float(number)) for number in range(6)]
    with our_pool.trace(path) as trace:
        assert [array[0] for array in our_pool.map(tasks.double, arrays, chunksize)] == [0, 2, 4, 6, 8, 10]
    assert trace.dropped == 0
    assert trace.path == str(path)
    rows = names(path)
    assert {"MainThread", "feeder", "collector"} <= set(rows.values())
    ran = slices(path, "run")
    assert len(ran) == 6 // chunksize
    assert {one["tid"] for one in ran} <= workers_of(our_pool)
    assert all(rows[one["tid"]] == f"worker {one['tid']}" for one in ran)
    assert {one["args"]["function"] for one in ran} == {"double"}
    assert len({one["args"]["items"] for one in ran}) == len(ran)
    copied = [one["args"]["bytes"] for one in slices(path, "copy") if rows[one["tid"]] == "feeder"]
    assert sum(copied) >= sum(array.nbytes for array in arrays)
    rebuilt = [one["args"]["bytes"] for one in slices(path, "rebuild") if rows[one["tid"]] == "collector"]
    assert sum(rebuilt) >= sum(array.nbytes for array in arrays)


def test_the_file_is_well_formed(our_pool, tmp_path):
    path = tmp_path / "trace.json"
    with our_pool.trace(path) as trace:
        our_pool.map(tasks.square, range(200), 2)
        list(our_pool.imap(tasks.double, (np.ones(20_000) for _ in range(5))))
    file = json.loads(path.read_text())
    assert file["otherData"]["dropped"] == 0
    events = file["traceEvents"]
    assert {one["ph"] for one in events} == {"M", "X", "s", "f"}
    for one in events:
        assert isinstance(one["pid"], int)
        assert isinstance(one["tid"], int)
        if one["ph"] != "M":
            assert 0 <= one["ts"] <= trace.seconds * 1e6
    of_row = {}
    for one in slices(path):
        assert one["dur"] > 0
        of_row.setdefault(one["tid"], []).append((one["ts"], one["ts"] + one["dur"]))
    for spans in of_row.values():
        outer = []
        for began, ended in spans:  # each after the one before it, or within it
            while outer and outer[-1] <= began + 1e-3:
                outer.pop()
            assert not outer or ended <= outer[-1] + 1e-3
            outer.append(ended)
    ends = {phase: [one["id"] for one in events if one["ph"] == phase] for phase in "sf"}
    assert len(set(ends["f"])) == len(ends["f"])
    assert set(ends["f"]) <= set(ends["s"])
    assert "your iterator" in names(path).values()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that matplotlib uses
def test_a_table_and_a_plot(our_pool):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    with our_pool.trace() as trace:
        with pytest.raises(RuntimeError, match="complete at the end"):
            trace.plot()
        assert repr(trace) == "<Trace open>"
        assert trace._repr_png_() is None
        our_pool.map(tasks.square, range(20), 1)
    text = repr(trace)
    for pid in {bar.link.pid for bar in bars(trace, Activity.RUN)}:
        assert f"worker {pid}" in text
    assert "running" in text
    axes = trace.plot()
    try:
        assert [label.get_text() for label in axes.get_yticklabels()] == [row.name for row in trace.rows]
        assert "since the trace began" in axes.get_xlabel()
        said = [text.get_text() for text in axes.get_legend().get_texts()]
        assert "running" in said
        assert "failed or cut short" not in said
        assert trace.plot(axes) is axes
    finally:
        pyplot.close("all")
    assert trace._repr_png_().startswith(b"\x89PNG")
    with our_pool.trace() as trace, pytest.raises(ValueError, match="odd"):
        list(our_pool.imap(tasks.fail_if_odd, (number for number in range(2))))
    axes = trace.plot()
    try:
        assert "failed or cut short" in [text.get_text() for text in axes.get_legend().get_texts()]
        assert "X" in [text.get_text() for text in axes.texts]
        shares = dict(
            zip(
                [row.name for row in trace.rows],
                [text.get_text() for text in axes.texts if "%" in text.get_text()],
                strict=True,
            )
        )
        assert shares["your iterator"].startswith("busy "), "its waits are not recorded"
        assert shares["feeder"].startswith("waiting ")
    finally:
        pyplot.close("all")


@forked_only
def test_one_trace_at_a_time(our_pool, tmp_path):
    with our_pool.trace(tmp_path / "one.json") as first:
        our_pool.map(tasks.square, range(4))
        with pytest.raises(RuntimeError, match="one trace at a time"), our_pool.trace(tmp_path / "two.json"):
            raise AssertionError
        our_pool.map(tasks.square, range(4))
    assert os.listdir(tmp_path) == ["one.json"]
    assert len(bars(first, Activity.RUN)) == 8
    with our_pool.trace() as again:
        pass
    assert bars(again, Activity.RUN) == []
    with pytest.raises(RuntimeError, match="entered once"), again:
        pass


@forked_only
def test_nothing_is_recorded_outside_the_block(our_pool):
    with our_pool.trace():
        tape = our_pool._engine.recorder.tape
    before = len(tape.slices), len(tape.ran)
    our_pool.map(tasks.square, range(50), 1)
    our_pool.map(tasks.double, [np.ones(20_000)] * 4, 1)
    assert (len(tape.slices), len(tape.ran)) == before


@forked_only
@pytest.mark.parametrize("where", ["no such directory/trace.json", ".", "pipe", "file/trace.json"])
def test_a_path_that_cannot_be_written_is_an_error_before_the_block(our_pool, tmp_path, where):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a trace cannot be written to") as raised, our_pool.trace(tmp_path / where):
        raise AssertionError
    assert type(raised.value) is not AssertionError
    with our_pool.trace():
        assert our_pool.map(abs, [-1]) == [1]


@forked_only
def test_wrong_arguments(our_pool):
    with pytest.raises(TypeError, match="max_events must be an int"):
        our_pool.trace(max_events="many")
    with pytest.raises(ValueError, match="at least 1"):
        our_pool.trace(max_events=0)
    with pytest.raises(TypeError):
        our_pool.trace(7.5)


@forked_only
def test_without_a_block_it_warns(our_pool):
    with pytest.warns(RuntimeWarning, match="without a `with` block records nothing"):
        our_pool.trace()


@forked_only
def test_what_finds_no_room_is_counted_and_said(our_pool, tmp_path, caplog):
    path = tmp_path / "trace.json"
    with caplog.at_level(logging.WARNING, "arrowpool"), our_pool.trace(path, max_events=10) as trace:
        our_pool.map(tasks.square, range(100), 1)
    assert trace.dropped >= 90
    assert json.loads(path.read_text())["otherData"]["dropped"] == trace.dropped
    assert f"{trace.dropped:,} dropped" in repr(trace)
    assert "were dropped" in caplog.text
    assert sum(len(row.bars) for row in trace.rows) <= 10 * 6


@forked_only
def test_an_exception_passes_and_the_file_is_written(our_pool, tmp_path):
    path = tmp_path / "trace.json"
    with pytest.raises(ValueError, match="odd: 1"), our_pool.trace(path):
        our_pool.map(tasks.fail_if_odd, [0, 1], 1)
    assert [one["args"].get("note") for one in slices(path, "run")].count("raised an exception") == 1


@forked_only
def test_a_file_that_cannot_be_written_at_the_end_leaves_nothing(our_pool, tmp_path):
    directory = tmp_path / "directory"
    directory.mkdir()
    with pytest.raises(FileNotFoundError), our_pool.trace(directory / "trace.json"):
        directory.rmdir()
    assert os.listdir(tmp_path) == []
    path = tmp_path / "trace.json"
    path.write_text("old")
    with pytest.raises(IsADirectoryError), our_pool.trace(path):
        replace_by_a_directory(path)
    assert sorted(os.listdir(tmp_path)) == ["trace.json"]


@pytest.mark.own_pool
def test_a_worker_that_is_killed_is_shown(our_pool, tmp_path):
    path, pids = tmp_path / "trace.json", workers_of(our_pool)
    with our_pool.trace(path) as trace:
        with pytest.raises(WorkerLostError) as lost:
            our_pool.map(tasks.die, ["sigkill"], 1)
        our_pool.map(tasks.square, range(20), 1)
        tape, until = our_pool._engine.recorder.tape, time.monotonic() + LIMIT
        while not any(one.activity is Activity.START for one in list(tape.slices)):
            assert time.monotonic() < until
            our_pool.apply(tasks.square, (1,))
    assert lost.value.pid in pids
    (cut,) = [one for one in slices(path, "run") if "note" in one["args"]]
    assert cut["tid"] == lost.value.pid
    assert cut["args"]["note"] == "the worker was killed by SIGKILL"
    marks = [one for one in json.loads(path.read_text())["traceEvents"] if one["ph"] == "i"]
    assert ("was killed by SIGKILL", lost.value.pid) in [(one["name"], one["tid"]) for one in marks]
    assert "supervisor" in [row.name for row in trace.rows]


@pytest.mark.own_pool
def test_the_whole_chunk_of_a_worker_that_is_killed_is_shown(our_pool):
    with our_pool.trace() as trace, pytest.raises(WorkerLostError):
        our_pool.map(tasks.wait_or_die, [0.1, 0.1, -1.0, 0.1], 4)
    (cut,) = [bar for bar in bars(trace, Activity.RUN) if bar.note]
    assert (cut.what, cut.item) == ("wait_or_die", "items 0 to 3 of 4")
    assert cut.note == "the worker was killed by SIGKILL, with item 2 of 4"
    assert cut.ended - cut.began >= 0.2e9


@forked_only
def test_a_wait_that_began_before_or_ends_after_is_shown(our_pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    result = our_pool.apply_async(tasks.wait_for_file_open, (str(gate),))
    os.close(os.open(gate, os.O_WRONLY))  # the task has begun
    waiter = threading.Thread(target=result.wait, args=(LIMIT,), name="waiter")
    waiter.start()
    recorder = our_pool._engine.recorder
    until = time.monotonic() + LIMIT
    while len(recorder._waits) < 3:
        assert time.monotonic() < until
    for _ in range(2):
        with our_pool.trace() as trace:
            pass
        rows = {row.name: row for row in trace.rows}
        assert {"waiter", "feeder", "collector"} <= set(rows)
        for name in ("waiter", "feeder", "collector"):
            (bar,) = rows[name].bars
            assert (bar.activity, bar.began) == (Activity.WAIT, 0)
            assert rows[name].seconds()[Activity.WAIT] == pytest.approx(trace.seconds)
    with our_pool.trace() as trace:
        gate.unlink()
        assert result.get(LIMIT) == "read"
        waiter.join()
    (bar,) = next(row for row in trace.rows if row.name == "waiter").bars
    assert (bar.began, bar.activity) == (0, Activity.WAIT)
    assert not [wait for wait in recorder._waits if wait.thread == waiter.ident]


@pytest.mark.own_pool
def test_a_task_that_still_runs_is_shown(our_pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with our_pool.trace() as trace:
        result = our_pool.apply_async(tasks.wait_for_file_open, (str(gate),))
        os.close(os.open(gate, os.O_WRONLY))  # the task has begun
    (bar,) = bars(trace, Activity.RUN)
    assert bar.note == "still running at the end of the trace"
    assert 0 <= bar.began < bar.ended <= trace.seconds * 1e9 + 1e6
    gate.unlink()
    assert result.get(LIMIT) == "read"


@pytest.mark.own_pool
def test_the_end_of_the_pool_within_the_block(our_pool):
    with our_pool.trace() as trace:
        our_pool.map(tasks.square, range(4), 1)
        our_pool.terminate()
        our_pool.join()
    assert len(bars(trace, Activity.RUN)) == 4
    with pytest.raises(ValueError, match="not running"), our_pool.trace():
        raise AssertionError


@forked_only
def test_nothing_of_the_user_s_is_kept_alive(our_pool):
    class Held:
        def __call__(self, x):
            return x

    held = Held()
    alive = weakref.ref(held)
    with our_pool.trace() as trace:
        assert our_pool.map(held, [np.ones(10_000)] * 3, 1)[0][0] == 1
    del held
    deadline = time.monotonic() + LIMIT
    while alive() is not None:  # the feeder ends the call after its result is set
        assert time.monotonic() < deadline
        gc.collect()
    assert len(bars(trace, Activity.RUN)) == 3


@forked_only
def test_a_child_that_leaves_the_block_does_not_end_the_trace(our_pool, tmp_path):
    path = tmp_path / "trace.json"
    child = -1
    try:
        with our_pool.trace(path) as trace:
            child = os.fork()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert not path.exists()
                our_pool.map(tasks.square, range(3), 1)
    finally:
        if not child:
            os._exit(int(path.exists()))
    assert len(bars(trace, Activity.RUN)) == 3


def test_an_executor():
    with ProcessPoolExecutor(2) as executor, executor.trace() as trace:
        assert list(executor.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]
    assert len(bars(trace, Activity.RUN)) == 5


def test_a_slow_callback_is_shown():
    with OURS[0].pool(1) as pool:
        with pool.trace() as trace:
            pool.apply_async(tasks.square, (3,), callback=lambda _: time.sleep(0.001)).get(LIMIT)
            pool.apply(tasks.square, (4,))
        assert any(bar.what == "square" for bar in bars(trace, Activity.DELIVER))
    pool.join()
