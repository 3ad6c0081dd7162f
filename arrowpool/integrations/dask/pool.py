"""The pool on a Dask cluster: made and ended here. Its calls and their results are those of the local pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import pool as stdlib
from multiprocessing import util
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from distributed import Client, get_client

from arrowpool.arguments import check, integer
from arrowpool.engine.calls import Share
from arrowpool.frame_methods import FrameMethods
from arrowpool.guard import leave_if_unguarded
from arrowpool.integrations.dask.engine import ClusterEngine
from arrowpool.integrations.dask.errors import ClusterLostError, NodeError, NodeLostError
from arrowpool.integrations.dask.executor import ClusterExecutor
from arrowpool.integrations.dask.node import NodeOptions
from arrowpool.integrations.dask.sealer import Sealer
from arrowpool.integrations.dask.stats import ClusterStats
from arrowpool.interrupts import check_process

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ClusterLostError", "DaskPool", "NodeError", "NodeLostError", "Pool"]

_T = TypeVar("_T")

#: In how many parts a call is cut at least.
_LEAST_PARTS = 64


class DaskPool(FrameMethods):
    """`multiprocessing.Pool` on a Dask cluster. On each node, the tasks run in the processes of a local arrowpool.

    Parameters
    ----------
    client : distributed.Client, optional
        The default is the current client.
    processes : int, optional
        Number of task processes on each node. The default is the number of the Dask worker's threads.
    initializer, initargs, maxtasksperchild
        As for `multiprocessing.pool.Pool`.
    retries : int
        How many times a task is run again after its node or its process was lost; for tasks that may run twice.
    task_timeout, max_bytes, spill_dir
        As for `ArrowPool`, on each node.

    Examples
    --------
    >>> from distributed import Client  # doctest: +SKIP
    >>> with Client("tcp://scheduler:8786") as client, Pool(client) as pool:  # doctest: +SKIP
    ...     pool.map(abs, [-1, -2, -3])
    [1, 2, 3]
    """

    _state = INIT
    _engine: Any

    def __init__(
        self,
        client: Client | None = None,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        retries: int = 0,
        task_timeout: float | None = None,
        max_bytes: SupportsIndex | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
    ):
        self._state = INIT
        self._pid = os.getpid()
        self._pool: list[Any] = []
        self._shares = {}
        nbytes = integer(max_bytes)
        check(1 if processes is None else processes, initializer, maxtasksperchild, nbytes, retries, task_timeout)
        leave_if_unguarded("spawn")  # nodes in this process start task processes, which import the script
        client = get_client() if client is None else client
        if not isinstance(client, Client):
            raise TypeError(f"the client is {client!r}, not a distributed.Client: Pool(Client(address), processes)")
        if client.asynchronous:
            raise ValueError("the pool needs a client that is not asynchronous: make it with asynchronous=False")
        sealer = Sealer()
        options = NodeOptions(
            processes=processes,
            initializer=None if initializer is None else sealer.initializer(initializer, tuple(initargs)),
            maxtasksperchild=maxtasksperchild,
            max_bytes=nbytes,
            spill_dir=None if spill_dir is None else os.fspath(spill_dir),
            retries=retries,
            task_timeout=task_timeout,
        )
        self._engine = engine = ClusterEngine(client, sealer, options, retries)
        self._cache = engine.cache
        self._taskqueue = engine.inbox
        self._change_notifier = engine.notifier
        engine.start()
        self._terminate = util.Finalize(self, engine.halt, exitpriority=15)
        self._state = RUN

    @property
    def _processes(self) -> int:  # type: ignore[override]
        return self._engine.processes  # type: ignore[no-any-return]

    def _parts(self) -> int:
        # Nodes may join while the call runs. Small parts cost little: those that are short share a batch.
        return max(super()._parts(), _LEAST_PARTS)

    def __enter__(self) -> Self:
        check_process(self._pid)
        stdlib.Pool._check_running(self)  # type: ignore[attr-defined]
        return self

    def close(self) -> None:
        """Take no more calls. The local pools end when all calls are answered, and the pool is joined."""
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End the pool at once, and all its local pools."""
        self._state = TERMINATE
        if self._pid == os.getpid():
            self._terminate()
            self._engine.terminate()

    def join(self) -> None:
        """Wait until all calls are answered and all local pools have ended. Call `close` or `terminate` first."""
        check_process(self._pid)
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._engine.is_own_thread():
            raise RuntimeError("a pool cannot be joined in a callback, or elsewhere in its own threads")
        if self._state == CLOSE:
            self._engine.drain()
            self._engine.settle()
        self._terminate()
        self._engine.wait()

    @contextlib.contextmanager
    def share(self, obj: _T) -> Iterator[_T]:
        """Send an object once to each node, for all calls in the ``with`` block. As `ArrowPool.share`."""
        self._check_running()
        share = Share(obj)
        self._engine.share(share)
        try:
            self._shares[share] = None
            yield obj
        finally:
            self._shares.pop(share, None)
            self._engine.unshare(share)

    def executor(self) -> ClusterExecutor:
        """Return a `concurrent.futures.Executor` whose calls are those of this pool. Its end does not end the pool."""
        self._check_running()
        return ClusterExecutor(self)

    def stats(self) -> ClusterStats:
        """Return the figures of the pool so far, with the `Stats` of each node's local pool."""
        return self._engine.stats()  # type: ignore[no-any-return]

    def _figures(self) -> ClusterStats:
        """As `stats`, without the nodes' figures. For progress bars."""
        return self._engine.stats(of_nodes=False)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} processes={self._processes}>"


Pool = DaskPool
