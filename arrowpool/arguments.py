"""Arguments of a pool: their checks and defaults."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from collections.abc import Callable
from typing import Any


def check(
    processes: int,
    initializer: Callable[..., Any] | None,
    maxtasksperchild: int | None,
    max_bytes: int | None,
    retries: int,
    task_timeout: float | None,
) -> None:
    """Raise ValueError or TypeError if an argument is out of range."""
    if processes < 1:
        raise ValueError("Number of processes must be at least 1")
    operator.index(processes)
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes <= 0):
        raise ValueError("max_bytes must be a positive int (bytes) or None")
    if not isinstance(retries, int) or retries < 0:
        raise ValueError("retries must be an int, 0 or more")
    if task_timeout is not None and not (isinstance(task_timeout, (int, float)) and 0 < task_timeout < math.inf):
        raise ValueError("task_timeout must be a positive number (seconds) or None")


def integer(number: Any) -> Any:
    """Return an integer of any type, such as NumPy's, as an int. Return other objects as they are: `check` refuses them."""
    try:
        return operator.index(number)
    except TypeError:
        return number


def checked_integer(number: Any, name: str) -> int:
    """Return an integer of any type as an int.

    Raises
    ------
    TypeError
        For other objects; `name` is the argument's, for the message.
    """
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {number!r}") from None


def default_size() -> int:
    """Default number of workers."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        with contextlib.suppress(OSError):  # a sandbox may refuse
            return os.process_cpu_count() or 1
    return os.cpu_count() or 1
