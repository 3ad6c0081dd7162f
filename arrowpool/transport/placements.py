"""Placements: where one unit of an object lies, as it stands in a message. `protocol` has the messages.

A placement is a plain tuple. The functions with small names build it, and `read_placement` gives it back as a named tuple. No other
module knows the order of the fields.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class InSegment(NamedTuple):
    """A unit in one of the parcel's own segments: which of them, and where in it."""

    kind: int
    segment: int
    offset: int
    nbytes: int


class SharedObject(NamedTuple):
    """A shared object, by its number."""

    kind: int
    number: int


class SharedWindow(NamedTuple):
    """A window of a shared object that is plain memory; `copy` says in which of the message's private copies of it."""

    kind: int
    number: int
    offset: int
    nbytes: int
    copy: int


#: Where one unit of a body lies, as it goes through the pipe: what `read_placement` reads.
Placement: TypeAlias = tuple[int, ...]
_PLACEMENTS: tuple[type[InSegment], type[SharedObject], type[SharedWindow]] = (InSegment, SharedObject, SharedWindow)
_IN_SEGMENT, _SHARED_OBJECT, _SHARED_WINDOW = range(3)


def in_segment(segment: int, offset: int, nbytes: int) -> Placement:
    """A unit of `nbytes` at `offset` in the parcel's segment of this index."""
    return _IN_SEGMENT, segment, offset, nbytes


def shared_object(number: int) -> Placement:
    """The shared object of this number."""
    return _SHARED_OBJECT, number


def shared_window(number: int, offset: int, nbytes: int, copy: int) -> Placement:
    """A part of the shared object of this number, in the private copy `copy`."""
    return _SHARED_WINDOW, number, offset, nbytes, copy


def read_placement(placement: Placement) -> InSegment | SharedObject | SharedWindow:
    """A placement with named fields."""
    return tuple.__new__(_PLACEMENTS[placement[0]], placement)
