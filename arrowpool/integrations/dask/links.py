"""The cluster, as one pool sees it: links to all nodes, and the coroutines that send batches over Dask.

In the event loop of Dask's client. The feeder starts what is here (`send`, `recall`, `cancel`, `forget`), and gets `events`. No code of the
user's runs here: what is sent was sealed before, and what comes back is opened elsewhere.

Dask does not report tasks that are bound to a lost node. The end of the node's link does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from arrowpool.errors import said
from arrowpool.integrations.dask import plugin
from arrowpool.integrations.dask.dask_tasks import DaskTaskCancelled, DaskTasks
from arrowpool.integrations.dask.demand import DURATIONS, NOTHING, Demand, Waiting
from arrowpool.integrations.dask.errors import ClusterLostError, NodeError
from arrowpool.integrations.dask.events import (
    Batch,
    BatchFailed,
    ClusterLost,
    NodeGone,
    NodeJoined,
    NodeLeft,
    NodeRefused,
    NodeRuns,
    Returned,
)
from arrowpool.integrations.dask.link import Link, LinkRefused
from arrowpool.integrations.dask.node import NodeOptions
from arrowpool.integrations.dask.parcels import on_node, on_scheduler
from arrowpool.stats import Stats

#: Ending the pools of all nodes takes no longer, unless a node hangs.
_END_SECONDS = 30.0
#: A node that the scheduler has is linked within this time: its local pool starts, and it can be reached. If it cannot, it is tried
#: again, at least so often.
_LINK_SECONDS = 60.0
_TRY_AGAIN_SECONDS = 5.0
#: A node that leaves says within this time that it drains; else it is lost.
_LEAVE_SECONDS = 5.0
#: How often the connection to the scheduler is looked at: Dask's client has no event for its loss.
_WATCH_SECONDS = 0.2


def _weak(method: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A handler of Dask's client, which keeps handlers for as long as it lives: this one does not keep what it is a method of."""
    reference = weakref.WeakMethod(method)

    def handle(event: Any) -> None:
        found = reference()
        if found is not None:
            found(event)

    return handle


class Links:
    """The cluster, for one pool.

    Parameters
    ----------
    client : Client
        Dask's client.
    name : str
        Of the pool: its plugins, its topic of events, the prefix of its keys.
    options : NodeOptions
        Of the local pools.
    report : callable
        Gets events for the feeder. Called in the client's event loop.
    """

    def __init__(self, client: Any, name: str, options: NodeOptions, report: Callable[[Any], Any]):
        self._client = client
        self._name = name
        self._options = options
        self._report = report
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        #: The client's connection to the scheduler: Dask makes another one when it is lost for a moment.
        self._connection: Any = client.scheduler_comm
        # All below is for the event loop's thread only.
        #: Nodes that the scheduler has. Each with a future: None when it was linked first, an error when it cannot be.
        self._present: dict[str, asyncio.Future[BaseException | None]] = {}
        #: Why some of them cannot run tasks.
        self._refused: dict[str, NodeError] = {}
        self._nodes: dict[str, Link] = {}
        #: When an event of a node came last, by the scheduler's clock: events that are read again are older.
        self._heard: dict[str, float] = {}
        #: By node and number, batches whose Dask task has not ended. That of a batch which has all its outcomes may never end: its node
        #: drains, and Dask waits for another node with this address.
        self._sending: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = False
        self._dask_tasks = DaskTasks(client, name, self._spawn)
        self._demand = Demand(client, name)

    # From any thread

    def begin(self) -> None:
        """Start the local pools on all nodes, and on those that come later.

        Raises
        ------
        NodeError
            When a node cannot run tasks.
        Exception
            What Dask has raised.
        """
        client = self._client
        client.subscribe_topic(self._name, _weak(self._on_event))
        try:
            client.register_plugin(on_node(self._name, plugin.NodePlugin(self._name)), name=self._name)
            client.register_plugin(on_scheduler(self._name, client.id, DURATIONS), name=self._name)
            beginning = asyncio.run_coroutine_threadsafe(self._begin(), self._loop)
            try:
                error = beginning.result()
            finally:
                beginning.cancel()
            if error is not None:
                raise error
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the local pools of all nodes, and all coroutines."""
        if self._loop.is_closed() or self._client.status == "closed":
            return
        with contextlib.suppress(RuntimeError):
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            with contextlib.suppress(Exception, concurrent.futures.CancelledError):
                ending.result(_END_SECONDS)

    def expect(self, waiting: Waiting) -> None:
        """Let Dask know what waits here: an adaptive cluster grows for it."""
        self._do(self._expect, waiting)

    @property
    def placed_bytes(self) -> int:
        """Bytes of shared objects that were sent."""
        return self._dask_tasks.placed_bytes

    def stats(self) -> dict[str, Stats]:
        """The figures of the nodes' local pools. Nodes that leave meanwhile are left out."""
        nodes = list(self._nodes)
        found = self._client.run(plugin.stats, self._name, workers=nodes, on_error="ignore") if nodes else {}
        return {address: stats for address, stats in found.items() if stats is not None}

    def is_here(self) -> bool:
        """Whether the current thread is that of the event loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def send(self, batch: Batch) -> None:
        """Have a batch run. Events say what becomes of it."""
        self._do(self._send, batch)

    def recall(self, batches: Sequence[Batch]) -> None:
        """Let no more tasks of these begin. They are returned, or answered."""
        self._do(self._recall, batches)

    def cancel(self, call: int) -> None:
        """Interrupt what runs of a call, and let no more of it begin."""
        self._do(self._cancel, call)

    def forget(self, numbers: Sequence[int]) -> None:
        """Release shared objects on all nodes."""
        if numbers:
            self._do(lambda numbers: self._spawn(self._forget(numbers)), list(numbers))

    def _do(self, act: Callable[[Any], Any], argument: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the client is gone
            self._loop.call_soon_threadsafe(act, argument)

    # In the event loop

    def _expect(self, waiting: Waiting) -> None:
        if not self._ended:
            self._demand.adjust(waiting)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin(self) -> BaseException | None:
        """Link all nodes that are there; return the error of one that cannot be."""
        # The subscription and the plugin went two ways: an event may have come before the first.
        for event in await self._client.get_events(self._name):
            self._on_event(event)
        self._spawn(self._watch())
        for linked in await asyncio.gather(*self._present.values()):
            if linked is not None:
                return linked
        return None

    def _on_event(self, event: Any) -> None:
        seconds, message = event
        address = message["worker"]
        if seconds <= self._heard.get(address, 0.0):
            return
        self._heard[address] = seconds
        if message["action"] == "add-worker" and address not in self._present and not self._ended:
            linked = self._present[address] = self._loop.create_future()
            self._spawn(self._keep_linked(address, linked))
        elif message["action"] == "remove-worker":
            gone = self._present.pop(address, None)
            if gone is not None and not gone.done():
                gone.set_result(None)
            self._refused.pop(address, None)
            link = self._nodes.get(address)
            if link is not None:
                self._runs(address, False)
                self._loop.call_later(_LEAVE_SECONDS, self._close_unless_draining, link)

    def _close_unless_draining(self, link: Link) -> None:
        if not link.is_draining:
            link.close()

    async def _watch(self) -> None:
        """Look whether the scheduler is lost."""
        while not self._is_lost():
            await asyncio.sleep(_WATCH_SECONDS)

    def _is_lost(self) -> bool:
        """Whether the scheduler is lost; reports that, and ends all links.

        Reconnecting is of no use: the scheduler ends the pools of a client that it has lost, or has ended itself. Dask's client may have
        done so since this looked last.
        """
        status = self._client.status
        if status == "running" and self._client.scheduler_comm is self._connection:
            return False
        if not self._ended:
            self._ended = True
            why = "Dask's client is closed" if status in ("closing", "closed") else "the scheduler is lost"
            text = f"{why}: the pool has ended on all nodes. Make a new pool with a client that is connected."
            self._report(ClusterLost(ClusterLostError(text)))
            for link in self._nodes.values():
                link.close()
        return True

    async def _keep_linked(self, address: str, linked: asyncio.Future[BaseException | None]) -> None:
        """Link a node for as long as the scheduler has it."""
        deadline, pause = self._loop.time() + _LINK_SECONDS, 0.05
        while self._present.get(address) is linked:
            link = Link(address, self._name, self._options, self._client.connection_args, self._report, self._runs)
            try:
                hello = await asyncio.wait_for(link.open(), _LINK_SECONDS)
            except (OSError, asyncio.TimeoutError, LinkRefused) as error:
                link.close()
                if self._present.get(address) is not linked:
                    break
                is_final = isinstance(error, LinkRefused)
                if is_final or (self._loop.time() >= deadline and address not in self._refused):
                    self._refuse(address, linked, error)
                if is_final:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _TRY_AGAIN_SECONDS)
                continue
            except BaseException:
                link.close()
                raise
            self._nodes[address] = link
            self._refused.pop(address, None)
            self._report(NodeJoined(address, max(hello["nthreads"], 1), hello["processes"], hello["running"]))
            if not linked.done():
                linked.set_result(None)
            try:
                await link.listen()
            finally:
                self._left(link)
            deadline, pause = self._loop.time() + _LINK_SECONDS, 0.05
        if self._refused and not self._has_others():
            self._report(NodeRefused(next(iter(self._refused.values())), others=False))

    def _refuse(self, address: str, linked: asyncio.Future[BaseException | None], error: BaseException) -> None:
        if isinstance(error, LinkRefused):
            why = str(error)
        else:
            why = f"this client cannot reach it ({said(error)}). Clients connect with each Dask worker's own address."
        failure = NodeError(address, why)
        failure.__cause__ = error
        if not linked.done():
            linked.set_result(failure)
        self._refused[address] = failure
        self._report(NodeRefused(failure, self._has_others()))

    def _has_others(self) -> bool:
        """Whether there are nodes that can run tasks, or may be able to."""
        return not self._present.keys() <= self._refused.keys()

    def _left(self, link: Link) -> None:
        self._is_lost()  # that is reported first: a node ends with its scheduler
        del self._nodes[link.address]
        self._dask_tasks.leave(link.address)
        for key in [key for key in self._sending if key[0] == link.address]:
            self._sending.pop(key).cancel()
        for batch in list(link.batches.values()):
            self._over(link, batch)
            self._report(NodeGone(batch))
        self._report(NodeLeft(link.address))

    def _runs(self, address: str, running: bool) -> None:
        self._report(NodeRuns(address, running))

    def _over(self, link: Link, batch: Batch) -> None:
        link.batches.pop(batch.number, None)
        sending = self._sending.pop((link.address, batch.number), None)
        if sending is not None:
            sending.cancel()

    def _send(self, batch: Batch) -> None:
        link = self._nodes.get(batch.node)
        if link is None or self._ended:
            self._report(NodeGone(batch))
            return
        link.batches[batch.number] = batch
        self._sending[link.address, batch.number] = self._spawn(self._run(link, batch))

    def _recall(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            link = self._nodes.get(batch.node)
            if link is not None and batch.number in link.batches and link.recall(batch):
                self._over(link, batch)
                self._report(Returned(batch))

    def _cancel(self, call: int) -> None:
        for link in self._nodes.values():
            batches = [batch for batch in link.batches.values() if batch.call == call]
            if batches:
                link.tell("cancel", call)
                self._recall(batches)

    async def _run(self, link: Link, batch: Batch) -> None:
        """Run a batch as a Dask task. The link brings its outcomes."""
        try:
            error = await self._dask_tasks.run(link, batch)
        except Exception as failure:
            error = failure
        finally:
            self._sending.pop((link.address, batch.number), None)
        if error is None or batch.number not in link.batches or self._is_lost():
            return
        # A lost node may be noticed here first, as a failed transfer or a cancelled task.
        await asyncio.wait((link.over,), timeout=1.0 if isinstance(error, (OSError, DaskTaskCancelled)) else 0.05)
        if batch.number not in link.batches or link.over.done():
            return
        if not link.recall(batch) and isinstance(error, DaskTaskCancelled):
            return  # what runs goes on there, and the link brings its outcomes
        del link.batches[batch.number]
        # Nothing begins where the pool has ended: the node is about to leave.
        is_returned = isinstance(error, (plugin.PoolGone, DaskTaskCancelled))
        self._report(Returned(batch) if is_returned else BatchFailed(batch, error))

    async def _forget(self, numbers: list[int]) -> None:
        for node, number in await self._dask_tasks.take_back(numbers):
            link = self._nodes.get(node)
            if link is not None:
                link.tell("forget", [number])

    async def _end(self) -> None:
        self._ended = True
        this = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not this]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client = self._client
        if client.status != "running":  # it would wait for a scheduler that is gone
            return
        self._demand.adjust(NOTHING)
        for unregister in (client.unregister_scheduler_plugin, client.unregister_worker_plugin):
            with contextlib.suppress(Exception):  # it was not registered, or the scheduler is gone
                await unregister(self._name)
        with contextlib.suppress(Exception):
            client.unsubscribe_topic(self._name)
