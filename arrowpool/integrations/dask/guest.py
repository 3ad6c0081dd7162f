"""What arrives first on a scheduler and on a node, as text: it runs with any Python, and where arrowpool is not installed.

    client -- text, versions, sealed plugin --> `load` -- the versions fit --> the plugin
                                                      \\-- they do not     --> `Refused`, which says why

An object whose module cannot be imported would stop a Dask worker that starts. So what is sent refers to nothing but builtins; and only
the standard library and distributed are imported here.
"""

from __future__ import annotations

import asyncio
import importlib
import pickle
import sys
from typing import Any

import dask
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

_DURATIONS = "distributed.scheduler.default-task-durations"


def versions() -> dict[str, str]:
    """Versions that have to be equal in the client and on all nodes."""
    try:
        from importlib.metadata import version

        arrowpool = version("arrowpool")
    except Exception:  # a source tree on the path
        arrowpool = "unknown"
    return {"Python": ".".join(map(str, sys.version_info[:2])), "arrowpool": arrowpool}


def load(name: str, wanted: dict[str, str], plugin: bytes) -> WorkerPlugin:
    """The plugin of a node, or one that answers why this node cannot have it."""
    try:
        importlib.import_module("arrowpool.integrations.dask")
    except Exception as error:
        return Refused(
            name,
            f"arrowpool cannot be imported there: {type(error).__name__}: {error}. Install arrowpool[dask] on all nodes.",
        )
    here = versions()
    differences = [f"{key} {here[key]}, the client {wanted[key]}" for key in wanted if here[key] != wanted[key]]
    if differences:
        return Refused(
            name, f"it has {'; '.join(differences)}. Use the same environment on all nodes and in the client."
        )
    loaded: WorkerPlugin = pickle.loads(plugin)
    return loaded


class Refused(WorkerPlugin):
    """On a node that cannot run tasks: answers why."""

    def __init__(self, name: str, why: str):
        self.name = name
        self._why = why

    def setup(self, worker: Any) -> None:
        worker.handlers[self.name] = self.answer

    def teardown(self, worker: Any) -> None:
        worker.handlers.pop(self.name, None)

    async def answer(self, comm: Any, role: str) -> dict[str, str]:
        return {"error": self._why}


class PoolPlugin(SchedulerPlugin):
    """On the scheduler: reports nodes that come and go to the client. Ends the pool when the client is gone.

    `durations` says how long tasks of some names are expected to take: see `demand`.
    """

    def __init__(self, name: str, client: str, durations: dict[str, str]):
        self.name = name
        self._client = client
        self._durations = durations
        self._ending: Any = None

    async def start(self, scheduler: Any) -> None:
        known = dask.config.get(_DURATIONS, {})
        dask.config.set({_DURATIONS: {**known, **self._durations}})
        for address in list(scheduler.workers):
            self.add_worker(scheduler, address)

    def add_worker(self, scheduler: Any, worker: str) -> None:
        scheduler.log_event(self.name, {"action": "add-worker", "worker": worker})

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
        scheduler.log_event(self.name, {"action": "remove-worker", "worker": worker})

    def remove_client(self, scheduler: Any, client: str) -> None:
        if client == self._client:
            self._ending = asyncio.get_running_loop().create_task(self._end(scheduler))

    async def _end(self, scheduler: Any) -> None:
        if self.name in scheduler.worker_plugins:
            await scheduler.unregister_worker_plugin(None, self.name)
        if self.name in scheduler.plugins:
            await scheduler.unregister_scheduler_plugin(self.name)
