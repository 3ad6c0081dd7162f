"""Where units lie in a message's segments: as tables."""

from __future__ import annotations

import pytest

from arrowpool.transport.layout import lay_out
from arrowpool.transport.placements import InSegment, SharedObject, read_placement
from arrowpool.transport.unit import Unit
from arrowpool.tuning import ALIGNMENT, KIB, OWN_SEGMENT, SHARED_SEGMENT


@pytest.mark.parametrize(
    ("units", "sizes", "places"),
    [
        ([], [], []),
        ([1], [64], [(0, 0)]),
        ([100, 64, 1], [256], [(0, 0), (0, 128), (0, 192)]),
        (
            [OWN_SEGMENT, 10, OWN_SEGMENT + 1, 20],
            [OWN_SEGMENT, 128, OWN_SEGMENT + 1],
            [(0, 0), (1, 0), (2, 0), (1, 64)],
        ),
    ],
)
@pytest.mark.parametrize("refers", [False, True])
def test_small_units_share_a_segment_and_large_ones_have_their_own(units, sizes, places, refers):
    made = [Unit(size) for size in units]
    if refers:  # then there is more to be looked at, to the same end
        made.append(Unit(0, shared_object=7))
    leased, found, placements = lay_out(made)
    assert (leased, found) == ([], sizes)
    read = [read_placement(placement) for placement in placements]
    if refers:
        last = read.pop()
        assert isinstance(last, SharedObject)
        assert last.number == 7
    assert [(place.segment, place.offset) for place in read] == places
    assert [place.nbytes for place in read] == units
    assert all(isinstance(place, InSegment) and place.offset % ALIGNMENT == 0 for place in read)


def test_a_shared_segment_is_bounded_so_that_one_unit_that_is_kept_pins_no_more():
    _, sizes, placements = lay_out([Unit(100 * KIB) for _ in range(200)])
    assert len(sizes) == 200 // (SHARED_SEGMENT // (100 * KIB))
    assert all(size <= SHARED_SEGMENT for size in sizes)
    ends = {}
    for place in map(read_placement, placements):
        assert place.offset >= ends.get(place.segment, 0), "they overlap"
        ends[place.segment] = place.offset + place.nbytes
