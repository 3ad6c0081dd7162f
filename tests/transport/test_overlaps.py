"""Which memory is copied as a whole: addresses in, decisions out."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from arrowpool.codecs import Extent
from arrowpool.transport.overlaps import find, layers, stretches
from arrowpool.tuning import ALIGNMENT, LEAST_WINDOW

K = LEAST_WINDOW


def window(start, stop, visible=None):
    return Extent(start, stop, stop - start if visible is None else visible, owner=(start, stop))


def spans(extents):
    return [(stretch.start, stretch.stop) for stretch in stretches(extents)]


def test_windows_that_overlap_by_half_are_one_stretch():
    extents = [window(at, at + 2 * K) for at in range(0, 20 * K, K)]
    assert spans(reversed(extents)) == [(0, 21 * K)]


def test_adjacent_chunks_are_not_a_stretch():
    assert spans([window(at, at + K) for at in range(0, 20 * K, K)]) == []


def test_one_array_is_none_and_the_same_one_twice_is():
    assert spans([window(0, 4 * K)]) == []
    assert spans([window(0, 4 * K)] * 2) == [(0, 4 * K)]


def test_chunks_of_distant_columns_are_not_a_stretch():
    """Row slices of a block in column order: from the first column's to the last column's, but little of it is theirs."""
    assert spans([window(at, 100 * K + at, visible=K) for at in range(0, 10 * K, K)]) == []


def test_each_stretch_for_itself():
    near = [window(at, at + 4 * K) for at in (0, K)]
    far = [window(100 * K + at, 104 * K + at) for at in (0, K)]
    alone = [window(50 * K, 60 * K)]
    assert spans([*far, *alone, *near]) == [(0, 5 * K), (100 * K, 105 * K)]


def test_what_is_small_is_none():
    assert spans([window(0, K // 4)] * 50) == []


def test_a_stretch_begins_where_alignment_does():
    start = 1000 * ALIGNMENT
    assert spans([window(start + 16, start + 2 * K)] * 3) == [(start, start + 2 * K)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), max_size=30))
def test_every_window_lies_in_one_stretch_or_touches_none(pairs):
    extents = [window(start * K, (start + length) * K) for start, length in pairs]
    found = stretches(extents)
    assert sorted(stretch.start for stretch in found) == [stretch.start for stretch in found]
    for one, other in itertools.pairwise(found):
        assert one.stop <= other.start
    for extent in extents:
        touched = [one for one in found if one.start < extent.stop and extent.start < one.stop]
        stretch = find(found, extent.start, extent.stop - extent.start)
        assert touched == ([] if stretch is None else [stretch])
    for stretch in found:
        behind = sum(extent.visible for extent in extents if stretch.start <= extent.start < stretch.stop)
        assert behind > 1.5 * (stretch.stop - stretch.start)
        assert find(found, stretch.stop - 1, 2) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 20)), max_size=40))
def test_spans_that_overlap_are_in_different_layers(given_spans):
    spans = [(memory, start, start + length) for memory, start, length in given_spans]
    found = layers(spans)
    assert len(found) == len(spans)
    for (one, first), (other, second) in itertools.combinations(zip(spans, found, strict=True), 2):
        if one[0] == other[0] and one[1] < other[2] and other[1] < one[2]:
            assert first != second
    for memory in {span[0] for span in spans}:
        mine = [span for span in spans if span[0] == memory]
        deepest = max(sum(start <= at < stop for _, start, stop in mine) for _, at, _ in mine)
        used = {layer for span, layer in zip(spans, found, strict=True) if span[0] == memory}
        assert used == set(range(deepest)), "no more copies of the memory than spans that lie over one byte"


def test_layers_of_a_few():
    assert layers([]) == []
    assert layers([("a", 5, 9)]) == [0]
    assert layers([("a", 0, 4), ("a", 4, 8), ("a", 2, 6), ("b", 0, 8)]) == [0, 0, 1, 0]
