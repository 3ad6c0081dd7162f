"""The client's end of the link to one node: two of Dask's connections. In the event loop of Dask's client.

The node asks before tasks begin (`Line.may_begin`), and the answer is given here: from then on the tasks count as begun. When one of the
connections ends, the link is over, for good: the node begins nothing any more, and interrupts what runs. So at its end it is known which
tasks have begun, and which have not and may go to other nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed.comm.core import connect
from distributed.protocol.serialize import to_serialize

from arrowpool.integrations.dask.events import Answered, Batch, Returned
from arrowpool.integrations.dask.node import NodeOptions

#: After the end of the control connection, outcomes that are on their way arrive within this time.
_LAST_SECONDS = 5.0


class LinkRefused(Exception):
    """The node cannot run tasks. The text says why."""


class Link:
    """The link to one node.

    Parameters
    ----------
    address : str
        Of the Dask worker.
    name : str
        Of the pool.
    options : NodeOptions
        Of the node's local pool.
    connection_args : dict
        Of Dask's client: TLS.
    report : callable
        Gets events for the feeder.
    running : callable
        Gets whether the node runs what it is given, when that changes.
    """

    def __init__(
        self,
        address: str,
        name: str,
        options: NodeOptions,
        connection_args: dict[str, Any],
        report: Callable[[Any], Any],
        running: Callable[[str, bool], None],
    ):
        self.address = address
        self._name = name
        self._options = options
        self._connection_args = connection_args
        self._report = report
        self._running = running
        self._control: Any = None
        self._outcomes: Any = None
        #: Batches that are sent to the node and not over.
        self.batches: dict[int, Batch] = {}
        self._tells: asyncio.Queue[Any] = asyncio.Queue()
        #: Done when the link is over.
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_draining = False

    async def open(self) -> dict[str, Any]:
        """Connect; return what the node says of itself.

        Raises
        ------
        OSError
            When the node cannot be reached.
        LinkRefused
            When it has no local pool.
        """
        self._control, hello = await self._connect("control")
        self._outcomes, _ = await self._connect("outcomes")
        return hello

    async def _connect(self, role: str) -> tuple[Any, dict[str, Any]]:
        comm = await connect(self.address, **self._connection_args)  # type: ignore[no-untyped-call]
        try:
            await comm.write({"op": self._name, "role": role})
            hello = await comm.read()
            if isinstance(hello, dict) and "wanted" in hello:
                await comm.write({"options": to_serialize(self._options)})  # type: ignore[no-untyped-call]
                hello = await comm.read()
        except BaseException:
            comm.abort()
            raise
        if isinstance(hello, dict) and "processes" in hello:
            return comm, hello
        comm.abort()
        if isinstance(hello, dict) and "error" in hello:
            raise LinkRefused(hello["error"])
        raise OSError("the pool is not there")  # not yet: Dask has the node before its plugins are set up

    async def listen(self) -> None:
        """Serve the link until it is over."""
        telling = asyncio.ensure_future(self._tell())
        outcomes = asyncio.ensure_future(self._read_outcomes())
        control = asyncio.ensure_future(self._read_control())
        try:
            await asyncio.wait((telling, control, outcomes), return_when=asyncio.FIRST_COMPLETED)
            control.cancel()  # nothing begins from now on
            await asyncio.wait((control,))
            await asyncio.wait((outcomes,), timeout=_LAST_SECONDS)
        finally:
            for task in (telling, outcomes, control):
                task.cancel()
            await asyncio.gather(telling, outcomes, control, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """End the link now."""
        for comm in (self._control, self._outcomes):
            if comm is not None:
                comm.abort()
        if not self.over.done():
            self.over.set_result(None)

    def tell(self, kind: str, content: Any) -> None:
        """Send the node a message."""
        self._tells.put_nowait((kind, content))

    def recall(self, batch: Batch) -> bool:
        """Let no more tasks of a batch begin. Return whether it is over by that: none of it has begun."""
        batch.recalled = True
        return not batch.begun

    async def _tell(self) -> None:
        while True:
            messages = [await self._tells.get()]
            while not self._tells.empty():
                messages.append(self._tells.get_nowait())
            await self._control.write(messages)

    async def _read_control(self) -> None:
        while True:
            for kind, *content in await self._control.read():
                if kind == "begin":
                    self._begin(*content)
                elif kind == "running":
                    self._running(self.address, content[0])
                elif kind == "draining":
                    self.is_draining = True
                    self._running(self.address, False)

    def _begin(self, number: int, batch_number: int, start: int, count: int) -> None:
        batch = self.batches.get(batch_number)
        permitted = batch is not None and not batch.recalled and start == batch.begun
        if batch is not None and permitted:
            batch.begun += count
        self._tells.put_nowait(("answer", number, permitted))

    async def _read_outcomes(self) -> None:
        while True:
            for kind, number, *content in await self._outcomes.read():
                batch = self.batches.get(number)
                if batch is None:
                    continue
                if kind == "outcomes":
                    start, done = content
                    if start + len(done.outcomes) == len(batch.items):
                        del self.batches[number]
                    self._report(Answered(batch, start, done))
                else:
                    del self.batches[number]
                    self._report(Returned(batch))
