"""Errors that only a pool on a cluster raises."""

from __future__ import annotations

from arrowpool.errors import ArrowPoolError, WorkerInitError, WorkerLostError


class NodeLostError(WorkerLostError):
    """A node was lost while it ran a task, and with it the processes of its local pool.

    Attributes
    ----------
    node : str
        Address of the Dask worker.
    task : str
        What it ran, such as ``compute on item 617 of 1,000``; of a chunk, all its items.
    index : int or None
        Index of the item, counted from 0. None for several items, and for `apply`.
    tries : int
        How often the task was run: more than once with ``retries``.
    """

    def __init__(self, node: str, task: str, index: int | None = None, tries: int = 1):
        super().__init__(-1, None, task, index, tries)
        self.args = node, task
        self.node = node

    def __str__(self) -> str:
        tried = f" (tried {self.tries} times)" if self.tries > 1 else ""
        return (
            f"node {self.node} was lost while it ran {self.task}{tried}; often the kernel or Dask's nanny has ended it for want of memory. "
            "See the Dask worker's log; give the pool `retries` if tasks may run twice."
        )


class NodeError(WorkerInitError):
    """A node cannot run tasks: arrowpool is not installed there, has another version, or the initializer fails.

    Attributes
    ----------
    node : str
        Address of the Dask worker.
    why : str
        The reason.
    """

    def __init__(self, node: str, why: str):
        super().__init__(node, why)
        self.node = node
        self.why = why

    def __str__(self) -> str:
        return f"node {self.node} cannot run tasks: {self.why}"


class ClusterLostError(ArrowPoolError, ConnectionError):
    """The client has lost the scheduler, and with it the pool's processes on all nodes."""
