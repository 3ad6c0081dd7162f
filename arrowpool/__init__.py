"""arrowpool: `multiprocessing.Pool` for pandas, Arrow and NumPy.

Frames, tables and arrays travel through shared memory: copied once, never pickled. Everything else is as in the standard
library's pool.

>>> from arrowpool import Pool

And a shelf, on which frames are put once and read from any process: `put`, `get`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arrowpool.context import get_context
from arrowpool.errors import (
    ArenaFullError,
    ForkedPoolError,
    PoolTerminatedError,
    ShelfKeyError,
    TaskExitError,
    TaskTimeoutError,
    TransferError,
    WorkerInitError,
    WorkerLostError,
)
from arrowpool.executor import ProcessPoolExecutor
from arrowpool.patching import install, uninstall
from arrowpool.pool import ArrowPool, Pool
from arrowpool.stats import Stats

if TYPE_CHECKING:
    from arrowpool.shelf import (
        Shelf,
        delete,
        delete_all,
        exists,
        get,
        get_arrow,
        get_many,
        get_numpy,
        info,
        list_keys,
        memory_usage,
        put,
        put_many,
    )

__all__ = [
    "ArenaFullError",
    "ArrowPool",
    "ForkedPoolError",
    "Pool",
    "PoolTerminatedError",
    "ProcessPoolExecutor",
    "Shelf",
    "ShelfKeyError",
    "Stats",
    "TaskExitError",
    "TaskTimeoutError",
    "TransferError",
    "WorkerInitError",
    "WorkerLostError",
    "delete",
    "delete_all",
    "exists",
    "get",
    "get_arrow",
    "get_context",
    "get_many",
    "get_numpy",
    "info",
    "install",
    "list_keys",
    "memory_usage",
    "put",
    "put_many",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    # The shelf imports pandas and pyarrow, which a worker need not wait for that has no use for them.
    if name in __all__:
        from arrowpool import shelf

        return getattr(shelf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
