"""The registry brings in no library that is not there already; the reducer honours reducers registered by others."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import types
from multiprocessing import Pipe

import numpy as np
import pandas as pd
import pytest

from arrowpool import codecs
from arrowpool.transport.reducer import dumps
from tests.codecs.harness import move


def test_no_library_is_imported_for_plain_arrays() -> None:
    program = """
import sys
import numpy as np
from arrowpool.transport import reducer
known = {"pandas", "polars", "pyarrow"} & set(sys.modules)
for obj in (np.arange(10), np.array(["a", "b"] * 9, dtype=object), [1], {"a": np.ones(9)}):
    reducer.dumps(obj, inline_limit=1)
print(({"pandas", "polars", "pyarrow"} & set(sys.modules)) - known)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_a_workers_first_task_imports_nothing(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import multiprocessing, sys
import pandas as pd
import arrowpool

def names(frame):
    return set(sys.modules)

if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with arrowpool.Pool(1, context=multiprocessing.get_context(method)) as pool:
            before, after = pool.map(names, [None, pd.DataFrame({"a": ["x"], "b": [1.0]})])
            print(*{name for name in after - before if name.startswith("arrowpool")})
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_a_library_that_is_being_imported_is_let_be(monkeypatch) -> None:
    unfinished = types.ModuleType("polars")
    unfinished.__spec__ = importlib.machinery.ModuleSpec("polars", None)
    unfinished.__spec__._initializing = True
    monkeypatch.setitem(sys.modules, "polars", unfinished)
    monkeypatch.delitem(sys.modules, "arrowpool.codecs.polars", raising=False)
    codecs.load()
    assert "arrowpool.codecs.polars" not in sys.modules


def test_asyncio_is_imported_by_coroutines_only() -> None:
    program = "import sys, arrowpool; sys.exit('asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_is_kept_is_not_asked_for_while_its_module_is_imported(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "arrowpool.codecs.kept", types.ModuleType("arrowpool.codecs.kept"))
    codecs.settle()


def test_reducers_of_multiprocessing_are_used() -> None:
    class_method = Registered.make
    assert move(class_method).obj() == "made"
    one, other = Pipe()
    with one, other, move(one).obj as moved:
        moved.send(5)
        assert other.recv() == 5


class Registered:
    @classmethod
    def make(cls) -> str:
        return "made"


def test_arrays_inside_anything_are_placed() -> None:
    array = np.arange(10_000)
    obj = {"a": [(array,)], "b": Holder(array * 2)}
    moved = move(obj)
    assert len(moved.rooms) == 2
    assert (moved.obj["b"].array == array * 2).all()


class Holder:
    def __init__(self, array: np.ndarray):
        self.array = array


@pytest.mark.parametrize("make", [bytes, bytearray], ids=["bytes", "bytearray"])
def test_plain_bytes_arrive(make: type) -> None:
    obj = make(b"x" * 100_000)
    assert move(obj).obj == obj


class LeavesSomethingOut:
    def __init__(self, array: np.ndarray):
        self.array = array
        self.frame = pd.DataFrame(array)
        self.lock = None

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        del state["lock"]
        return {**state, "made": np.zeros(10_000)}


def test_only_what_a_reduction_makes_is_copied_when_it_is_met() -> None:
    _, units = dumps([np.ones(20_000), LeavesSomethingOut(np.ones((10_000, 2)))], inline_limit=1000)
    assert [(unit.nbytes, unit.is_own) for unit in units] == [
        (160_000, False),
        (160_000, False),
        (160_000, False),
        (80_000, True),
    ]
