"""The contract of a pool, held by the one that shares no memory: forked, so that it is the same process that has no hidden modules."""

from __future__ import annotations

import inspect
import multiprocessing

import pytest

from arrowpool import pool, shelf
from arrowpool.executor import executor
from arrowpool.portable import shelf as portable_shelf
from arrowpool.portable.executor import ProcessPoolExecutor
from arrowpool.portable.pool import ArrowPool
from tests.conftest import Implementation
from tests.pool import test_contract

#: Needs `task_timeout`.
_NOT_HERE = {"test_an_iterator_that_waits_for_its_own_results_while_tasks_are_timed"}


class _Context:
    def __init__(self, method):
        self._context = multiprocessing.get_context(method)

    def __getattr__(self, name):
        return getattr(self._context, name)

    def Pool(self, *args, **kwargs):
        return ArrowPool(*args, **kwargs, context=self._context)


class portable:
    get_context = _Context


@pytest.fixture(params=[Implementation(portable, "fork")], ids=repr)
def implementation(request):
    return request.param


def _is_here(name, test):
    parameters = inspect.signature(test).parameters
    return name.startswith("test_") and name not in _NOT_HERE and parameters.keys() & {"pool", "implementation"}


@pytest.mark.parametrize(
    ("ours", "here"),
    [
        (pool.ArrowPool, ArrowPool),
        (executor.ProcessPoolExecutor, ProcessPoolExecutor),
        (shelf.Shelf, portable_shelf.Shelf),
        (shelf.Info, portable_shelf.Info),
    ],
    ids=lambda kind: kind.__module__,
)
def test_the_same_methods(ours, here):
    """With the same arguments; those that only raise an error do not have their types."""
    public = {name: one for name, one in inspect.getmembers(ours) if not name.startswith("_")}
    assert [name for name in public if not hasattr(here, name)] == []
    for name in [name for name, one in public.items() if inspect.isfunction(one)]:
        there = inspect.signature(getattr(here, name)).parameters.values()
        for one, other in zip(inspect.signature(public[name]).parameters.values(), there, strict=True):
            assert (one.name, one.kind) == (other.name, other.kind)
            assert one.default is other.default or one.default == other.default or name == "trace"


globals().update(
    {name: one for name, one in vars(test_contract).items() if inspect.isfunction(one) and _is_here(name, one)}
)
registering = test_contract.registering
