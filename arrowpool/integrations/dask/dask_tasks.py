"""Batches and shared objects as Dask tasks: sends them to a node, and waits for their end. In the event loop of Dask's client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from arrowpool.integrations.dask import plugin
from arrowpool.integrations.dask.events import Batch
from arrowpool.integrations.dask.link import Link
from arrowpool.integrations.dask.sealed import Sealed

#: Larger arguments go directly to the node, not through the scheduler; smaller ones save a round trip.
_DIRECT_BYTES = 64 << 10


_CANCELLED = asyncio.CancelledError, concurrent.futures.CancelledError


class DaskTaskCancelled(Exception):
    """Somebody has cancelled a task of Dask, or restarts the cluster."""


class DaskTasks:
    """The Dask tasks of one pool.

    Parameters
    ----------
    client : Client
        Dask's client.
    name : str
        Of the pool: the prefix of its keys.
    spawn : callable
        Starts a coroutine that ends with the pool.
    """

    def __init__(self, client: Any, name: str, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]):
        self._client = client
        self._name = name
        self._spawn = spawn
        self._keys = itertools.count()
        #: Shared objects that are placed, or are being placed, on a node.
        self._placed: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: What is on its way to nodes. Here, so that it goes on if nobody waits for it.
        self._scattering: set[asyncio.Future[Any]] = set()
        #: Bytes of shared objects that were sent. The event loop writes, other threads read: it is one number.
        self.placed_bytes = 0

    async def run(self, link: Link, batch: Batch) -> BaseException | None:
        """Run a batch; return the error for which Dask has not run it. The link brings its outcomes."""
        for number, shared in batch.shared.items():
            await self._place(batch.node, number, shared)
        payloads: Any = batch.payloads
        if batch.nbytes >= _DIRECT_BYTES:
            payloads = await self._scatter(payloads, batch.node)
        pace = batch.mean_seconds, batch.measured
        arguments = pace, batch.function, batch.function_shared, batch.stars, batch.counts, payloads
        future = self._submit(batch.node, plugin.run_batch, batch.label, batch.number, batch.call, *arguments)
        try:
            return await self._error(future)
        finally:
            future.release()

    async def _scatter(self, data: Any, node: str) -> Any:
        """Send data to a node; return Dask's futures.

        If this is cancelled, the data is sent nevertheless, and released then: of data that is there already, the scheduler might never
        learn, and it would stay on the node.
        """
        sending = asyncio.ensure_future(
            self._client.scatter(data, workers=[node], direct=True, hash=False, asynchronous=True)
        )
        self._scattering.add(sending)
        sending.add_done_callback(self._scattered)
        return await asyncio.shield(sending)

    def _scattered(self, sending: asyncio.Future[Any]) -> None:
        self._scattering.discard(sending)
        if not sending.cancelled():
            sending.exception()  # it may be that nobody waits for it

    def _submit(self, node: str, function: Any, label: str, *args: Any) -> Any:
        # Dask takes the letters before the first number for the name of a task: the label, which its dashboard shows.
        key = f"{label}-{self._name}-{next(self._keys)}"
        return self._client.submit(function, self._name, *args, key=key, workers=[node], pure=False)

    async def _error(self, future: Any) -> BaseException | None:
        """Wait for a Dask task; return its error."""
        error: BaseException | None = await future.exception(asynchronous=True)
        # Not as a CancelledError, which ends the coroutine that raises it.
        if isinstance(error, _CANCELLED) or (error is None and future.status != "finished"):
            return DaskTaskCancelled(f"the Dask task is {future.status}")
        return error

    async def _place(self, node: str, number: int, sealed: Sealed) -> None:
        """Place a shared object on a node, unless it is there, or on its way."""
        key = node, number
        if key not in self._placed:
            self._placed[key] = self._spawn(self._do_place(node, number, sealed))
        try:
            await asyncio.shield(self._placed[key])
        except Exception:
            self._placed.pop(key, None)
            raise

    async def _do_place(self, node: str, number: int, sealed: Sealed) -> None:
        argument: Any = sealed
        self.placed_bytes += sealed.nbytes
        if sealed.nbytes >= _DIRECT_BYTES:
            argument = await self._scatter(sealed, node)
        future = self._submit(node, plugin.place, "place", number, argument)
        try:
            error = await self._error(future)
        finally:
            future.release()
        if error is not None:
            raise error

    async def take_back(self, numbers: list[int]) -> list[tuple[str, int]]:
        """Forget where these objects are placed; return the nodes and numbers."""
        keys = [key for key in self._placed if key[1] in numbers]
        placing = [self._placed.pop(key) for key in keys]
        await asyncio.gather(*placing, return_exceptions=True)
        return keys

    def leave(self, node: str) -> None:
        """A node is lost, with all that is placed there."""
        for key in [key for key in self._placed if key[0] == node]:
            self._placed.pop(key).cancel()
