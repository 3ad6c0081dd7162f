"""``python -m arrowpool doctor`` and ``top`` where there is no shared memory: what they know, and what they cannot know."""

from __future__ import annotations

import multiprocessing
import os
import platform

import psutil

from arrowpool import portable
from arrowpool.arguments import default_size
from arrowpool.stats import show_bytes


def doctor() -> int:
    """Print the findings; return 1, since nothing is shared."""
    methods = ", ".join(multiprocessing.get_all_start_methods())
    method = multiprocessing.get_context().get_start_method()
    available = psutil.virtual_memory().available
    print(f"Python {platform.python_version()} on {platform.system()}")
    print(f"shared memory: none. {portable.why()}. Everything is pickled, as with the standard library's pool.")
    print(f"start method: {method} by default (available: {methods})")
    print(f"cores: {os.cpu_count() or 1}; Pool() starts {default_size()} workers")
    print(f"memory: {show_bytes(available)} are available now; a pool has no limit here (max_bytes= is refused)")
    print("not known here: limits of containers and of descriptors, and the pages that a task has written")
    return 1


def top() -> int:
    """Say that other processes' pools cannot be looked at; return 1."""
    print(f"top reads the shared memory of pools, and there is none: {portable.why()}. In the program: pool.stats().")
    return 1
