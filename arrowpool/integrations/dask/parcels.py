"""How plugins are sent: as text and bytes that any Python can read (see `guest`)."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

from arrowpool.integrations.dask import guest


def on_node(name: str, plugin: WorkerPlugin) -> WorkerPlugin:
    """A plugin for nodes: arrives as `plugin`, or as `guest.Refused`."""
    return _NodeParcel("load", name, guest.versions(), pickle.dumps(plugin, protocol=5))


def on_scheduler(name: str, client: str, durations: dict[str, str]) -> SchedulerPlugin:
    """A plugin for the scheduler, where arrowpool need not be installed."""
    return _SchedulerParcel("PoolPlugin", name, client, durations)


class _Parcel:
    def __init__(self, what: str, *args: Any):
        self._what = what
        self._args = args

    def __reduce__(self) -> tuple[Any, ...]:
        scope = {"__name__": guest.__name__}
        names = {"source": inspect.getsource(guest), "scope": scope, "what": self._what, "args": self._args}
        return eval, ("exec(source, scope) or scope[what](*args)", names)


class _NodeParcel(_Parcel, WorkerPlugin): ...


class _SchedulerParcel(_Parcel, SchedulerPlugin): ...
