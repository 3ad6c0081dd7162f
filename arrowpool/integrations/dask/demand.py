"""Lets Dask's scheduler know of the tasks that wait in the client, so that an adaptive cluster grows for them.

Dask's `Adaptive` sizes a cluster by the tasks that the scheduler has: by their number, and by the seconds that they are expected to take
(`Scheduler.adaptive_target`). Of a pool, the scheduler has few, since the window of each node is small. So stand-ins are submitted for
what waits: Dask tasks that never run, because they ask for a resource that no node has. Their names say how long each is expected to
take: `DURATIONS`, which `guest.PoolPlugin` sets on the scheduler (``distributed.scheduler.default-task-durations``).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

#: Expected seconds of the shortest stand-ins: Dask's own guess for tasks that it does not know.
SHORTEST_SECONDS = 0.5
_LENGTHS = 16
#: Each costs the scheduler a fraction of a millisecond.
_MOST = 1000
#: Fewer changes than this share of the stand-ins are not made.
_CHANGE = 1 / 8
_RESOURCE = "arrowpool-stand-in"


class Waiting(NamedTuple):
    """What waits in the client: how many tasks a node's threads could take at a time, and how long they take one after the other."""

    tasks: int
    seconds: float


NOTHING = Waiting(0, 0.0)


def _prefix(length: int) -> str:
    # Dask takes the letters before the first number for the name of a task.
    return f"arrowpool-waiting-{chr(ord('a') + length)}"


#: By the name of the stand-ins, how long each is expected to take.
DURATIONS = {_prefix(length): f"{SHORTEST_SECONDS * 2**length:g} s" for length in range(_LENGTHS)}


def stand_ins(waiting: Waiting, before: int = 0) -> tuple[int, int]:
    """The length and number of the stand-ins for what waits.

    Their number is at most that of the tasks: Dask starts no more threads than there are tasks.

    Parameters
    ----------
    waiting : Waiting
        What waits.
    before : int
        The length until now. It stays if it is not too far off.

    Returns
    -------
    (int, int)
        The length is that of the names in `DURATIONS`: each is twice as long as the one before.
    """
    if not waiting.tasks:
        return before, 0
    shortest = waiting.seconds / min(waiting.tasks, _MOST)
    needed = min(max(0, math.ceil(math.log2(max(shortest, SHORTEST_SECONDS) / SHORTEST_SECONDS))), _LENGTHS - 1)
    length = before if needed <= before <= needed + 1 else needed
    return length, min(max(1, math.ceil(waiting.seconds / (SHORTEST_SECONDS * 2**length))), _MOST)


class Demand:
    """The stand-ins of one pool. In the event loop of Dask's client.

    Parameters
    ----------
    client : Client
        Dask's client.
    name : str
        Of the pool: a part of its keys.
    """

    def __init__(self, client: Any, name: str):
        self._client = client
        self._name = name
        self._numbers = itertools.count()
        self._length = 0
        #: Futures of the stand-ins.
        self._futures: list[Any] = []

    def adjust(self, waiting: Waiting) -> None:
        """Have as many stand-ins as what waits asks for."""
        length, count = stand_ins(waiting, self._length)
        # Dask ends tasks that no node can run, where it is configured to (``no-workers-timeout``).
        kept = [future for future in self._futures if future.status == "pending"] if length == self._length else []
        for future in set(self._futures).difference(kept):
            future.release()
        self._futures, self._length = kept, length
        if count and abs(count - len(kept)) <= _CHANGE * len(kept):
            return
        for future in kept[count:]:
            future.release()
        del kept[count:]
        missing = count - len(kept)
        if missing:
            keys = [f"{_prefix(length)}-{next(self._numbers)}-{self._name}" for _ in range(missing)]
            kept += self._client.map(int, range(missing), key=keys, pure=False, resources={_RESOURCE: 1})
