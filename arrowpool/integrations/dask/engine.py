"""The engine of a cluster's pool: what `CallMethods` needs of an engine, on Dask.

Assembles the feeder, the thread that sets results, and the links to the cluster; starts and ends them. Does not refer to the pool, so a
pool that the user drops is collected, and its finalizer ends the engine.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import pool as stdlib
from multiprocessing import util
from typing import Any

from distributed import Client

from arrowpool.engine.calls import Call, Share, Snapshot
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.recorder import Activity
from arrowpool.errors import PoolTerminatedError
from arrowpool.integrations.dask import events
from arrowpool.integrations.dask.deliveries import Deliveries
from arrowpool.integrations.dask.feeder import Feeder
from arrowpool.integrations.dask.links import Links
from arrowpool.integrations.dask.node import NodeOptions
from arrowpool.integrations.dask.sealer import Sealer
from arrowpool.integrations.dask.stats import ClusterStats, Counts
from arrowpool.threads import Service

#: At exit, the nodes' pools have so long to end.
_EXIT_SECONDS = 30.0


class ClusterEngine:
    """All parts of one pool in the client's process.

    Parameters
    ----------
    client : Client
        Dask's client.
    sealer : Sealer
        Takes tasks apart.
    options : NodeOptions
        Of the local pools.
    """

    def __init__(self, client: Client, sealer: Sealer, options: NodeOptions, retries: int):
        self.name = f"arrowpool-{uuid.uuid4().hex[:12]}"
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.notifier = _Silent()
        self.cache: dict[int, Any] = stdlib._PoolCache(notifier=self.notifier)  # type: ignore[attr-defined]
        self._sealer = sealer
        self._open_calls = OpenCalls(self.cache)
        self._deliveries = Deliveries(self._open_calls)
        self._links = Links(client, self.name, options, self.inbox.put)
        #: The first error for which no call can be answered. Any thread of the pool writes it once; any thread reads it.
        self._error: BaseException | None = None
        self._counts = Counts()
        self._feeder = Feeder(
            inbox=self.inbox,
            sealer=sealer,
            deliveries=self._deliveries,
            open_calls=self._open_calls,
            links=self._links,
            retries=retries,
            counts=self._counts,
            broken=self._break,
        )
        self._ending = _Ending(self._feeder, self._end)
        #: Set by the ending's thread when all parts have ended; any thread waits for it.
        self._ended = threading.Event()

    @property
    def error(self) -> BaseException | None:
        return self._error

    @property
    def processes(self) -> int:
        """Task processes of all nodes now; at least 1."""
        return max(self._feeder.processes, 1)

    def start(self) -> None:
        """Start the local pools, and the threads."""
        self._links.begin()
        for service in (self._feeder, self._deliveries, self._ending):
            service.start()

    def _break(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._deliveries.end_all(error)

    def submit(self, call: Call) -> None:
        """Run a call whose result object is in the cache. For the race with the end, see `Engine.submit`."""
        self.inbox.put(call)
        if self._error is not None:
            self._deliveries.end_all(self._error)
        if self._ended.is_set():
            self._open_calls.end_all(PoolTerminatedError("the pool was terminated before the call had its result"))

    def cancel(self, job: int, error: BaseException | None) -> None:
        self.inbox.put(events.Cancelled(job, error))

    def drop(self, job: int, ends: bool) -> None:
        self.inbox.put(events.Dropped(job, ends))

    def snapshot(
        self, function: Callable[..., Any], args: Any, kwds: Mapping[str, Any], shares: Sequence[Share]
    ) -> Snapshot | None:
        return self._sealer.snapshot(function, args, kwds, shares)

    def framed(self, activity: Activity, began: int) -> None:
        """Frames that are cut and joined in the client have no place in the nodes' figures."""

    def share(self, share: Share) -> None:
        self._sealer.share(share)
        share.placed.set_result(None)

    def unshare(self, share: Share) -> None:
        if share.blob is not None:
            self.inbox.put(events.Released(share.blob))

    def stats(self, *, of_nodes: bool = True) -> ClusterStats:
        """The figures of the pool so far. Asks the nodes for theirs."""
        counts = self._counts
        nodes = self._links.stats() if of_nodes and not self._ended.is_set() else {}
        return ClusterStats(
            counts.tasks,
            counts.batches,
            counts.sent_bytes + self._links.placed_bytes,
            counts.received_bytes,
            counts.lost_nodes,
            self._feeder.processes,
            nodes,
        )

    def close(self) -> None:
        self.inbox.put(events.Close())

    def is_own_thread(self) -> bool:
        return any(one.is_here() for one in (self._feeder, self._deliveries, self._ending)) or self._links.is_here()

    def halt(self) -> None:
        """Have all parts end now. Takes no lock and does not wait, so it may be called in a finalizer; but waits at exit."""
        self.inbox.put(events.Halt())
        self._open_calls.halt()
        if util.is_exiting():
            self._ended.wait(_EXIT_SECONDS)

    def terminate(self) -> None:
        """End all parts now. Waits for that, except in a thread that has a part in it."""
        self.halt()
        if not self.is_own_thread():
            self.wait()

    def _end(self) -> None:
        """End what is left when the feeder has ended."""
        try:
            self._deliveries.stop()
            self._links.end()
            self._deliveries.join(5.0)
        finally:
            self._ended.set()
            error = self._error or PoolTerminatedError("the pool was terminated before the call had its result")
            self._open_calls.end_all(error)

    def drain(self) -> None:
        """Return when all calls have their results, after `close`."""
        self._feeder.join()

    def settle(self) -> None:
        """Return when all results that are there are set."""
        done = threading.Event()
        self._deliveries.do(done.set)
        while not done.wait(0.1):
            if self._ended.is_set():
                return

    def wait(self) -> None:
        """Return when all parts have ended."""
        while not self._ended.wait(0.1):
            pass


class _Silent:
    """Nobody waits for the end of the last call."""

    def put(self, _: object) -> None: ...


class _Ending(Service):
    """Ends all other parts when the feeder has ended: a thread of its own, so that no finalizer has to wait or take a lock."""

    def __init__(self, feeder: Feeder, end: Callable[[], None]):
        super().__init__("arrowpool-ending")
        self._feeder = feeder
        self._end = end

    def run(self) -> None:
        self._feeder.join()
        self._end()
