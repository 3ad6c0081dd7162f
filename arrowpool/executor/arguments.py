"""The arguments of an executor, checked as the standard library's executor checks them, with its messages."""

from __future__ import annotations

import multiprocessing
import operator
from typing import Any


def checked_context(mp_context: Any, max_workers: Any, initializer: Any, max_tasks_per_child: Any) -> Any:
    """The context that starts the workers: the given one, or the default.

    Raises
    ------
    ValueError, TypeError, AttributeError
        As for `concurrent.futures.ProcessPoolExecutor`.
    """
    if max_workers is not None and max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    operator.index(1 if max_workers is None else max_workers)
    if mp_context is None:
        mp_context = multiprocessing.get_context(None if max_tasks_per_child is None else "spawn")
    method = mp_context.get_start_method()
    if max_tasks_per_child is not None:
        if not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
        if method == "fork":
            raise ValueError(
                "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
                "supply a different mp_context."
            )
    return mp_context
