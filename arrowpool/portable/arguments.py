"""Arguments that only arrowpool's own workers and memory can honour, and the warning that nothing is shared."""

from __future__ import annotations

import logging
import os
from typing import Any

from arrowpool import portable
from arrowpool.errors import UnsupportedError

_log = logging.getLogger("arrowpool")
#: Whether the warning was given. Any thread that makes a pool reads and sets it; two at the same time warn twice, which does no harm.
_warned = False

_INSTEAD = {
    "max_bytes": "send smaller chunks, or use imap",
    "spill_dir": "give the tasks paths of files instead of frames",
    "retries": "catch the error of the call, and make a new pool",
    "task_timeout": "use pool.apply_async(...).get(timeout), and terminate the pool",
}


def refuse(**extras: Any) -> None:
    """Raise `UnsupportedError` for the first of arrowpool's own arguments that was given."""
    for name, value in extras.items():
        if value is not None and not (name == "retries" and value == 0):
            raise UnsupportedError(f"{name}= does not work here ({portable.why()}). Instead, {_INSTEAD[name]}.")


def no_trace(owner: str) -> UnsupportedError:
    """The error of `trace`."""
    return UnsupportedError(f"a trace needs arrowpool's own workers ({portable.why()}). Instead, {owner}.stats().")


def warn_once() -> None:
    """Say that everything is pickled, once in a process."""
    global _warned
    if not _warned:
        _warned = True
        _log.warning("%s: everything is pickled, as with the standard library's pool", portable.why())


def most_workers(workers: int) -> int:
    """A default number of workers. On Windows, the standard library can wait for 61 of them."""
    return min(workers, 61 - 1) if os.name == "nt" else workers
