"""arrowpool: `multiprocessing.Pool` for pandas, Arrow and NumPy.

Frames, tables and arrays travel through shared memory: copied once, never pickled. Everything else is as in the standard
library's pool.

>>> from arrowpool import Pool
"""

from __future__ import annotations

from arrowpool.context import get_context
from arrowpool.errors import (
    ArenaFullError,
    PoolTerminatedError,
    TaskExitError,
    TaskTimeoutError,
    TransferError,
    WorkerInitError,
    WorkerLostError,
)
from arrowpool.pool import ArrowPool, Pool
from arrowpool.stats import Traffic

__all__ = [
    "ArenaFullError",
    "ArrowPool",
    "Pool",
    "PoolTerminatedError",
    "TaskExitError",
    "TaskTimeoutError",
    "Traffic",
    "TransferError",
    "WorkerInitError",
    "WorkerLostError",
    "get_context",
]
