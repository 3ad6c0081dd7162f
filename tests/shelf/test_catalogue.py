"""The catalogue of an owner, as a dictionary."""

from __future__ import annotations

import os

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from arrowpool.shelf import (
    catalogue,
)
from arrowpool.shelf.catalogue import Catalogue, Location


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=60))
def test_a_catalogue_is_a_dictionary(steps):
    """Add, or remove one of those that are there; no number comes twice."""
    kept = Catalogue(7, "abcdabcd")
    model, ever = {}, set()
    try:
        for step in steps:
            if step is None:
                parts = {"exact.bin": Location(3, 1 << 40, 4096 * len(ever), 5)}
                record = kept.add("Größe" * len(ever), 1.5, parts)
                assert record.number not in ever
                ever.add(record.number)
                model[record.number] = parts
            elif step < len(model):
                number = list(model)[step]
                assert catalogue.has(kept.fd, number)
                kept.remove(number)
                del model[number]
                assert not catalogue.has(kept.fd, number)
            assert {record.number: record.parts for record in catalogue.read(kept.fd)} == model
        for number in ever:
            found = catalogue.find(kept.fd, number)
            assert (found is not None) == (number in model)
        assert catalogue.is_of(kept.fd, 7, "abcdabcd")
        assert not catalogue.is_of(kept.fd, 8, "abcdabcd")
        assert os.fstat(kept.fd).st_size <= 256 * (1 + len(steps))
    finally:
        kept.close()


@pytest.mark.parametrize("number", [0, -1, 1, 1 << 24, 1 << 70])
def test_a_number_that_nothing_has(number):
    kept = Catalogue(7, "abcdabcd")
    try:
        assert catalogue.find(kept.fd, number) is None
    finally:
        kept.close()


def test_a_slot_that_is_read_while_it_is_written():
    kept = Catalogue(7, "abcdabcd")
    try:
        record = kept.add("ndarray", 1.5, {"exact.bin": Location(3, 4, 5, 6)})
        os.pwrite(kept.fd, b"\xff", 256 + 60)
        with pytest.raises(OSError, match="cannot be read"):
            catalogue.find(kept.fd, record.number)
        kept.remove(record.number)
        assert list(catalogue.read(kept.fd)) == []
    finally:
        kept.close()
