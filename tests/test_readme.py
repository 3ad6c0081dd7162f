"""README.md and tests/FAILURES.md: commands and programs run, with little data, and the tests that they name exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import arrowpool
from tests import programs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
FAILURES = (ROOT / "tests" / "FAILURES.md").read_text()
LIMIT = 110

FENCES = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
#: Every command that runs Python: lines of shell, and code within the text.
COMMANDS = list(
    dict.fromkeys(
        [line for kind, body in FENCES if kind == "sh" for line in body.splitlines() if line.startswith("python ")]
        + [code for code in re.findall(r"`([^`]+)`", PROSE) if re.search(r"\bpython -m ", code)]
    )
)
#: Options that make a command small, and a part of its output.
SMALL = {
    "python -m arrowpool demo": ("--rows 2000 --processes 2", "results equal"),
    "python -m arrowpool bench": ("--megabytes 1 --seconds 1 --processes 2", "Of 5 jobs, arrowpool.Pool was"),
    "python -m arrowpool bench --csv prices.csv": ("--seconds 1 --processes 2", "prices.csv: 1,000 rows of 3 columns"),
    "python -m arrowpool bench --csv prices.csv --by ticker --function mymodule:features": (
        "--seconds 1 --processes 2",
        "mymodule:features on each group of ticker: 2 calls",
    ),
    "python -m arrowpool doctor": ("", "shared memory"),
    "python -m arrowpool top": ("", "pools of"),
    "python -m arrowpool run backtest.py --year 2013": ("", "ArrowPool True ['--year', '2013']"),
    "python -m arrowpool run -m backtest --year 2013": ("", "ArrowPool True ['--year', '2013']"),
    "python -m arrowpool run": ("backtest.py", "ArrowPool True []"),
    "python -m arrowpool ls": ("", "KEY"),
    "python -m benchmarks.compare": ("--contenders arrowpool --scenario frame_in --scale 0.001 --rounds 1", "frame_in"),
    "python -m benchmarks.jobs": ("--jobs rolling --contenders serial,arrowpool --scale 0.001 --rounds 1", "x serial"),
    "python -m benchmarks.groups": ("--jobs mean --scale 0.01 --rounds 1", "map_groups"),
    "python -m benchmarks.parent": ("--traffic tiny --scale 0.01 --rounds 1 --sleepers 2", "feeds at 10 ms"),
    "python -m benchmarks.memory --contenders stdlib,arrowpool": (
        "--scenario frame_in --scale 0.001 --rounds 1",
        "arrowpool",
    ),
    "python -m benchmarks.cluster": ("--scale 0.001 --rounds 1", "MB into a node"),
    "python -m benchmarks.shelf": ("--mb 1 --rounds 1 --readers 1", "memcpy"),
    "python -m benchmarks.report --measure": (
        "--no-plots --to {tmp} --contenders arrowpool --sizes 0.01 --scale 0.0001 --rounds 1 --scenario frame_in --jobs rolling",
        "| peak memory",
    ),
    "python -m pytest -n 0 benchmarks --benchmark-enable": (
        "-q -p no:cacheprovider --contenders arrowpool,memcpy --rounds 1 --shelf-mb 1 -k tiny_default or (shelf and numbers)",
        "passed",
    ),
}
#: Commands that take ten minutes and more. The same tests run among the others, with less time.
LONG = {
    "ARROWPOOL_SOAK_SECONDS=600 ARROWPOOL_SOAK_KILLS=1000 python -m pytest -n 0 -m soak -s",
    "ARROWPOOL_ORACLE_SECONDS=600 ARROWPOOL_GROWTH_SECONDS=60 python -m pytest -n 0 tests/trials",
}

BACKTEST = """
import multiprocessing, sys

def where(_):
    return type(multiprocessing.current_process()).__name__

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        import arrowpool
        print("ArrowPool", isinstance(pool, arrowpool.ArrowPool), sys.argv[1:])
        assert pool.map(abs, [-1, -2]) == [1, 2]
    pool.join()
"""


def _environ():
    """This process's environment, without the variables of pytest-xdist."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}


def test_all_commands_are_known():
    assert set(COMMANDS) == set(SMALL) | LONG


@pytest.mark.parametrize("command", SMALL)
def test_a_command(command, tmp_path):
    if "cluster" in command and importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed")
    options, said = SMALL[command]
    words = shlex.split(command)
    benchmarks = "benchmarks" in words[2] or "benchmarks" in words
    (tmp_path / "backtest.py").write_text(BACKTEST)
    (tmp_path / "mymodule.py").write_text("def features(prices):\n    return prices['close'].mean()\n")
    pd.DataFrame({"ticker": ["A", "B"] * 500, "day": range(1000), "close": np.arange(1000) / 8}).to_csv(
        tmp_path / "prices.csv", index=False
    )
    extra = options.replace("{tmp}", str(tmp_path))
    head, _, expression = extra.partition(" -k ")
    ran = programs.run(
        [*words[1:], *head.split(), *(["-k", expression] if expression else [])],
        cwd=ROOT if benchmarks else tmp_path,
        env={**_environ(), "ARROWPOOL_SHELF_DIR": str(tmp_path / "shelf"), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert said in ran.stdout


def test_the_script_is_the_same_as_the_module():
    script = Path(sys.executable).parent / "arrowpool"
    if not script.exists():
        pytest.skip("this checkout is not installed")
    told = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=LIMIT, check=True).stdout
        for command in ([sys.executable, "-m", "arrowpool"], [script])
    ]
    assert told[0].split("arrowpool", 1)[1].split() == told[1].split("arrowpool", 1)[1].split()
    assert all(name in told[0] for name in re.findall(r"python -m arrowpool (\w+)", TEXT))


#: The names that the README's programs use.
HEAD = """
import asyncio, subprocess, sys
from functools import partial
import numpy as np
import pandas as pd
import arrowpool

def featurise(frame):
    return frame * 2

def compute(frame):
    return float(frame.to_numpy().sum())

def backtest(prices, window, threshold):
    return float((prices.rolling(window).mean() > threshold).to_numpy().sum())

prices = pd.DataFrame({"A": np.arange(40_000.0), "B": np.arange(40_000.0)[::-1]})
frame = features = prices
frames = [prices.iloc[at : at + 10_000] for at in range(0, 40_000, 10_000)]
thresholds = [1.0, 2.0]
"""
AROUND = {
    "pd.read_parquet(": '    assert features.index.unique("ticker").tolist() == ["A", "B"]',
    "pool.share(prices)": "range(5, 200)",
    "await pool.apply_async": "async",
    "backend=": "sklearn",
    "from arrowpool import progress": "tqdm",
    "pool.map_groups": "tqdm",
    'on_error="return"': "tqdm",
    "partial(backtest, prices, 20)": "tqdm",
    "pool.imap(featurise, chunks)": "tqdm",
    "pool.trace(": "tqdm",
    "pool.health()": '    assert pool.health().state == "terminated"',
    "PoolCollector(": "tqdm",
    "arrowpool.put(prices)": "shelf",
    "integrations.dask": "dask",
    "ProcessPoolExecutor": "assert result.equals(frames[-1] * 2)",
}


def program_of(body):
    """A complete program around a program of the README."""
    kind = next(AROUND[mark] for mark in AROUND if mark in body)
    if kind == "async":
        body = (
            "async def main():\n"
            + textwrap.indent(body, "    ")
            + "\nwith arrowpool.Pool(2) as pool:\n    asyncio.run(main())\n"
        )
    elif kind == "shelf":
        first, second = body.split("# compute_rsi_macd.py\n")
        Path("compute_rsi_macd.py").write_text(HEAD + second)
        body = first.replace("subprocess.run(", "subprocess.run(check=True, args=")
    elif kind == "dask":
        local = "Client(n_workers=2, threads_per_worker=1, dashboard_address=':0')"
        body = body.replace('Client("tcp://scheduler:8786")', local) + "assert features[-1].equals(frames[-1] * 2)\n"
    elif kind == "range(5, 200)":
        body = "with arrowpool.Pool(2) as pool:\n" + textwrap.indent(body.replace(kind, "range(5, 7)"), "    ")
    elif kind == "tqdm":
        body = "with arrowpool.Pool(2) as pool:\n" + textwrap.indent(body, "    ")
    elif kind == "sklearn":
        body = (
            "from sklearn.model_selection import GridSearchCV\nfrom sklearn.linear_model import Ridge\n"
            "model, grid, targets = Ridge(), {'alpha': [1.0, 2.0]}, prices['A']\n"
            + body.replace("n_jobs=4", "n_jobs=2")  # each imports scikit-learn
        )
    else:
        body += kind + "\n"
    if "__main__" not in body:  # from Python 3.14 on, workers import the program
        body = 'if __name__ == "__main__":\n' + textwrap.indent(body, "    ")
    return HEAD + body


@pytest.mark.parametrize(
    "body", [body for kind, body in FENCES if kind == "python"], ids=lambda body: body.split("\n")[0][:40]
)
def test_a_program(body, tmp_path, monkeypatch):
    for module in re.findall(r"\b(?:import|from) (joblib|tqdm|prometheus_client|distributed)\b", body):
        pytest.importorskip(module)
    if "GridSearchCV" in body:
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    days = {"ticker": ["A", "B"] * 50, "day": range(100), "close": np.arange(100.0)}
    pd.DataFrame(days).to_parquet("prices.parquet")
    script = tmp_path / "program.py"
    script.write_text(program_of(body))
    ran = programs.run(
        [script],
        env={**os.environ, "ARROWPOOL_SHELF_DIR": str(tmp_path / "shelf")},
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_tests_that_it_names_are_there():
    named = set(re.findall(r"`(test_\w+)`", FAILURES))
    assert len(named) > 30
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name in sorted(named) if f"def {name}(" not in code] == []


def test_the_files_and_extras_that_it_names_are_there():
    for name in re.findall(r"\]\(([^)#:]+)\)|`((?:notebooks|benchmarks|\.ci)/[\w./]*)`", TEXT):
        assert (ROOT / "".join(name)).exists(), name
    for name in re.findall(r"`(\w+\.ipynb)`", TEXT):
        assert (ROOT / "notebooks" / name).exists()
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r"\.?\[(\w+)\]'", TEXT)) <= set(known)


def test_the_names_that_it_uses_are_public():
    for name in set(re.findall(r"`arrowpool\.(\w+)\(", TEXT)):
        assert hasattr(arrowpool, name), name
