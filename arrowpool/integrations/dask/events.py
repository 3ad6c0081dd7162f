"""What the feeder of a cluster's pool is told: by the threads that make calls, and by the links to the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from arrowpool.engine.calls import Blob, Call
from arrowpool.integrations.dask.sealed import Sealed
from arrowpool.integrations.dask.steps import Done
from arrowpool.transport.reducer import Seen


@dataclass(slots=True, eq=False)
class SealedFunction:
    """The function of a call in one of its states.

    Attributes
    ----------
    place : Sealed or int
        The function sealed; its number where it is placed as a shared object.
    shared : list of int
        Shared objects that it refers to.
    seen : Seen
        The function's objects, which payloads are reduced after.
    holds : int
        So many tasks have it and no outcome. Counted for functions that are placed, while user code may change the state.
    """

    place: Sealed | int
    shared: list[int]
    seen: Seen
    holds: int = 0


@dataclass(slots=True, eq=False)
class Item:
    """One sealed task: its call and its index there, its payload, its `Star`, the number of its items, its function (None where the
    payload has it), and how many nodes were lost while they ran it."""

    call: Call
    index: int
    payload: Sealed
    star: int
    count: int = 1
    function: SealedFunction | None = None
    losses: int = 0


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks of one call, with one function, that go to a node together.

    Attributes
    ----------
    shared : dict
        The shared objects that they refer to, by number.
    mean_seconds, measured : float or None, int
        Of a task of the call, as far as it is known; and from how many tasks.
    begun : int
        So many have begun. The event loop writes, the feeder reads it after an event that says that it changes no more.
    answered : int
        So many have their outcomes. For the feeder only.
    recalled : bool
        Whether no more may begin. For the event loop only.
    """

    number: int
    call: int
    label: str
    node: str
    mean_seconds: float | None
    measured: int
    #: The call's function; its number where it is placed as a shared object; None where each payload has its own.
    function: Sealed | int | None
    #: Shared objects that the function refers to.
    function_shared: list[int]
    items: list[Item]
    #: Of the items.
    nbytes: int
    shared: dict[int, Sealed] = field(default_factory=dict)
    begun: int = 0
    answered: int = 0
    recalled: bool = False

    @property
    def stars(self) -> list[int]:
        return [item.star for item in self.items]

    @property
    def counts(self) -> list[int]:
        """How many positions each task has: of items, or of groups."""
        return [
            1 if item.call.names is None else len(item.call.names.numbers(item.index, item.count))
            for item in self.items
        ]

    @property
    def payloads(self) -> list[Sealed]:
        return [item.payload for item in self.items]


class NodeJoined(NamedTuple):
    address: str
    nthreads: int
    processes: int
    running: bool


class NodeRuns(NamedTuple):
    """Whether a node runs what it is given: not while it is paused, nor when it is about to leave."""

    address: str
    running: bool


class NodeLeft(NamedTuple):
    address: str


class NodeRefused(NamedTuple):
    """A node cannot run tasks. Whether others can, or may be able to."""

    error: BaseException
    others: bool


class Answered(NamedTuple):
    """Outcomes of tasks of a batch, from the one with the index `start` of it."""

    batch: Batch
    start: int
    done: Done


class Returned(NamedTuple):
    """The batch is over. What has no outcome has not begun, and may go elsewhere."""

    batch: Batch


class NodeGone(NamedTuple):
    """The batch is over: its node was lost."""

    batch: Batch


class BatchFailed(NamedTuple):
    """The batch is over: Dask could not run it."""

    batch: Batch
    error: BaseException


class ClusterLost(NamedTuple):
    """No call can be answered."""

    error: BaseException


class Cancelled(NamedTuple):
    job: int
    error: BaseException | None


class Dropped(NamedTuple):
    job: int
    ends: bool


class Released(NamedTuple):
    """The block in which a user shares an object has ended."""

    blob: Blob


class Close(NamedTuple):
    """No more calls come: end when all have their results."""


class Halt(NamedTuple):
    """End now."""


class Look(NamedTuple):
    """There may be something to do: a result was read, a task was drawn."""
