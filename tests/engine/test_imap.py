"""The results of an imap, and the threads that come to them at the same time. No process."""

from __future__ import annotations

import types

import pytest

from arrowpool.engine.imap import IMapIterator, IMapUnorderedIterator


class Interposed:
    """A condition; when it is entered the next time, another thread has been in it before."""

    def __init__(self, condition):
        self._condition = condition
        self.before = None

    def __enter__(self):
        if self.before is not None:
            act, self.before = self.before, None
            act()
        return self._condition.__enter__()

    def __exit__(self, *error):
        return self._condition.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self._condition, name)


@pytest.fixture(params=[IMapIterator, IMapUnorderedIterator])
def iterator(request):
    pool = types.SimpleNamespace(_cache={}, _drop=lambda job, ends: None)
    return request.param(pool)


@pytest.mark.parametrize("index", range(3))
def test_a_result_that_arrives_while_the_others_are_dropped_is_counted(iterator, index):
    results = iterator.results
    cache = results._cache
    results._set_length(3)
    results._cond = Interposed(results._cond)
    results._cond.before = results.drop
    results._set(index, (True, index))
    for other in {0, 1, 2} - {index}:
        assert cache
        results._set(other, (True, other))
    assert not cache, "the call is over when all its results have come"
    assert not results.unread()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_results(iterator, order):
    for index in order:
        iterator.results._set(index, (True, index))
    iterator.results._set_length(3)
    assert list(iterator) == ([0, 1, 2] if type(iterator) is IMapIterator else list(order))


def test_results_that_are_dropped_after_the_call_has_failed_do_not_move_its_end(iterator):
    results = iterator.results
    results._set(2, (True, 2))  # it waits for earlier ones, in an ordered imap
    results.fail(ZeroDivisionError())
    results.drop()
    with pytest.raises(StopIteration):
        results.take(0)
