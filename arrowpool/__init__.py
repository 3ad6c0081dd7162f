"""arrowpool: `multiprocessing.Pool` for pandas, Arrow and NumPy.

Frames, tables and arrays travel through shared memory: copied once, never pickled. Everything else is as in the standard
library's pool.

>>> from arrowpool import Pool

And a shelf, on which frames are put once and read from any process: `put`, `get`.
"""

from __future__ import annotations

from arrowpool.context import get_context
from arrowpool.errors import (
    ArenaFullError,
    PoolTerminatedError,
    ShelfKeyError,
    TaskExitError,
    TaskTimeoutError,
    TransferError,
    WorkerInitError,
    WorkerLostError,
)
from arrowpool.pool import ArrowPool, Pool
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
from arrowpool.stats import Traffic

__all__ = [
    "ArenaFullError",
    "ArrowPool",
    "Pool",
    "PoolTerminatedError",
    "Shelf",
    "ShelfKeyError",
    "TaskExitError",
    "TaskTimeoutError",
    "Traffic",
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
    "list_keys",
    "memory_usage",
    "put",
    "put_many",
]
