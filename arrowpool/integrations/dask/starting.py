"""The start of a node's task processes.

A Dask worker under a nanny is a daemonic process, which the standard library does not allow to have children. Its workers are started
while that flag is off. They are never forked: a Dask worker has many threads.
"""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

#: Held by the thread that has switched the flag off.
_starting = threading.Lock()


class _Process(SpawnProcess):
    def start(self) -> None:
        config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
        with _starting:
            daemon = config.pop("daemon", None)
            try:
                super().start()
            finally:
                if daemon is not None:
                    config["daemon"] = daemon


class NodeContext(SpawnContext):
    """Starts new programs, also from a daemonic process."""

    Process = _Process
