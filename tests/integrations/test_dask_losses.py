"""The pool on a Dask cluster: what it loses when a node, a scheduler, a client ends, and what it does not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from arrowpool.errors import WorkerLostError
from tests.integrations.conftest import library
from tests.integrations.dask_nodes import Nodes, alive, wait_for

distributed = library("distributed")
ours = library("arrowpool.integrations.dask")
links = library("arrowpool.integrations.dask.links")

pytestmark = pytest.mark.timeout(180)
LIMIT = 60


def _threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("arrowpool-")}


@pytest.fixture(autouse=True)
def _census():
    """In place of the one for all tests: Dask's client keeps connections and threads. Ours must be gone."""
    yield
    wait_for(lambda: not _threads(), 10)


@pytest.fixture
def nodes(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    with Nodes(folder) as nodes:
        yield nodes


@pytest.fixture
def client(nodes):
    """Of a cluster of two nodes."""
    for _ in range(2):
        nodes.add()
    with distributed.Client(scheduler_file=nodes.scheduler_file, timeout=LIMIT, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=LIMIT)
        yield client


def pids(_=None):
    return os.getppid(), os.getpid()


def note(folder, name, seconds=0.0):
    """Note that a task has begun, and that it has ended."""
    with open(Path(folder, "begun"), "a") as file:
        file.write(f"{name}\n")
    time.sleep(seconds)
    with open(Path(folder, "ended"), "a") as file:
        file.write(f"{name}\n")
    return name


def note_or_kill(folder, name, seconds, killer):
    """The killer's first run kills its node."""
    if name == killer:
        with open(Path(folder, "begun"), "a") as file:
            file.write(f"{name}\n")
        with contextlib.suppress(FileExistsError):
            Path(folder, "killed").touch(exist_ok=False)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(LIMIT)
        return name
    return note(folder, name, seconds)


def lines(folder, name):
    path = Path(folder, name)
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def is_there(path):
    return lambda: Path(path).exists()


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.3])
def test_nothing_that_had_begun_runs_again(client, tmp_path, seconds):
    count = 60 if seconds < 0.1 else 16
    with ours.Pool(client) as pool:
        results = [
            pool.apply_async(note_or_kill, (str(tmp_path), i, seconds, count // 2), callback=None) for i in range(count)
        ]
        lost = set()
        for i, result in enumerate(results):
            try:
                assert result.get(LIMIT) == i
            except ours.NodeLostError:
                lost.add(i)
    begun = lines(tmp_path, "begun")
    assert count // 2 in lost
    assert sorted(begun) == list(range(count)), "each task has begun once"
    assert set(range(count)) - lost <= set(lines(tmp_path, "ended"))


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_one_call_whose_node_is_lost(client, tmp_path, seconds):
    """With small tasks, which begin in steps: those of the step of the lost one may not have begun, and fail as well."""
    count = 300
    with ours.Pool(client) as pool:
        results = pool.imap(
            Noting(str(tmp_path), seconds, count // 2),
            range(count),
        )
        lost = set()
        for i in range(count):
            try:
                assert results.next(LIMIT) == i
            except ours.NodeLostError:
                lost.add(i)
    begun = lines(tmp_path, "begun")
    assert count // 2 in lost
    assert len(set(begun)) == len(begun), "no task has begun twice"
    assert set(range(count)) - lost <= set(begun)
    assert len(lost) < count // 4


class Noting:
    def __init__(self, folder, seconds, killer):
        self.arguments = folder, seconds, killer

    def __call__(self, name):
        folder, seconds, killer = self.arguments
        return note_or_kill(folder, name, seconds, killer)


def test_retries_run_what_was_lost_again(client, tmp_path):
    with ours.Pool(client, retries=1) as pool:
        assert pool.map(Noting(str(tmp_path), 0.01, 20), range(60), 1) == list(range(60))
    begun = lines(tmp_path, "begun")
    assert set(begun) == set(range(60))
    assert begun.count(20) == 2
    ended = lines(tmp_path, "ended")
    assert all(begun.count(i) == 1 for i in range(60) if ended.count(i) and ended.index(i) < begun.index(20) - 30)


def test_a_node_that_its_nanny_starts_again_gets_tasks(client):
    with ours.Pool(client) as pool:
        node, _ = pool.apply(pids)
        os.kill(node, signal.SIGKILL)
        wait_for(lambda: node not in {found for found, _ in pool.map(pids, range(20), 1)} and pool._processes == 2)
        assert len({found for found, _ in pool.map(pids, range(40), 1)}) == 2


def test_a_killed_nanny(nodes, client):
    """Dask's worker ends with its nanny."""
    nanny = nodes._programs[1]
    (worker, *_) = [child for child in psutil.Process(nanny.pid).children(recursive=True) if _is_worker(child)]
    with ours.Pool(client) as pool:
        pool.map(pids, range(10), 1)
        nanny.kill()
        nanny.wait()
        wait_for(lambda: not alive([worker.pid]))
        found = {node for node, _ in pool.map(pids, range(10), 1)}
    assert worker.pid not in found
    assert len(found) == 1


def _is_worker(process):
    return len(process.cmdline()) > 2 and "spawn_main" in " ".join(process.cmdline())


def test_a_paused_node_gets_nothing(client, tmp_path):
    def pause(status, dask_worker):
        dask_worker.status = distributed.Status[status]

    with ours.Pool(client) as pool:
        first, _ = sorted(client.scheduler_info()["workers"])
        running = [pool.apply_async(note, (str(tmp_path), i, 1.0)) for i in range(8)]
        client.run(pause, "paused", workers=[first])
        paused = client.run(os.getpid, workers=[first])[first]
        wait_for(lambda: not pool._engine._feeder._dispatch._nodes[first].is_running)
        assert paused not in {node for node, _ in pool.map(pids, range(40), 1)}
        # What had been sent to it and not begun has run elsewhere.
        assert [result.get(LIMIT) for result in running] == list(range(8))
        assert sorted(lines(tmp_path, "begun")) == list(range(8))
        client.run(pause, "running", workers=[first])
        wait_for(lambda: pool._engine._feeder._dispatch._nodes[first].is_running)
        wait_for(lambda: paused in {node for node, _ in pool.map(pids, range(40), 1)})


def test_a_retired_node_drains(client, tmp_path):
    with ours.Pool(client) as pool:
        results = [pool.apply_async(note, (str(tmp_path), i, 1.0)) for i in range(8)]
        wait_for(lambda: len(lines(tmp_path, "begun")) >= 2)
        first, _ = client.scheduler_info()["workers"]
        client.retire_workers([first])
        assert [result.get(LIMIT) for result in results] == list(range(8))
        assert sorted(lines(tmp_path, "begun")) == list(range(8))
        assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
        # Nor does Dask wait for another node with its address: an adaptive cluster would not shrink.
        wait_for(lambda: len(pool._engine._links._nodes) == 1)
        wait_for(lambda: not client.run_on_scheduler(unrunnable))


def unrunnable(dask_scheduler):
    return list(map(str, dask_scheduler.unrunnable))


def test_a_killed_scheduler_breaks_the_pool(nodes, client, tmp_path):
    with ours.Pool(client) as pool:
        found = [pid for _, pid in set(pool.map(pids, range(40), 1))]
        result = pool.map_async(Noting(str(tmp_path), LIMIT, None), range(4), 1)
        wait_for(is_there(tmp_path / "begun"))
        nodes.scheduler.kill()
        with pytest.raises(ours.ClusterLostError, match="the scheduler is lost"):
            result.get(15)
        with pytest.raises(ours.ClusterLostError):
            pool.map(abs, [1])
    pool.join()
    wait_for(lambda: not alive(found), 15)


def test_a_client_that_has_lost_its_connection_for_a_moment(client):
    """Dask's client connects again at once, but the scheduler has ended the client's pools."""
    before = client.scheduler_comm
    with ours.Pool(client) as pool:
        found = [pid for _, pid in set(pool.map(pids, range(40), 1))]
        client.loop.add_callback(before.comm.abort)
        wait_for(lambda: client.scheduler_comm not in (before, None) and client.status == "running", LIMIT)
        with pytest.raises(ours.ClusterLostError, match="Make a new pool"):
            pool.map_async(pids, range(4)).get(LIMIT)  # at once, or when the pool knows
    pool.join()
    wait_for(lambda: not alive(found), 15)
    with ours.Pool(client) as pool:
        assert len(pool.map(pids, range(4))) == 4
    pool.join()


def test_a_node_that_cannot_be_reached_for_a_time(client, monkeypatch, caplog):
    monkeypatch.setattr(links, "_LINK_SECONDS", 2.0)
    monkeypatch.setattr(links, "_TRY_AGAIN_SECONDS", 0.1)
    reach, unreachable = links.Link.open, set()

    async def reach_or_not(link):
        if link.address in unreachable:
            raise OSError("no route to host")
        return await reach(link)

    monkeypatch.setattr(links.Link, "open", reach_or_not)

    def cut(address):
        unreachable.add(address)
        client.loop.add_callback(pool._engine._links._nodes[address].close)

    with ours.Pool(client) as pool:
        one, other = pool._engine._links._nodes
        cut(one)
        wait_for(lambda: f"node {one} cannot run tasks" in caplog.text, LIMIT)
        assert "no route to host" in caplog.text
        assert len({node for node, _ in pool.map(pids, range(60), 1)}) == 1
        unreachable.clear()
        wait_for(lambda: pool._processes == 2, LIMIT)
        assert len({node for node, _ in pool.map(pids, range(60), 1)}) == 2
        cut(one)
        cut(other)
        with pytest.raises(ours.NodeError, match="cannot run tasks: this client cannot reach it"):
            pool.map_async(pids, range(4)).get(LIMIT)
    pool.join()


PROGRAM = """
import os, sys, time
from distributed import Client
from arrowpool.integrations.dask import Pool

def pids(_):
    return os.getpid()

if __name__ == "__main__":
    with Client(scheduler_file=sys.argv[1]) as client:
        client.wait_for_workers(2)
        pool = Pool(client)
        print(*set(pool.map(pids, range(40), 1)), flush=True)
        pool.map(time.sleep, [600] * 4)
"""


def test_a_killed_client_leaves_no_process_on_the_nodes(nodes, client, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    with subprocess.Popen([sys.executable, str(script), nodes.scheduler_file], stdout=subprocess.PIPE, text=True) as it:
        try:
            found = [int(pid) for pid in it.stdout.readline().split()]
            assert len(alive(found)) == 2
        finally:
            it.kill()
    wait_for(lambda: not alive(found), 15)
    with ours.Pool(client) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_a_node_without_arrowpool(nodes, tmp_path):
    preload = tmp_path / "preload.py"
    preload.write_text(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'arrowpool':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}')\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    nodes.add()
    nodes.add(f"--preload={preload}", "--name=without")
    with distributed.Client(scheduler_file=nodes.scheduler_file, timeout=LIMIT, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=LIMIT)
        workers = client.scheduler_info()["workers"]
        (without,) = [address for address, info in workers.items() if info["name"] == "without"]
        with pytest.raises(ours.NodeError, match="arrowpool cannot be imported there") as error:
            ours.Pool(client)
        assert error.value.node == without
        # The cluster is as it was.
        assert len(client.run(os.getpid)) == 2
        assert client.submit(abs, -1, workers=[without]).result(LIMIT) == 1


def test_an_initializer_that_fails_names_the_node(client):
    def fail():
        raise LookupError("no licence")

    with ours.Pool(client, 1, fail) as pool:
        with pytest.raises(ours.NodeError, match=r"(?s)node tcp://.* cannot run tasks.*no licence"):
            pool.map_async(abs, [1]).get(LIMIT)
        with pytest.raises(ours.NodeError, match="no licence"):
            pool.map(abs, [1])
    with ours.Pool(client) as pool:
        assert pool.map(abs, [-1]) == [1]


def test_node_errors_are_those_of_a_local_pool():
    assert issubclass(ours.NodeLostError, WorkerLostError)
    assert issubclass(ours.ClusterLostError, ConnectionError)


def test_a_cluster_that_is_restarted(client, tmp_path):
    """What ran is lost, what had not begun runs afterwards."""
    with ours.Pool(client) as pool:
        result = pool.map_async(Noting(str(tmp_path), 0.05, -1), range(60), 1, on_error="return")
        wait_for(lambda: len(lines(tmp_path, "ended")) > 5, LIMIT)
        client.restart(timeout=LIMIT)
        outcomes = result.get(LIMIT)
    lost = [outcome for outcome in outcomes if isinstance(outcome, ours.NodeLostError)]
    assert [outcome for outcome in outcomes if outcome not in lost] == [
        at for at, outcome in enumerate(outcomes) if outcome not in lost
    ]
    assert len(lost) < 20
