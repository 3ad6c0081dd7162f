"""Figures of a cluster's pool: what the client has sent and got, and the `Stats` of each node's local pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from arrowpool.stats import Stats


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """What a pool on a cluster has done so far.

    Attributes
    ----------
    tasks : int
        Tasks answered; a chunk of `map` is one task.
    batches : int
        Dask tasks that carried them.
    sent_bytes, received_bytes : int
        Bytes of arguments, with what is shared once for each node; and of results.
    lost_nodes : int
        Nodes that were there and are gone.
    processes : int
        Task processes of all nodes.
    nodes : Mapping[str, Stats]
        Figures of each node's local pool, by the address of the Dask worker.
    """

    tasks: int
    batches: int
    sent_bytes: int
    received_bytes: int
    lost_nodes: int
    processes: int
    nodes: Mapping[str, Stats] = field(default_factory=dict)

    @property
    def piped_bytes(self) -> int:
        """Bytes that moved, by the name that they have in `Stats`."""
        return self.sent_bytes + self.received_bytes

    @property
    def shared_bytes(self) -> int:
        """0: the nodes' shared memory is in the figures of the nodes."""
        return 0

    def __str__(self) -> str:
        head = (
            f"{self.tasks:,} tasks in {self.batches:,} batches on {len(self.nodes)} nodes with {self.processes} processes"
            f"{f', {self.lost_nodes} nodes gone' if self.lost_nodes else ''}\n"
            f"  sent      {self.sent_bytes / 1e6:,.1f} MB\n"
            f"  received  {self.received_bytes / 1e6:,.1f} MB\n"
            "node                            tasks    run  in shared memory"
        )
        lines = [
            f"{address:<28}{stats.tasks:>9,}{stats.run:>6.1f}s{stats.peak_bytes / 1e6:>10,.1f} MB at most"
            for address, stats in self.nodes.items()
        ]
        return "\n".join((head, *lines))

    __repr__ = __str__


@dataclass(slots=True)
class Counts:
    """Counts of the client. The feeder writes, other threads read: each is a number of its own."""

    tasks: int = 0
    batches: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    lost_nodes: int = 0
