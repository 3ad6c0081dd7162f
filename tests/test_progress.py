"""Progress bars: what comes is what the pool's own methods give, and the bar counts items."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from arrowpool import progress
from tests.conftest import OURS
from tests.pool import tasks

tqdm = pytest.importorskip("tqdm.auto").tqdm

LIMIT = 30
MAPS = ("map", "starmap")
IMAPS = ("imap", "imap_unordered")


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch):
    """tqdm's own thread, which redraws bars that stand still, stays for good: not to be started here."""
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


class Screen(io.StringIO):
    """Where bars are drawn: each time at once. Does something when a count is seen on it."""

    def __init__(self, count=None, action=None):
        super().__init__()
        self.count, self.action = count, action

    @property
    def options(self):
        return {"file": self, "mininterval": 0, "miniters": 1}

    def write(self, text):
        if self.action is not None and self.count in re.findall(r"(\d+)(?:/\d+|it) \[", text):
            action, self.action = self.action, None
            action()
        return super().write(text)

    @property
    def counts(self):
        return [int(count) for count in re.findall(r"(\d+)(?:/\d+|it) \[", self.getvalue())]

    @property
    def closed_bars(self):
        return self.getvalue().count("\n")


# Nothing here depends on how workers are started but interrupts.
@pytest.fixture
def one_pool():
    with OURS[0].pool(2) as pool:
        yield pool
    pool.join()


def call(pool, name, function, items, chunksize, **options):
    """The call with a bar, read to its end."""
    return list(getattr(progress, name)(pool, function, items, *([] if chunksize is None else [chunksize]), **options))


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
@pytest.mark.parametrize("name", [*MAPS, *IMAPS])
def test_results_are_the_pool_s_own_and_the_bar_counts_them(one_pool, name, chunksize):
    items = [(i, 2 * i) for i in range(10)]
    function = tasks.add if name == "starmap" else tasks.identity
    expected = list(getattr(one_pool, name)(function, items))
    screen = Screen()
    results = call(one_pool, name, function, items, chunksize, **screen.options)
    assert (sorted(results) if name == "imap_unordered" else results) == sorted(expected)
    assert screen.counts == sorted(screen.counts)
    assert set(screen.counts) <= set(range(11))
    assert screen.counts[-1] == 10
    assert "10/10" in screen.getvalue()
    assert screen.closed_bars == 1


@pytest.mark.parametrize("make", [np.asarray, pd.Series, pd.Index])
@pytest.mark.parametrize("name", ["map", "imap"])
def test_items_in_an_array(one_pool, name, make):
    for items in ([0], [0, 1, 2], []):
        assert call(one_pool, name, tasks.identity, make(items), None, **Screen().options) == items


@pytest.mark.parametrize("name", [*MAPS, *IMAPS])
def test_without_a_length(one_pool, name):
    screen = Screen()
    items = ((i,) for i in range(7))
    results = call(one_pool, name, abs if name == "starmap" else tasks.identity, items, 2, **screen.options)
    assert len(results) == 7
    assert screen.counts[-1] == 7
    assert screen.closed_bars == 1
    assert call(one_pool, name, tasks.identity, [], None, **Screen().options) == []


@pytest.mark.parametrize("last", [True, False], ids=["the last chunk first", "the last chunk last"])
def test_a_chunk_counts_as_many_items_as_it_has(one_pool, tmp_path, last):
    """Chunks of 4, 4 and 2 items, one of which waits until the bar shows what the others are."""
    gate = tmp_path / "gate"
    blocked, shown = (0, "6") if last else (8, "8")

    def wait_at_the_gate(i):
        if i == blocked:
            os.close(os.open(gate, os.O_RDONLY))  # until somebody opens the other end
        return i

    def open_the_gate():
        os.close(os.open(gate, os.O_WRONLY))

    os.mkfifo(gate)
    screen = Screen(shown, open_the_gate)
    assert progress.map(one_pool, wait_at_the_gate, range(10), 4, **screen.options) == list(range(10))
    assert int(shown) in screen.counts
    assert screen.counts[-1] == 10


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("name", [*MAPS, *IMAPS])
def test_an_error_is_the_pool_s_own_and_closes_the_bar(one_pool, name, chunksize):
    items = [(6,)] * 6 + [(7,)] if name == "starmap" else [6] * 6 + [7]
    with pytest.raises(ValueError, match="odd: 7") as expected:
        list(getattr(one_pool, name)(tasks.fail_if_odd, items, chunksize))
    screen = Screen()
    with pytest.raises(ValueError, match="odd: 7") as raised:
        call(one_pool, name, tasks.fail_if_odd, items, chunksize, **screen.options)
    assert str(raised.value.__cause__).splitlines()[-2:] == str(expected.value.__cause__).splitlines()[-2:]
    assert max(screen.counts) <= 6
    assert screen.closed_bars == 1
    assert one_pool.map(tasks.square, [3]) == [9]


def test_an_iterator_goes_on_after_an_error_as_the_pool_s_own(one_pool):
    screen = Screen()
    results = progress.imap(one_pool, tasks.fail_if_odd, [0, 1, 2], **screen.options)
    assert next(results) == 0
    with pytest.raises(ValueError, match="odd: 1"):
        next(results)
    assert screen.closed_bars == 1
    assert list(results) == [2]
    assert screen.closed_bars == 1


def test_an_iterator_that_is_given_up_closes_its_bar(one_pool):
    screen = Screen()
    for _ in progress.imap(one_pool, tasks.square, range(3), **screen.options):
        break
    assert screen.closed_bars == 1


def interrupt_and_block(parent, path):
    tasks.wait_until_it_waits(parent)
    os.kill(parent, signal.SIGINT)
    tasks.note_pid_and_block(path)


@pytest.mark.parametrize("name", [*MAPS, *IMAPS])
def test_an_interrupt_ends_the_call_and_closes_the_bar(our_pool, tmp_path, name):
    parent, path = os.getpid(), str(tmp_path / "begun")
    pids = {process.pid for process in our_pool._pool}
    items = [(i,) for i in range(50)] if name == "starmap" else range(50)
    screen = Screen()
    with pytest.raises(KeyboardInterrupt):
        call(our_pool, name, lambda i: i or interrupt_and_block(parent, path), items, None, **screen.options)
    assert screen.closed_bars == 1
    assert our_pool.map_async(tasks.square, range(4), 1).get(LIMIT) == [0, 1, 4, 9]
    assert {process.pid for process in our_pool._pool} == pids


@pytest.mark.parametrize("name", MAPS)
def test_an_interrupt_while_the_bar_is_drawn(one_pool, name):
    def interrupt():
        raise KeyboardInterrupt

    screen = Screen("2", interrupt)
    items = [(0.0,), (0.0,), (LIMIT,)] if name == "starmap" else [0.0, 0.0, LIMIT]
    with pytest.raises(KeyboardInterrupt):
        call(one_pool, name, tasks.wait_for, items, 1, **screen.options)
    assert screen.closed_bars == 1
    assert one_pool.map_async(tasks.square, range(4), 1).get(LIMIT / 2) == [0, 1, 4, 9], "both workers are free"


def test_what_repeats_is_copied_once_as_in_the_pool_s_own(one_pool):
    np = pytest.importorskip("numpy")
    array = np.ones(50_000)
    progress.map(one_pool, tasks.first, [array] * 8, 1, disable=True)
    assert one_pool.stats().shared_bytes == array.nbytes


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("name", IMAPS)
def test_plain_tqdm_around_an_iterator(one_pool, name, chunksize):
    screen = Screen()
    results = list(tqdm(getattr(one_pool, name)(tasks.square, range(10), chunksize), total=10, **screen.options))
    assert sorted(results) == [i * i for i in range(10)]
    assert sorted(set(screen.counts)) == list(range(11))
    assert screen.closed_bars == 1


@pytest.mark.parametrize("name", [*MAPS, *IMAPS])
def test_a_closed_pool(name):
    screen = Screen()
    pool = OURS[0].pool(1)
    pool.close()
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        call(pool, name, tasks.square, [1], 1, **screen.options)
    assert screen.closed_bars == 1


@pytest.mark.parametrize("name", [*MAPS, *IMAPS, "imap_groups"])
def test_errors_that_are_returned_are_counted(one_pool, name):
    screen = Screen()
    options = {"on_error": "return", **screen.options}
    if name == "imap_groups":
        frame, by = grouped(4)
        found = [value for _, value in progress.imap_groups(one_pool, fail_for_odd, frame, by, **options)]
    else:
        items = [(number,) for number in range(4)] if name == "starmap" else range(4)
        found = call(one_pool, name, tasks.fail_if_odd, items, 1, **options)
    assert sum(isinstance(value, ValueError) for value in found) == 2
    assert "4/4" in screen.getvalue()


def fail_for_odd(group):
    return tasks.fail_if_odd(group.name)


def grouped(count=10):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"key": [number % count for number in range(100)], "value": range(100)})
    return frame, "key"


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_groups_are_counted(one_pool, chunksize):
    frame, by = grouped()
    expected = one_pool.map_groups(len, frame, by)
    screen = Screen()
    found = progress.map_groups(one_pool, len, frame, by, chunksize, sort=False, **screen.options)
    assert found.equals(frame.groupby(by, sort=False)["value"].size())
    assert found.sort_index().equals(expected)
    assert screen.counts == sorted(screen.counts)
    assert screen.counts[-1] == 10
    assert "10/10" in screen.getvalue()
    assert screen.closed_bars == 1
    screen = Screen()
    pairs = list(progress.imap_groups(one_pool, len, frame, by, chunksize, **screen.options))
    assert pairs == [(key, 10) for key in range(10)]
    assert sorted(set(screen.counts)) == list(range(11))
    assert screen.closed_bars == 1


@pytest.mark.parametrize("name", ["map_groups", "imap_groups"])
def test_an_error_of_a_group_closes_the_bar(one_pool, name):
    frame, by = grouped()

    def fail(group):
        if group.name == 0:
            raise ValueError(f"group {group.name}")

    screen = Screen()
    with pytest.raises(ValueError, match="group 0"):
        list(getattr(progress, name)(one_pool, fail, frame, by, 1, **screen.options))
    assert screen.closed_bars == 1
    with pytest.raises(TypeError, match="by= is missing"):
        getattr(progress, name)(one_pool, fail, frame, **Screen().options)
    assert one_pool.map(tasks.square, [3]) == [9]


@pytest.mark.parametrize("name", [*MAPS, *IMAPS])
def test_the_bytes_that_have_moved(one_pool, name):
    np = pytest.importorskip("numpy")
    arrays = [np.full(125_000, float(number)) for number in range(8)]
    items = [(array, array[:1]) for array in arrays] if name == "starmap" else arrays
    screen = Screen()
    call(one_pool, name, tasks.add if name == "starmap" else tasks.double, items, 1, **screen.options)
    moved = re.findall(r"([\d.]+) MB moved, [\d.,]+ [MG]B/s", screen.getvalue())
    assert 16 <= float(moved[-1]) < 17
    screen = Screen()
    call(
        one_pool,
        name,
        abs if name != "starmap" else max,
        [(1, 2)] * 3 if name == "starmap" else [1],
        1,
        **screen.options,
    )
    assert " MB moved" not in screen.getvalue(), "of this call only"
    screen = Screen()
    call(one_pool, name, abs if name != "starmap" else max, [(1, 2)] if name == "starmap" else [1], 1, postfix="mine", **screen.options)  # fmt: skip
    assert "mine" in screen.getvalue()
    assert "moved" not in screen.getvalue()


def test_without_tqdm_it_says_what_to_install(one_pool, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'arrowpool\[progress\]'"):
        progress.map(one_pool, tasks.square, [1])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'arrowpool\[progress\]'"):
        progress.imap(one_pool, tasks.square, [1])


def test_tqdm_is_imported_by_the_first_bar():
    program = "import sys, arrowpool.progress; sys.exit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=LIMIT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["imap", "imap_unordered", "imap_groups"])
def test_an_iterator_in_an_event_loop_and_its_end(one_pool, name):
    frame = pd.DataFrame({"key": range(10), "x": 1})
    arguments = (len, frame, "key", 1) if name == "imap_groups" else (abs, range(10))

    async def main():
        screen = Screen()
        results = getattr(progress, name)(one_pool, *arguments, **screen.options)
        taken = [result async for result in results]
        assert len(taken) == 10
        assert screen.counts[-1] == 10
        assert screen.closed_bars == 1

    asyncio.run(main())
    screen = Screen()
    results = getattr(progress, name)(one_pool, *arguments, **screen.options)
    next(results)
    results.close()
    assert list(results) == []
    assert screen.closed_bars == 1


def test_a_timeout_leaves_the_bar(one_pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    screen = Screen()
    results = progress.imap(one_pool, read, [str(gate)], **screen.options)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.01)
    assert screen.closed_bars == 0
    gate.write_text("x")
    assert results.next() == "x"
    with pytest.raises(StopIteration):
        results.next(10)
    assert screen.closed_bars == 1


def read(path):
    with open(path) as file:
        return file.read()
