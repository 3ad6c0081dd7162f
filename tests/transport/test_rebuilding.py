"""What rebuilding leaves behind."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from arrowpool.transport.reducer import dumps_stream, loads, loads_in_turn


class Held:
    """Something that a weak reference can tell of."""


class Caller:
    """Arrives as the frame that rebuilds it, as a traceback does that Dask has pickled: it has the frames of all callers."""

    def __reduce__(self):
        return sys._getframe, ()


@pytest.mark.parametrize("load", [lambda stream: loads_in_turn([stream, stream], ()), loads], ids=["in turn", "alone"])
def test_what_refers_to_the_callers_is_let_go_of(load):
    def rebuilt():
        found = load(dumps_stream([Held(), Caller()]))
        while type(found[0]) is list:
            found = found[0]
        assert type(found[1]) is type(sys._getframe())
        return weakref.ref(found[0])

    held = rebuilt()
    gc.collect()
    assert held() is None
