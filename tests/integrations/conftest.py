"""Other people's libraries, as they are used with a pool: skipped where they are not installed."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from multiprocessing import resource_tracker

import pytest

from tests.conftest import exceptions_pickled_as_before


@pytest.fixture(scope="session", autouse=True)
def _helpers():
    """What these libraries keep for good is there, or switched off, before anything is counted."""
    resource_tracker.ensure_running()
    for loky in ("joblib.externals.loky", "loky"):  # adaptive imports the latter, and joblib then uses its processes
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{loky}.backend.resource_tracker").ensure_running()
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # its thread


def library(name):
    """The library, imported without a word of what it warns of then; or the test, or module, is skipped."""
    with warnings.catch_warnings(), exceptions_pickled_as_before():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed", allow_module_level=True)
