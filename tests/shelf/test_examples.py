"""The examples in the documentation of the shelf."""

from __future__ import annotations

import doctest

import pytest

import arrowpool.shelf
from arrowpool.shelf import api, shelf


@pytest.mark.parametrize("module", [arrowpool.shelf, api, shelf], ids=lambda module: module.__name__)
def test_examples(module):
    failed, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 3
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in arrowpool.shelf.__all__ if name not in ("Info", "list_infos")])
def test_every_public_name_has_an_example(name):
    assert ">>> " in getattr(arrowpool.shelf, name).__doc__
