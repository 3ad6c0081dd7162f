"""arrowpool: `multiprocessing.Pool` for pandas, Arrow and NumPy.

Frames, tables and arrays travel through shared memory: copied once, never pickled. Everything else is as in the standard
library's pool.

>>> from arrowpool import Pool

The shelf holds frames in shared memory that any process of the same user reads under a key: `put`, `get`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arrowpool import portable

if (
    portable.missing() is not None or not portable.has_shelf()
):  # before all else: the modules below import the ones that it replaces
    portable.stand_in()

from arrowpool.context import get_context
from arrowpool.errors import (
    ArenaFullError,
    ArrowPoolError,
    ForkedPoolError,
    PoolTerminatedError,
    ShelfKeyError,
    TaskExitError,
    TaskTimeoutError,
    TransferError,
    UnsupportedError,
    WorkerInitError,
    WorkerLostError,
)
from arrowpool.executor import ProcessPoolExecutor
from arrowpool.explaining import explain
from arrowpool.frames import split
from arrowpool.health import Health
from arrowpool.patching import install, uninstall
from arrowpool.pool import ArrowPool, Pool
from arrowpool.stats import Stats
from arrowpool.stats_rows import WorkerStats
from arrowpool.timeline import Trace

if TYPE_CHECKING:
    from arrowpool.shelf import (
        Info,
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

    __version__: str

__all__ = [
    "ArenaFullError",
    "ArrowPool",
    "ArrowPoolError",
    "ForkedPoolError",
    "Health",
    "Info",
    "Pool",
    "PoolTerminatedError",
    "ProcessPoolExecutor",
    "Shelf",
    "ShelfKeyError",
    "Stats",
    "TaskExitError",
    "TaskTimeoutError",
    "Trace",
    "TransferError",
    "UnsupportedError",
    "WorkerInitError",
    "WorkerLostError",
    "WorkerStats",
    "__version__",
    "delete",
    "delete_all",
    "exists",
    "explain",
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
    "split",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    # The shelf imports pandas and pyarrow. A worker that needs neither should not wait for them.
    if name in __all__:
        from arrowpool import shelf

        return getattr(shelf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Version of the installed package; "0+unknown" in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"
