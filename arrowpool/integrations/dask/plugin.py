"""The plugin by which Dask starts and ends what a pool has on a node; and the Dask tasks that use it.

`NodePlugin` is on every Dask worker, also on those that join later and those that are started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import Any

from distributed import get_worker
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin

from arrowpool.integrations.dask.line import Line
from arrowpool.integrations.dask.node import Node, NodeOptions
from arrowpool.integrations.dask.sealed import Sealed
from arrowpool.integrations.dask.steps import NodeTask
from arrowpool.stats import Stats

#: What runs on a node that is closed has so long to end. Dask's nanny waits about as long.
_DRAIN_SECONDS = 25.0


class PoolGone(RuntimeError):
    """The pool has ended on this node."""


class NodePlugin(WorkerPlugin):
    """Connects a Dask worker with the client, and has a local pool there from the first connection until the worker ends."""

    def __init__(self, name: str):
        self.name = name
        # For the event loop's thread only, but `node` and `line`, which Dask tasks read: each is set before the client sends one.
        self.node: Node | None = None
        self.line: Line | None = None
        self._starting: asyncio.Lock | None = None
        self._ended = False

    def setup(self, worker: Any) -> None:
        self._worker = worker
        self._starting = asyncio.Lock()
        worker.handlers[self.name] = _handler(weakref.ref(self))

    async def serve(self, comm: Any, role: str) -> Any:
        """Serve a connection of the client."""
        if role == "control":
            await comm.write({"wanted": "options"})
            options = (await comm.read())["options"]
            try:
                self.line = await self._start(options)
            except Exception as error:
                return {"error": f"its local pool cannot be started: {type(error).__name__}: {error}"}
        assert self.line is not None, "the client opens the control connection first"
        return await self.line.serve(comm, role)

    async def _start(self, options: NodeOptions) -> Line:
        worker = self._worker
        assert self._starting is not None
        async with self._starting:
            if self.node is None and not self._ended:
                self.node = await asyncio.to_thread(Node, options, worker.state.nthreads)
        node = self.node
        if node is None or self._ended:
            raise PoolGone("the pool has ended there")
        hello = {
            "nthreads": worker.state.nthreads,
            "processes": node.processes,
            "running": worker.status == Status.running,
        }
        return Line(worker, hello, node.tell, node.interrupt)

    async def teardown(self, worker: Any) -> None:
        self._ended = True
        worker.handlers.pop(self.name, None)
        assert self._starting is not None
        async with self._starting:
            node, self.node = self.node, None
        line, self.line = self.line, None
        if node is None:
            return
        if line is not None and not line.over:
            line.drain()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drained(node, line), _DRAIN_SECONDS)
        await asyncio.to_thread(node.end)

    async def _drained(self, node: Node, line: Line) -> None:
        await asyncio.to_thread(node.wait_idle, _DRAIN_SECONDS)
        await line.flush()


def _handler(plugin: weakref.ref[NodePlugin]) -> Any:
    """What serves connections for a plugin. Dask keeps each handler for as long as the Dask worker lives, but not the plugin."""

    async def serve(comm: Any, role: str) -> Any:
        found = plugin()
        if found is None:
            return {"error": "the pool has ended there"}
        return await found.serve(comm, role)

    return serve


def _plugin(name: str) -> tuple[Node, Line]:
    plugin = get_worker().plugins.get(name)
    node, line = getattr(plugin, "node", None), getattr(plugin, "line", None)
    if node is None or line is None:
        raise PoolGone("the pool has ended on this node")
    return node, line


# Dask tasks.


def place(name: str, number: int, sealed: Sealed) -> None:
    node, _ = _plugin(name)
    node.place(number, sealed)


def run_batch(
    name: str,
    batch: int,
    call: int,
    pace: tuple[float | None, int],
    function: Sealed | int | None,
    function_shared: list[int],
    stars: list[int],
    counts: list[int],
    payloads: list[Sealed],
) -> None:
    node, line = _plugin(name)
    tasks = [NodeTask(*one) for one in zip(payloads, stars, counts, strict=True)]
    node.run_batch(line, batch, call, pace, function, function_shared, tasks)


# For `Client.run`.


def stats(name: str, dask_worker: Any) -> Stats | None:
    node = getattr(dask_worker.plugins.get(name), "node", None)
    return None if node is None else node.stats()
