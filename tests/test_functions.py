"""What a worker can resolve by name, decided in the parent: fingerprints, redefinition, reloads, made-up modules."""

from __future__ import annotations

import functools
import importlib
import math
import sys
import types

import pytest

from arrowpool import functions
from arrowpool.functions import Reach, fingerprint, fingerprints, is_stateless
from arrowpool.reducer import Reducer, loads


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
    assert len(reduced(fingerprint, reach)) < 60


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
        (lambda: functions, True),
    ],
)
def test_only_functions_without_data_are_kept_by_a_worker(function, expected):
    assert is_stateless(function) is expected


def test_a_closure_is_not_stateless():
    data = [1]
    assert not is_stateless(lambda: data)
