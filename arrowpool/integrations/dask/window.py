"""Which node gets the next batch: the least loaded one, within a window of batches and bytes. Pure: no IO, no clock, no thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Bytes of arguments on their way to a node, or waiting there, before it gets no more. A single batch may be larger.
WINDOW_BYTES = 256 << 20
#: One runs, one waits behind it, so that no thread is idle between two, and one is on its way.
BATCHES_PER_THREAD = 3


@dataclass(slots=True, eq=False)
class Load:
    """A node, as the client sees it. For the feeder only.

    Attributes
    ----------
    address : str
        Of the Dask worker.
    nthreads : int
        How many batches it runs at a time.
    processes : int
        How many tasks it runs at a time.
    batches : int
        Number of batches that were sent and have no outcome.
    nbytes : int
        Their bytes.
    is_running : bool
        Whether it runs what it is given: not while Dask pauses it, nor when it is about to leave.
    """

    address: str
    nthreads: int
    processes: int
    batches: int = 0
    nbytes: int = 0
    is_running: bool = True

    @property
    def may_get_more(self) -> bool:
        """Whether the window of this node has room."""
        if not self.is_running or self.batches >= BATCHES_PER_THREAD * self.nthreads:
            return False
        return not self.batches or self.nbytes < WINDOW_BYTES

    @property
    def processes_per_slot(self) -> int:
        return -(-self.processes // self.nthreads)


def least_loaded(nodes: Iterable[Load]) -> Load | None:
    """The node for the next batch; None when all have enough."""
    free = [node for node in nodes if node.may_get_more]
    return min(free, key=lambda node: (node.batches / node.nthreads, node.nbytes), default=None)
