"""What the encoder decides without any process: which objects of a call's list occur several times."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from arrowpool.engine.shared import members, repeated
from tests.pool import tasks


class Listed(list):
    """Yields what is made for the occasion."""

    def __iter__(self):
        return iter([object() for _ in range(len(self))])


class Tupled(tuple):
    __slots__ = ()

    __iter__ = Listed.__iter__


class Mapped(dict):
    def values(self):
        return [object() for _ in range(len(self))]


A, B, C = object(), object(), object()


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([A, B, A], {A}),
        ([(A, B), [B, C], {"c": C}], {B, C}),
        ([(A, A), (B, B)], set()),  # twice in one item is once in its message
        ([tasks.Point(A, B), tasks.Point(A, C)], {A}),
        ([OrderedDict(a=A), OrderedDict(b=A)], {A}),
        ([Listed([A, B]), Listed([A]), Listed([C])], {A}),
        ([Tupled([A, B]), Tupled([A])], {A}),
        ([Mapped(a=A), Mapped(a=A, b=B)], {A}),
        ([Listed([A])] * 2 + [Listed([B])] * 20, {A, B}),
        ([], set()),
    ],
)
def test_what_occurs_several_times(items, expected):
    assert repeated(items) == {id(obj) for obj in expected}


def test_members_are_those_that_live_on():
    """An id of what is gone would be taken for that of something else."""
    assert list(members([Listed([A, B]), Tupled([B]), Mapped(c=C), A])) == [A, B, B, C, A]
