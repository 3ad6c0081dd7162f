"""The pool on a Dask cluster: the contract of the local pool, and what only a cluster can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

from arrowpool import progress
from arrowpool.errors import TaskTimeoutError, WorkerLostError
from tests.integrations.conftest import library
from tests.pool import tasks, test_contract

distributed = library("distributed")
ours = library("arrowpool.integrations.dask")
drawing = library("arrowpool.integrations.dask.drawing")

pytestmark = pytest.mark.timeout(120)
LIMIT = 60

#: The contract's tests that need nothing of the pool's own processes, which a cluster's pool does not have in this process.
CONTRACT = {}
for _name, _test in vars(test_contract).items():
    if _name.startswith("test_") and _name != "test_attributes_others_rely_on":
        _names = _test.__code__.co_varnames[: _test.__code__.co_argcount]
        if "pool" in _names and not {"implementation", "ours", "monkeypatch", "registering"} & set(_names):
            CONTRACT[f"test_contract_{_name[5:]}"] = _test
globals().update(CONTRACT)


def _threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("arrowpool-")}


@pytest.fixture(autouse=True)
def _census(request):
    """In place of the one for all tests: Dask's client keeps connections and threads. Ours must be gone."""
    if "pool" in request.fixturenames and request.node.get_closest_marker("own_pool") is None:
        request.getfixturevalue("_shared_pool")
    before = _threads()
    yield
    request.node.funcargs.clear()
    deadline = time.monotonic() + 10
    while left := _threads() - before:
        assert time.monotonic() < deadline, left
        threading.Event().wait(0.05)


def _cluster(count=2, threads=1):
    return distributed.LocalCluster(
        n_workers=count, threads_per_worker=threads, dashboard_address=":0", memory_limit=0, silence_logs=50
    )


@pytest.fixture(scope="module")
def client():
    with _cluster() as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def own_client():
    """Of a cluster whose nodes this test kills."""
    with _cluster() as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def _shared_pool(client):
    with ours.Pool(client) as pool:
        yield pool
    pool.join()


@pytest.fixture
def pool(request, client):
    """A pool of two nodes, of one process each. Tests that end it, or count what it keeps, are marked ``own_pool``."""
    if request.node.get_closest_marker("own_pool") is None:
        yield request.getfixturevalue("_shared_pool")
    else:
        with ours.Pool(client) as pool:
            yield pool
        pool.join()


def processes_of(pids):
    """Those of these processes that are there."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def pids(_):
    return os.getppid(), os.getpid()


def kill_node(flag):
    """The first task that finds the flag kills its node."""
    if flag is not None:
        with contextlib.suppress(FileNotFoundError):
            Path(flag).unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(LIMIT)
    return os.getpid()


def note_and_sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(LIMIT)


def test_tasks_run_on_all_nodes_in_processes_of_their_own(pool):
    found = set(pool.map(pids, range(40), 1))
    assert len({node for node, _ in found}) == 2
    assert len(found) == 2
    assert os.getpid() not in {pid for pair in found for pid in pair}


def test_the_processes_end_with_the_pool(client):
    with ours.Pool(client, processes=2) as pool:
        found = {pid for _, pid in pool.map(pids, range(40), 1)}
        pool.close()
        pool.join()
    assert processes_of(found) == []


def test_functions_of_the_main_program_and_closures(pool):
    captured = np.arange(100_000.0)
    assert pool.map(lambda i: captured[i], range(5)) == [0, 1, 2, 3, 4]


def test_frames_arrive_as_they_were(pool):
    frame = pd.DataFrame(
        {"a": np.arange(50_000.0), "b": ["x", None] * 25_000, "c": pd.Categorical(["u", "v"] * 25_000)}
    )
    back = pool.apply(_same, (frame,))
    pd.testing.assert_frame_equal(back, frame)
    assert back["a"].to_numpy(copy=True).flags.writeable


def _same(value):
    return value


def add_when(array, x):
    return float(array[0]) + x


def add_one_in_place(array):
    array += 1
    return float(array.sum())


def test_errors_in_the_places_of_results(pool):
    def inverse(number):
        return 6 / number

    for chunksize in (1, 3):
        for outcomes in (
            pool.map(inverse, [1, 0, 2], chunksize, on_error="return"),
            list(pool.imap(inverse, [1, 0, 2], chunksize, on_error="return")),
            pool.starmap(divmod, [(6, 1), (6, 0), (6, 2)], chunksize, on_error="return"),
        ):
            assert [type(outcome) for outcome in outcomes][1] is ZeroDivisionError
            assert outcomes[::2] in ([6.0, 3.0], [(6, 0), (3, 0)])


def inverse_or_end(number):
    """Ends its process for -1."""
    if number == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 6 / number


def notes_of(error):
    """The notes of an error, also in Python 3.10."""
    return vars(error)["__notes__"]


@pytest.mark.parametrize("chunksize", [1, 4])
def test_errors_say_which_item_they_belong_to(pool, chunksize):
    items = [1, 2, 3, 1, 2, 0, 3]
    for call in (
        lambda: pool.map(inverse_or_end, items, chunksize),
        lambda: pool.starmap(divmod, [(6, item) for item in items], chunksize),
        lambda: list(pool.imap(inverse_or_end, items, chunksize)),
        lambda: list(pool.imap_unordered(inverse_or_end, items, chunksize)),
    ):
        with pytest.raises(ZeroDivisionError) as raised:
            call()
        assert raised.value.index == 5
        assert notes_of(raised.value) == ["item 5 of 7"]
    outcomes = pool.map(inverse_or_end, items, chunksize, on_error="return")
    assert [type(outcome) for outcome in outcomes] == [float] * 5 + [ZeroDivisionError, float]
    assert (outcomes[5].index, notes_of(outcomes[5])) == (5, ["item 5 of 7"])


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_lost_process_of_a_node_is_named_by_its_item(pool, chunksize):
    items = [1, 2, 3, -1, 2, 1]
    with pytest.raises(WorkerLostError, match=r"SIGKILL while it ran inverse_or_end on item 3 of 6;") as raised:
        pool.map(inverse_or_end, items, chunksize)
    assert (raised.value.index, raised.value.task) == (3, "inverse_or_end on item 3 of 6")
    outcomes = pool.map(inverse_or_end, items, chunksize, on_error="return")
    lost = [3] if chunksize == 1 else [2, 3]
    assert [at for at, outcome in enumerate(outcomes) if isinstance(outcome, WorkerLostError)] == lost
    assert [outcomes[at].index for at in lost] == lost
    assert [outcomes[at] for at in range(6) if at not in lost] == [6 / items[at] for at in range(6) if at not in lost]
    with pytest.raises(WorkerLostError, match="while it ran inverse_or_end;") as raised:
        pool.apply(inverse_or_end, (-1,))
    assert raised.value.index is None


def sleep_for(seconds):
    time.sleep(seconds)
    return seconds


def test_the_time_limit_is_one_of_each_item(client):
    # The initializer imports this module, which takes long where other tests run.
    with ours.Pool(client, None, sleep_for, (0.0,), task_timeout=5.0) as pool:
        patient = pool.map_async(sleep_for, [2.0] * 3, 3)
        with pytest.raises(TaskTimeoutError, match="sleep_for on item 2 of 4 ran for more than 5 s") as raised:
            pool.map(sleep_for, [0.01, 0.01, LIMIT, 0.0], 4)  # long enough to begin one by one
        assert raised.value.index == 2
        assert patient.get(LIMIT) == [2.0] * 3


def lock_for(number):
    return threading.Lock() if number == 2 else number


def test_what_cannot_be_pickled_is_named(pool):
    items = [1, {"lock": threading.Lock()}, 3]
    with pytest.raises(TypeError) as raised:
        pool.map(_same, items, 1)
    assert notes_of(raised.value)[0].startswith("argument 0, key 'lock': ")
    assert (raised.value.index, notes_of(raised.value)[1]) == (1, "item 1 of 3")
    with pytest.raises(TypeError) as raised:
        pool.apply(_same, ((threading.Lock(),),))
    assert notes_of(raised.value)[0].startswith("argument 0, element 0: ")
    for outcomes in (pool.map(_same, items, 3, on_error="return"), pool.map(lock_for, [1, 2, 3], 3, on_error="return")):
        assert outcomes[::2] == [1, 3]
        assert isinstance(outcomes[1], Exception)
        assert outcomes[1].index == 1
    captured = threading.Lock()
    with pytest.raises(TypeError) as raised:
        pool.map(lambda _: captured, [1, 2], 1, on_error="return")
    assert any("captured" in note for note in notes_of(raised.value))


def mean_or_raise(group):
    if group.name == "B" and group["value"].iloc[0] < 0:
        raise LookupError(group.name)
    return group["value"].mean()


def test_groups(pool):
    frame = pd.DataFrame({"key": ["A", "B", "C"] * 3, "value": np.arange(9.0)})
    expected = frame.groupby("key").apply(mean_or_raise, include_groups=False)
    pd.testing.assert_series_equal(pool.map_groups(mean_or_raise, frame, by="key"), expected)
    assert dict(pool.imap_groups(mean_or_raise, frame, by="key", chunksize=2)) == expected.to_dict()
    with pytest.raises(LookupError) as raised:
        pool.map_groups(mean_or_raise, frame.assign(value=-1.0), by="key", chunksize=3)
    assert (raised.value.index, notes_of(raised.value)) == (1, ["in the group 'B' (3 rows)"])
    pairs = dict(pool.imap_groups(mean_or_raise, frame.assign(value=-1.0), by="key", chunksize=3, on_error="return"))
    assert (pairs["A"], type(pairs["B"]), pairs["B"].index, pairs["C"]) == (-1.0, LookupError, 1, -1.0)
    pd.testing.assert_frame_equal(pool.map_frame(np.abs, frame[["value"]]), frame[["value"]])


def write_and_sum(first, second):
    first += 1
    return float(first.sum()), float(second.sum())


def test_slices_that_overlap_are_sent_once(pool):
    """Each node gets the memory behind them once. What a task writes to one appears in no other."""
    base = np.arange(400_000.0)
    windows = [base[start : start + 200_000] for start in range(0, 200_000, 10_000)]
    before = pool.stats().sent_bytes
    assert pool.map(np.sum, windows, 1) == [window.sum() for window in windows]
    assert pool.stats().sent_bytes - before < 2.5 * base.nbytes
    frame = pd.DataFrame({"a": base, "b": base})
    slices = [frame.iloc[start : start + 200_000] for start in range(0, 200_000, 20_000)]
    for back, sent in zip(pool.map(_same, slices, 3), slices, strict=True):
        pd.testing.assert_frame_equal(back, sent)
    table = pa.table(frame)
    parts = [table.slice(start, 200_000) for start in range(0, 200_000, 20_000)]
    assert pool.map(_same, parts, 3) == parts
    pairs = [(base[:200_000], base[i : i + 200_000]) for i in (0, 1, 100_000, 200_000)]
    expected = [(float(first.sum()) + len(first), float(second.sum())) for first, second in pairs]
    assert pool.starmap(write_and_sum, pairs, 2) == expected
    assert base[0] == 0


def test_what_is_shared_is_private_to_each_task(pool):
    array = np.zeros(100_000)
    with pool.share(array):
        assert pool.map(add_one_in_place, [array] * 10, 1) == [100_000.0] * 10
    assert pool.map(add_one_in_place, [array] * 10, 1) == [100_000.0] * 10
    assert array.sum() == 0


def test_a_shared_object_is_sent_as_it_was(pool):
    array = np.zeros(100_000)
    with pool.share(array):
        array += 1
        assert pool.apply(np.sum, (array,)) == 0


def test_a_shared_object_stays_for_the_calls_that_were_made_in_its_block(pool):
    array = np.zeros(100_000)
    with pool.share(array):
        mapped = pool.map_async(add_one_in_place, [array] * 100, 1)
        applied = pool.apply_async(np.sum, (array,))
        lazily = pool.imap(functools.partial(add_when, array), range(100))
    array += 1
    assert mapped.get(LIMIT) == [100_000.0] * 100
    assert applied.get(LIMIT) == 0
    assert list(lazily) == [float(i) for i in range(100)]
    assert not pool._engine._sealer.pinned


SCRIPT = """
import functools
from distributed import Client, LocalCluster
from arrowpool.integrations.dask import Pool

def square(x):
    return x * x

def make(x):
    return {"f": functools.partial(square, x)}

X, SETTINGS = None, {}

def init(x):
    global X
    X = SETTINGS["x"] = x

def look(_):
    return X, SETTINGS

if __name__ == "__main__":
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster, Client(cluster) as client:
        with Pool(client, 1, init, (5,)) as pool:
            assert pool.map(look, range(2), 1) == [(5, {"x": 5})] * 2
            made = pool.apply(make, (3,))["f"]
            assert made.func is square and made() == 9
            print("right")
"""


def test_functions_and_globals_of_a_script(tmp_path):
    """A function in a result comes back as the script's own. What the initializer sets is there in tasks."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.stdout == "right\n", done.stderr


UNGUARDED = """
from distributed import Client, LocalCluster
from arrowpool.integrations.dask import Pool
client = Client(LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"))
pool = Pool(client)
print(pool.map(abs, [-1]))
pool.terminate()
client.close()
"""


def test_a_script_without_a_guard_whose_nodes_are_in_its_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert "guard" in done.stderr


@pytest.mark.parametrize("client", [4, "tcp://127.0.0.1:8786"])
def test_what_is_no_client(client):
    with pytest.raises(TypeError, match=r"not a distributed.Client: Pool\(Client\(address\), processes\)"):
        ours.Pool(client)


def test_cancelled_tasks_of_dask_run_again(client):
    """As somebody does who cancels all keys of the scheduler. What has begun goes on, and what has not begun goes there again."""

    def keys(dask_scheduler):
        return list(dask_scheduler.tasks)

    with ours.Pool(client) as pool:
        result = pool.map_async(nap, range(100), 1)
        for _ in range(3):
            client.cancel([distributed.Future(key, client) for key in client.run_on_scheduler(keys)], force=True)
        assert result.get(LIMIT) == list(range(100))


def nap(x):
    time.sleep(0.02)
    return x


def test_nodes_in_the_client_s_own_process():
    frame = pd.DataFrame({"a": np.arange(50_000.0)})
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        ours.Pool(client, 2) as pool,
    ):
        assert pool.map(abs, [-1, -2]) == [1, 2]
        for result in pool.map(tasks.double, [frame] * 3, 1):
            pd.testing.assert_frame_equal(result, frame * 2)
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))


def test_the_initializer_runs_in_each_process(client):
    with ours.Pool(client, 2, tasks.initialize, (np.ones(100_000), None)) as pool:
        assert pool.map(tasks.state_sum, range(8), 1) == [100_000.0] * 8


def test_an_argument_of_the_initializer_that_cannot_be_pickled_is_named(client):
    with pytest.raises(TypeError, match="cannot pickle") as raised:
        ours.Pool(client, 1, print, ("a", {"db": threading.Lock()}))
    assert notes_of(raised.value)[0].startswith("argument 1 of the initializer, key 'db': a _thread.lock")


#: What only an open pool needs.
OF_A_POOL = {
    "ArrowPool",
    "DaskPool",
    "NodePlugin",
    "Node",
    "Line",
    "Links",
    "DaskTasks",
    "NodeOptions",
    "Sealer",
    "ClusterEngine",
}


def of_pools():
    """Which objects of pools there are."""
    gc.collect()
    return sorted(name for name in (type(obj).__name__ for obj in gc.get_objects()) if name in OF_A_POOL)


def test_nothing_stays_of_pools_that_have_ended(client):
    """Neither in the client nor on the nodes: Dask keeps handlers for as long as it lives, so they hold no part of a pool."""
    before = of_pools(), client.run(of_pools)
    for _ in range(3):
        with ours.Pool(client, 1, tasks.initialize, (np.ones(100_000), None)) as pool:
            assert pool.map(tasks.state_sum, range(4), 1) == [100_000.0] * 4
        pool.join()
        del pool
    wait_for(lambda: (of_pools(), client.run(of_pools)) == before)


def test_a_failing_initializer_is_an_error_of_the_calls(client):
    def fail():
        raise LookupError("no licence")

    with ours.Pool(client, 1, fail) as pool, pytest.raises(Exception, match="no licence"):
        pool.map_async(abs, [1]).get(LIMIT)


def test_a_task_process_that_is_lost(pool):
    with pytest.raises(WorkerLostError):
        pool.apply_async(os._exit, (3,)).get(LIMIT)
    assert pool.map(abs, [-1, -2]) == [1, 2]


def test_the_task_timeout(client):
    with ours.Pool(client, task_timeout=0.5) as pool, pytest.raises(TaskTimeoutError):
        pool.apply_async(time.sleep, (LIMIT,)).get(LIMIT)


def test_an_interrupt_ends_the_call_and_its_tasks(pool, tmp_path):
    interrupt = threading.Thread(
        target=lambda: (wait_for(lambda: len(list(tmp_path.iterdir())) == 2), os.kill(os.getpid(), signal.SIGINT))
    )
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        pool.map(note_and_sleep, [str(tmp_path)] * 4, 1)
    interrupt.join()
    # In the same processes: those that ran the tasks do so no longer.
    assert pool.map_async(abs, range(8), 1).get(LIMIT / 2) == list(range(8))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_lost_node_fails_its_task_only(own_client, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    with ours.Pool(own_client) as pool:
        pool.map(pids, range(10), 1)
        doomed = pool.apply_async(kill_node, (str(flag),))
        others = [pool.apply_async(abs, (-i,)) for i in range(50)]
        with pytest.raises(ours.NodeLostError, match="was lost while it ran kill_node") as lost:
            doomed.get(LIMIT)
        assert isinstance(lost.value, WorkerLostError)
        for i, other in enumerate(others):
            # What was sent with it may have begun there.
            with contextlib.suppress(ours.NodeLostError):
                assert other.get(LIMIT) == i
        assert pool.map(abs, range(-20, 0), 1) == list(range(20, 0, -1))


def test_retries_run_the_lost_tasks_again(own_client, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    with ours.Pool(own_client, retries=1) as pool:
        assert len(pool.map(kill_node, [None, str(flag), None, None, None], 1)) == 5
    assert not flag.exists()


def test_a_node_that_joins_later_gets_tasks(own_client):
    with ours.Pool(own_client) as pool:
        assert len({node for node, _ in pool.map(pids, range(40), 1)}) == 2
        own_client.cluster.scale(3)
        own_client.wait_for_workers(3, timeout=LIMIT)
        wait_for(lambda: pool._processes == 3)
        assert len({node for node, _ in pool.map(pids, range(60), 1)}) == 3


def wait_for_answer_to_the_one_before(folder, i):
    """Short tasks first; from the 31st on, each waits until the client has the result of the one before."""
    deadline = time.monotonic() + LIMIT
    while i > 30 and not Path(folder, str(i - 1)).exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return i


def test_tasks_that_wait_for_what_the_client_does_with_results_before(pool, tmp_path):
    """Tasks that were short begin in groups; a result is not held back until its group has ended."""
    results = pool.imap(functools.partial(wait_for_answer_to_the_one_before, str(tmp_path)), range(60))
    for i in range(60):
        assert results.next(LIMIT) == i
        (tmp_path / str(i)).touch()


class Model:
    """Has a state, small or large."""

    def __init__(self, size):
        self.state = np.zeros(size)

    def ends(self, i):
        return float(self.state[0]), float(self.state[-1]), i


def changing(model, count, every):
    for i in range(count):
        if not i % every:
            model.state[:] = i
        yield i


@pytest.mark.own_pool
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("size", [4, 100_000])
@pytest.mark.parametrize("every", [1, 7])
def test_a_generator_changes_the_state_of_the_function(pool, method, size, every):
    """Each task sees it as it was when its item was drawn, as with the local pool and the standard library's."""
    model, count = Model(size), 30
    for _ in range(2):
        expected = [(i - i % every, i - i % every, i) for i in range(count)]
        assert sorted(getattr(pool, method)(model.ends, changing(model, count, every))) == sorted(expected)
    # Each state that is placed was sent to each node once at most, and is not kept.
    placed, states = pool._engine._links.placed_bytes, 2 * -(-count // every)
    assert placed <= 2 * states * (model.state.nbytes + 1_000)
    links = pool._engine._links
    wait_for(lambda: not links._dask_tasks._placed)


@pytest.mark.own_pool
def test_a_function_that_a_generator_changes_is_kept_for_its_tasks_only(pool):
    """The client does not keep all states that a large function has had until the end of the call."""
    model = Model(100_000)
    results = pool.imap(model.ends, changing(model, 10**9, 1))
    for i in range(40):
        assert next(results) == (i, i, i)
    (state,) = pool._engine._feeder._calls.values()
    assert len(state.sealed.own) <= state.pending + 2
    results.close()


def test_a_function_that_cannot_be_pickled_for_some_items(pool):
    """While a generator makes the items, the function may become one that can be pickled."""
    model = Model(4)

    def items():
        for i in range(6):
            model.lock = threading.Lock() if i in (1, 2, 4) else None
            yield i

    results, found = pool.imap(model.ends, items()), []
    for _ in range(6):
        try:
            found.append(next(results)[2])
        except TypeError as error:
            found.append(str(error))
    failure = "cannot pickle '_thread.lock' object"
    assert found == [0, failure, failure, 3, failure, 5]
    assert list(results) == []


def test_a_generator_is_read_as_its_results_are(pool):
    made = []

    def frames():
        for i in range(10**9):
            made.append(i)
            yield np.full(1_000_000, float(i))

    with contextlib.closing(pool.imap(_same, frames())) as results:
        for i in range(5):
            assert next(results)[0] == i
        # The window is 256 MB of results, and what is on its way to two nodes.
        wait_for(lambda: not pool._engine._feeder._batches, LIMIT)
        assert len(made) < 80


class Gated:
    """Is rebuilt in the client when the gate opens."""

    gate = None

    def __init__(self, number):
        self.number = number

    def __setstate__(self, state):
        vars(self).update(state)
        if Gated.gate is not None:
            Gated.gate.wait(LIMIT)


@pytest.mark.own_pool
def test_results_that_wait_to_be_rebuilt_count_as_unread(pool, monkeypatch):
    monkeypatch.setattr(drawing, "_UNREAD", 20)
    monkeypatch.setattr(Gated, "gate", threading.Event())
    drawn = []
    results = pool.imap(Gated, (drawn.append(i) or i for i in range(200)))
    wait_for(lambda: pool.stats().tasks >= 20, LIMIT)
    after = pool.apply_async(abs, (-1,))  # the feeder has looked at all calls once more when this is sent
    wait_for(lambda: pool.stats().tasks >= 21, LIMIT)
    # What a thread draws ahead for the next batch comes on top.
    assert 20 <= len(drawn) < 60
    Gated.gate.set()
    assert [result.number for result in results] == list(range(200))
    assert after.get(LIMIT) == 1


@pytest.mark.own_pool
def test_nothing_is_rebuilt_of_a_call_that_has_ended(pool, monkeypatch):
    monkeypatch.setattr(Gated, "gate", threading.Event())
    rebuilt = []
    monkeypatch.setattr(Gated, "__setstate__", lambda self, _: rebuilt.append(Gated.gate.wait(LIMIT)))
    results = pool.imap(Gated, range(20))
    wait_for(lambda: pool.stats().tasks == 20, LIMIT)
    results.close()  # while the first one is rebuilt
    after = pool.apply_async(abs, (-1,))
    wait_for(lambda: pool.stats().tasks == 21, LIMIT)
    Gated.gate.set()
    assert after.get(LIMIT) == 1
    assert len(rebuilt) == 1


@pytest.mark.own_pool
def test_results_may_be_read_after_the_end_of_the_pool(pool, monkeypatch):
    monkeypatch.setattr(drawing, "_UNREAD", 20)
    results = pool.imap(abs, (-i for i in range(20_000)))  # more than there are in a batch
    pool.close()
    ended = threading.Thread(target=pool.join, daemon=True)
    ended.start()
    ended.join(LIMIT)
    assert not ended.is_alive()
    assert list(results) == list(range(20_000))


def test_an_adaptive_cluster_starts_a_node_for_a_call():
    with _cluster(0) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        cluster.adapt(minimum=0, maximum=1, interval="100ms")
        with ours.Pool(client) as pool:
            assert pool.map_async(abs, range(-5, 0)).get(LIMIT) == [5, 4, 3, 2, 1]


def waiting_on(dask_scheduler):
    return len(dask_scheduler.unrunnable)


def durations_on(dask_scheduler):
    return {name: prefix.duration_average for name, prefix in dask_scheduler.task_prefixes.items() if "wait" in name}


def test_an_adaptive_cluster_grows_for_a_long_call_and_shrinks_after_it():
    with _cluster(0) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        cluster.adapt(minimum=0, maximum=3, interval="100ms")
        with ours.Pool(client) as pool:
            results = pool.imap(time.sleep, [0.3] * 200)
            next(results)
            wait_for(lambda: pool._processes > 1, LIMIT)
            assert client.run_on_scheduler(waiting_on) > 0
            # The names of the stand-ins say how long they are.
            assert client.run_on_scheduler(durations_on) == {"arrowpool-waiting-a": 0.5}
            results.close()
            wait_for(lambda: not client.run_on_scheduler(waiting_on))
            wait_for(lambda: not client.scheduler_info()["workers"], LIMIT)
            assert pool.map_async(abs, range(-5, 0)).get(LIMIT) == [5, 4, 3, 2, 1]


def test_stand_ins_for_what_waits():
    from arrowpool.integrations.dask.demand import DURATIONS, NOTHING, Waiting, stand_ins

    assert stand_ins(NOTHING) == (0, 0)
    assert stand_ins(Waiting(200, 60.0)) == (0, 120)  # 0.5 s each: as long as the tasks, all in all
    assert stand_ins(Waiting(1, 0.001)) == (0, 1)
    assert stand_ins(Waiting(20, 1200.0)) == (7, 19)  # 64 s each: no more than there are tasks
    assert stand_ins(Waiting(10**6, 10**4)) == (5, 625)  # no more than a thousand
    assert stand_ins(Waiting(20, 1200.0), 8) == (8, 10)  # a length that is not too far off stays
    length, count = stand_ins(Waiting(5, 10.0**9))
    assert 0 < count <= 1000
    assert list(DURATIONS.values())[length] == "16384 s"


def keys_of(dask_worker):
    return list(dask_worker.data), list(dask_worker.state.tasks)


@pytest.mark.own_pool
def test_calls_leave_nothing_on_scheduler_and_nodes(client, pool):
    array = np.random.default_rng(0).random(200_000)
    for _ in range(10):
        assert pool.map(lambda i: float(array[i]), range(20), 1) == array[:20].tolist()
        assert len(list(pool.imap(np.sum, (np.ones(20_000) for _ in range(5))))) == 5
        with pool.share(array):
            pool.apply(np.sum, (array,))
    wait_for(lambda: all(keys == ([], []) for keys in client.run(keys_of).values()), LIMIT)
    assert not [key for key in client.futures if pool._engine.name in str(key)]
    links = pool._engine._links
    wait_for(lambda: not (links._dask_tasks._placed or links._sending or pool._engine._feeder._batches), LIMIT)


@pytest.mark.own_pool
@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_data_on_its_way_when_its_call_ends_does_not_stay_on_the_node(client, pool, monkeypatch, how):
    """The node has the data, and the scheduler does not know of it yet."""
    transfer, there, go_on = distributed.client.scatter_to_workers, threading.Event(), asyncio.Event()

    async def and_wait(*args, **kwargs):
        sent = await transfer(*args, **kwargs)
        there.set()
        await go_on.wait()
        return sent

    monkeypatch.setattr(distributed.client, "scatter_to_workers", and_wait)
    result = pool.map_async(np.sum, [np.ones(100_000)] * 3, 1)
    assert there.wait(LIMIT)
    if how == "terminate":
        pool.terminate()
        pool.join()
    else:
        pool._cancel(result._job)
        pool._engine._links._loop.call_soon_threadsafe(lambda: None)
    client.loop.add_callback(go_on.set)
    wait_for(lambda: all(keys == ([], []) for keys in client.run(keys_of).values()), LIMIT)


def test_calls_before_the_first_node():
    with _cluster(0) as cluster, distributed.Client(cluster, set_as_default=False) as client, ours.Pool(client) as pool:
        result = pool.map_async(abs, range(-5, 0))
        cluster.scale(1)
        assert result.get(LIMIT) == [5, 4, 3, 2, 1]


def test_two_pools_at_once(client):
    # The other one in a client of its own.
    address = client.scheduler.address
    with (
        distributed.Client(address, set_as_default=False) as second,
        ours.Pool(client) as one,
        ours.Pool(second) as other,
    ):
        results = one.map_async(abs, range(50), 1), other.map_async(abs, range(50), 1)
        assert [result.get(LIMIT) for result in results] == [list(range(50))] * 2


def test_a_call_is_cut_for_nodes_that_may_join(pool):
    before = pool.stats().tasks
    assert pool.map(abs, range(640)) == list(range(640))
    assert pool.stats().tasks - before == 64


def test_a_module_that_nodes_do_not_have(pool, tmp_path, monkeypatch):
    (tmp_path / "beside_the_script.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    twice = importlib.import_module("beside_the_script").twice
    with pytest.raises(ModuleNotFoundError, match="beside_the_script") as raised:
        pool.map(twice, [1, 2])
    notes = raised.value.__notes__
    assert any("client.upload_file" in note for note in notes), notes
    assert pool.map(abs, [-1]) == [1]


def test_an_executor(pool):
    executor = pool.executor()
    futures = [executor.submit(divmod, i, 3) for i in range(5)]
    assert [future.result(LIMIT) for future in futures] == [divmod(i, 3) for i in range(5)]
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(LIMIT)
    with pytest.raises(TypeError, match="pickle"):  # a pool raises `MaybeEncodingError`
        executor.submit(threading.Lock).result(LIMIT)
    assert list(executor.map(divmod, range(10), [3] * 10, chunksize=4)) == [divmod(i, 3) for i in range(10)]
    numbers = executor.map(abs, itertools.count(), buffersize=2)
    assert [next(numbers) for _ in range(5)] == [0, 1, 2, 3, 4]
    numbers.close()
    with pytest.raises(TimeoutError):
        next(executor.map(time.sleep, [LIMIT], timeout=0.5))
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)
    assert pool.map(abs, [-1]) == [1]


def test_a_future_that_is_cancelled_interrupts_its_task(pool, tmp_path):
    with pool.executor() as executor:
        future = executor.submit(note_and_sleep, str(tmp_path))
        wait_for(lambda: list(tmp_path.iterdir()))
        assert future.cancel()
    assert pool.map_async(abs, range(8), 1).get(LIMIT / 2) == list(range(8))


@pytest.mark.own_pool
def test_stats(pool):
    array = np.ones(100_000)
    pool.map(np.sum, [array] * 10, 1)
    stats = pool.stats()
    assert stats.tasks == 10
    assert stats.processes == len(stats.nodes) == 2
    assert sum(node.tasks for node in stats.nodes.values()) == 10
    assert "10 tasks" in str(stats)


def test_progress(pool):
    pytest.importorskip("tqdm")
    assert progress.map(pool, abs, range(-5, 0), disable=True) == [5, 4, 3, 2, 1]
    assert list(progress.imap(pool, abs, range(-5, 0), disable=True)) == [5, 4, 3, 2, 1]
    shown = io.StringIO()
    progress.map(pool, np.sum, [np.ones(100_000)] * 4, 1, file=shown)
    assert re.search(r"4/4 .* [\d,.]+ [kM]B moved", shown.getvalue())


PROGRAM = """
import multiprocessing, sys
from multiprocessing.pool import ThreadPool

def node(_):
    import os
    return os.getppid()

if __name__ == "__main__":
    with multiprocessing.Pool(3) as pool:
        assert isinstance(pool, multiprocessing.pool.Pool)
        print(type(pool).__module__, len(set(pool.map(node, range(40), 1))), sys.argv[1:])
    with ThreadPool(2) as threads:
        print(threads.map(abs, [-1]))
"""


def test_an_unmodified_program(client, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    command = [sys.executable, "-m", "arrowpool", "run", "--scheduler", client.scheduler.address, str(script), "--fast"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ran.stdout.splitlines() == ["arrowpool.integrations.dask.program 2 ['--fast']", "[1]"], ran.stderr
    assert ran.stderr.splitlines()[-1] == "arrowpool: replaced 1 pool"


def test_a_scheduler_that_is_not_there():
    command = [sys.executable, "-m", "arrowpool", "run", "--scheduler", "nonsense://", "program.py"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ran.returncode == 1
    assert "cannot reach the scheduler at nonsense://" in ran.stderr


def test_a_client_that_is_asynchronous_is_refused(client):
    async def make():
        async with distributed.Client(client.scheduler.address, asynchronous=True, set_as_default=False) as other:
            ours.Pool(other)

    with pytest.raises(ValueError, match="not asynchronous"):
        asyncio.run(make())


def test_a_pool_that_is_dropped_ends(client):
    dropped = [ours.Pool(client)]
    found = [pid for _, pid in set(dropped[0].map(pids, range(20), 1))]
    with pytest.warns(ResourceWarning):
        dropped.clear()
    wait_for(lambda: not processes_of(found))


def test_terminate_in_the_event_loop_of_dask(client):
    pool = ours.Pool(client)
    found = [pid for _, pid in set(pool.map(pids, range(20), 1))]
    client.loop.add_callback(pool.terminate)
    wait_for(lambda: not processes_of(found))
    pool.join()


def test_what_a_node_says_of_versions():
    from arrowpool.integrations.dask import guest

    refused = guest.load("name", {**guest.versions(), "Python": "2.7"}, b"")
    answer = asyncio.run(refused.answer(None, "control"))
    assert "the client 2.7" in answer["error"]
