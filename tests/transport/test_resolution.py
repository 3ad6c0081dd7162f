"""What a worker can resolve by name, decided in the parent: fingerprints, redefinition, reloads, made-up modules."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import math
import os
import pickle
import subprocess
import sys
import textwrap
import types
import weakref

import numpy as np
import pytest

from arrowpool.transport import by_type, resolution
from arrowpool.transport.definitions import fingerprint, fingerprints
from arrowpool.transport.reducer import Reducer, loads
from arrowpool.transport.resolution import Reach, constants_of, is_stateless, main_globals, main_names, tell_names


@pytest.fixture
def main(monkeypatch):
    """An empty ``__main__`` of a script, in the place of pytest's."""
    module = types.ModuleType("__main__")
    module.__file__ = "script.py"
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def define(module, source):
    exec(source, vars(module))


def reduced(obj, reach, **kwargs):
    return Reducer(inline_limit=1 << 20, reach=reach, **kwargs).reduce(obj)[0]


@pytest.mark.parametrize("forks", [True, False])
def test_functions_of_importable_modules_go_by_reference(forks):
    reach = Reach(forks=forks)
    for function in (functools.wraps, Reach, Reach.resolves, fingerprint):
        assert reach.resolves(function)
    assert len(reduced(fingerprint, reach)) < 70


def test_what_has_no_name_goes_by_value(main):
    reach = Reach(forks=True)
    assert not reach.resolves(lambda: 1)

    def local():
        return 2

    assert not reach.resolves(local)
    assert loads(reduced(local, reach))() == 2


def test_a_function_known_to_forked_workers(main):
    define(main, "def f(x): return x + 1")
    reach = Reach(forks=True)
    assert reach.resolves(main.f)
    assert loads(reduced(main.f, reach)) is main.f


@pytest.mark.parametrize(
    "change",
    [
        "def f(x): return x + 2",
        "def f(x, y=1): return x + 1",
        "def f(x):\n  def g(): return 1\n  return x + 1",
        "def f(x): return x + 1 if x in {'a', 'b'} else 0",
    ],
)
def test_a_redefined_function_goes_by_value(main, change):
    define(main, "def f(x): return x + 1")
    reach = Reach(forks=True)
    define(main, change)
    assert not reach.resolves(main.f)
    assert loads(reduced(main.f, reach)).__code__.co_code == main.f.__code__.co_code


def test_the_same_definition_again_is_the_same(main):
    source = "def f(x, y=2, *, z=None): return [x for _ in range(y)]"
    define(main, source)
    reach = Reach(forks=True)
    define(main, source)
    assert reach.resolves(main.f)


def test_a_default_that_cannot_be_compared_must_be_the_same_object(main):
    main.data = [1, 2]
    source = "def f(x=data): return x"
    define(main, source)
    reach = Reach(forks=True)
    assert reach.resolves(main.f)
    main.data = [3, 4]
    define(main, source)
    assert not reach.resolves(main.f)


def test_a_class_with_a_changed_method_goes_by_value(main):
    define(main, "class A:\n  def f(self): return 1")
    reach = Reach(forks=True)
    assert reach.resolves(main.A)
    define(main, "class A:\n  def f(self): return 2")
    assert not reach.resolves(main.A)


def test_a_function_made_after_the_workers(main):
    reach = Reach(forks=True)
    define(main, "def late(): return 5")
    assert not reach.resolves(main.late)
    assert loads(reduced(main.late, reach))() == 5


def test_spawned_workers_say_what_they_have(main):
    define(main, "def top(): return 1\ndef guarded(): return 2")
    reach = Reach(forks=False)
    reach.worker_has({"top": fingerprint(main.top), "G": None})
    assert reach.resolves(main.top)
    assert not reach.resolves(main.guarded)


def test_values_that_a_main_guard_has_put_elsewhere_are_sent(main):
    """A spawned worker does not run the guard; what its initializer puts there stays."""
    there = {"SAME": 1, "REBOUND": 1, "TYPE": 1, "PUT": 1, "PUT_AGAIN": 1, "LIST": []}
    vars(main).update(there)
    before = dict(vars(main))
    main.PUT, main.PUT_AGAIN, main.NEW = "initialized", 2, 3
    told = tell_names(before)
    vars(main).update(there, REBOUND=2, TYPE=True, PUT_AGAIN=5, LIST=7, ONLY_HERE=8, NEW=None)
    reach = Reach(forks=False)
    assert not reach.has_global("SAME", 1)  # before any worker has told
    reach.worker_has(told)
    has = {name for name in (*there, "ONLY_HERE", "NEW") if reach.has_global(name, vars(main)[name])}
    assert has == {"SAME", "PUT", "PUT_AGAIN", "NEW"}
    main.SAME = 9
    assert not reach.has_global("SAME", 9)
    assert all(Reach(forks=True).has_global(name, vars(main)[name]) for name in ("REBOUND", "PUT", "LIST"))


def test_a_spawned_script_runs_in_a_dictionary_of_its_own(main):
    main.__name__ = "__mp_main__"
    real = {"__name__": "__mp_main__"}
    exec("STATE = None\ndef init(x):\n  global STATE\n  STATE = x", real)
    vars(main).update(real)
    main.init(5)
    assert (main.STATE, main_names()["STATE"]) == (None, 5)
    assert main_globals(live=False)["STATE"] == 5


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("fork", ""),
        ("spawn", ""),
        ("spawn", "import contextlib\n@contextlib.contextmanager\ndef first():\n    yield\n"),
        (
            "spawn",
            "import functools\n@functools.singledispatch\ndef first(x): pass\nclass Second:\n    def f(self): pass\n",
        ),
    ],
    ids=["fork", "spawn", "spawn, a decorator of others first", "spawn, a class"],
)
def test_a_script_whose_guard_and_initializer_change_its_names(tmp_path, method, first):
    script = tmp_path / "script.py"
    script.write_text(
        first
        + textwrap.dedent(
            f"""
            import arrowpool

            UNTOUCHED, REBOUND, EMPTY, PUT = 1, 1, None, 1

            def init():
                global EMPTY, PUT
                EMPTY, PUT = "initialized", 10

            if __name__ == "__main__":
                REBOUND = PUT = 2
                with arrowpool.get_context("{method}").Pool(1, init) as pool:
                    print(*pool.apply(lambda: (UNTOUCHED, REBOUND, EMPTY, PUT)))
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["1", "2", "initialized", "10"], "")


class Heavy:
    """What a cell keeps alive."""


@pytest.mark.parametrize(
    "source",
    [
        "def f(x, y=heavy): return x",
        "class f:\n  member = heavy\n  def __init__(self, x): pass",
        "f = partial(g, heavy)",
    ],
)
def test_cells_that_are_run_again_leave_nothing_behind(main, source):
    define(main, "from functools import partial\ndef g(heavy, x=None): return x")
    alive = []

    def run_cell():
        main.heavy = Heavy()
        alive.append(weakref.ref(main.heavy))
        define(main, source)
        main.made = main.f(1)

    run_cell()
    reach = Reach(forks=True)
    for _ in range(5):
        run_cell()
        for obj in (main.f, main.made, [main.f]):
            loads(reduced(obj, reach))
        gc.collect()
    assert [reference() for reference in alive[:-1]] == [None] * 5
    assert alive[-1]() is main.heavy


def test_an_answer_ends_with_its_function(main):
    define(main, "def f(): return 1")
    reach = Reach(forks=True)
    assert reach.resolves(main.f)
    assert len(reach._answers) == 1
    del main.f
    gc.collect()
    assert not reach._answers


def test_types_that_are_gone_are_forgotten():
    before = dict(by_type.ways)
    for _ in range(10):
        kind = type("Gone", (dict,), {})
        with contextlib.suppress(pickle.PicklingError):
            Reducer(inline_limit=1 << 20).reduce(kind())
        assert id(kind) in by_type.ways
        del kind
        gc.collect()
    assert by_type.ways.keys() <= before.keys()
    assert by_type._types.keys() == by_type.ways.keys()


def test_a_notebook_is_not_run_again_by_spawned_workers(main):
    del main.__file__
    define(main, "def f(): return 1")
    assert not Reach(forks=False).resolves(main.f)


def test_fingerprints_do_not_depend_on_the_file_or_the_line(main):
    define(main, "def f(x): return {'b', 'a'} & x")
    other = types.ModuleType("__mp_main__")
    exec(compile("\n\n\ndef f(x): return {'b', 'a'} & x", "elsewhere.py", "exec"), vars(other))
    assert fingerprints(vars(main))["f"] == fingerprints(vars(other))["f"]


def test_a_reloaded_module_goes_by_value(tmp_path, monkeypatch):
    (tmp_path / "reloaded_module.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "reloaded_module", None)  # so that it is gone again after the test
    del sys.modules["reloaded_module"]
    module = importlib.import_module("reloaded_module")
    reach = Reach(forks=True)
    assert reach.resolves(module.f)
    (tmp_path / "reloaded_module.py").write_text("def f(): return 'changed'\n")
    importlib.reload(module)
    assert not reach.resolves(module.f)


@pytest.mark.parametrize("forks", [True, False])
def test_a_module_that_was_made_up(monkeypatch, forks):
    module = types.ModuleType("made_up")
    monkeypatch.setitem(sys.modules, "made_up", module)
    exec("def f(): return 1", vars(module))
    assert Reach(forks=forks).resolves(module.f) is forks


def test_by_value_functions_see_what_an_initializer_set(main):
    main.PLACEHOLDER = None
    main.FACTOR = 3
    reach = Reach(forks=True)
    define(main, "def f(): return PLACEHOLDER, FACTOR, ONLY_THERE")
    main.FACTOR = 4
    stream = reduced(main.f, reach)
    # What the worker's initializer has done:
    main.PLACEHOLDER, main.ONLY_THERE, main.FACTOR = "set", "there", 3
    assert loads(stream)() == ("set", 4, "there")
    assert main.FACTOR == 3, "what a function brings along stays its own"


def test_a_by_value_initializer_leaves_its_globals_behind(main):
    del main.__file__
    define(main, "def init(x):\n  global STATE\n  STATE = x")
    function = loads(reduced(main.init, Reach(forks=False), for_initializer=True))
    function(7)
    assert main.STATE == 7


def test_what_an_initializer_by_value_has_changed_there_stays(main):
    """Values, containers and classes: a task's function does not bring the sender's along, unless these are others by now."""
    del main.__file__
    define(main, "X, Y, SETTINGS = None, 3, {}\nclass Kind: value = None")
    define(main, "def init(x):\n  global X\n  X = SETTINGS['x'] = Kind.value = x\n  return Y")
    define(main, "def f(): return X, Y, dict(SETTINGS), Kind.value")
    here = dict(vars(main))
    reach = Reach(forks=False)
    reach.worker_has({})
    for _ in range(2):  # one for each worker
        there = reduced(main.init, reach, for_initializer=True)

    def in_a_worker(stream):
        for name in ("X", "Y", "SETTINGS", "init", "f"):
            vars(main).pop(name, None)
        loads(there)(7)
        try:
            return loads(stream)()
        finally:
            vars(main).update(here)

    assert in_a_worker(reduced(main.f, reach)) == (7, 3, {"x": 7}, 7)
    main.X, main.Y, main.SETTINGS = 1, 4, {"new": 1}
    changed = reduced(main.f, reach)
    vars(main).update(here)
    assert in_a_worker(changed) == (1, 4, {"new": 1}, 7)


def test_without_a_reach_nothing_goes_by_value():
    with pytest.raises(Exception, match=r"pickle.*<lambda>|local object"):
        Reducer(inline_limit=1 << 20).reduce(lambda: 1)


def test_classes_that_came_by_value_go_back(main):
    reach = Reach(forks=True)
    for body in ("pass", "def method(self): return 5"):
        define(main, f"class Late:\n  {body}")
        there = loads(reduced(main.Late(), reach))
        back = loads(Reducer(inline_limit=1 << 20).reduce(there)[0])
        assert type(back) is main.Late


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (math.sqrt, True),
        (fingerprint, True),
        (dict, True),
        (functools.partial(max, 1), False),
        ([].append, False),
        (lambda x=[]: x, False),
        (lambda: resolution, True),
    ],
)
def test_only_functions_without_data_are_kept_by_a_worker(function, expected):
    assert is_stateless(function) is expected


def test_a_closure_is_not_stateless():
    data = [1]
    assert not is_stateless(lambda: data)


def closure_over(value, *more):
    return lambda: (value, more)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (math.sqrt, ()),
        (fingerprint, ()),
        (dict, ()),
        (functools.partial(max, 1, key=abs), (max, 1, "key", abs)),
        (functools.partial(max, [1]), None),
        (functools.partial([].append, 1), None),
        (functools.partial(lambda x=[]: x), None),
        ([].append, None),
        (lambda x=1, *, y="z": x, (1, "y", "z")),
        (lambda x=[]: x, None),
        (closure_over(5)(), None),
        (functools.partial(max, np.float64(1)), None),
        (Reach, ()),
        (Heavy(), None),
    ],
)
def test_what_a_callable_carries(function, expected):
    assert constants_of(function) == expected


def test_a_cell_that_gets_another_value():
    value = 1

    def function():
        return value

    def late():
        return undefined

    assert constants_of(function) == (1,)
    value = "other"
    assert constants_of(function) == ("other",)
    assert constants_of(late) is None  # the cell is empty yet
    undefined = 1
    assert constants_of(late) == (1,)
    function.attribute = 1
    assert constants_of(function) is None
