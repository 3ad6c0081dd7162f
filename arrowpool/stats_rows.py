"""What a pool has done, in rows: of one worker, one slow task, one reason for pickling. `Stats` has a tuple of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Where one worker's time went.

    Attributes
    ----------
    pid : int
        Process id of the worker.
    tasks : int
        Tasks that the worker answered.
    seconds : float
        Seconds since the worker started.
    decode, run, encode : float
        Seconds spent on rebuilding arguments, on running tasks, and on placing results. The worker waited for the rest. `run` has
        the whole time of a task that ended with the worker.
    running : float
        Seconds for which the task has run that it runs now.
    cpu : float
        Seconds that the worker has computed, in all of its threads, since it was ready.
    alive : bool
        Whether the worker was running when the figures were taken.
    """

    pid: int
    tasks: int
    seconds: float
    decode: float
    run: float
    encode: float
    alive: bool
    cpu: float = 0.0
    running: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds that the worker waited."""
        return max(0.0, self.seconds - self.decode - self.run - self.running - self.encode)

    def since(self, before: WorkerStats | None) -> WorkerStats:
        """What the worker has done since `before`, its earlier figures."""
        if before is None:
            return self
        names = ("tasks", "seconds", "decode", "encode", "cpu")
        grown = {name: getattr(self, name) - getattr(before, name) for name in names}
        run, running = ran_since(self, before)
        return dataclasses.replace(self, run=run, running=running, **grown)


@dataclass(frozen=True, slots=True)
class SlowTask:
    """One of the slowest tasks.

    Attributes
    ----------
    function : str
        Name of the function.
    index : int
        Index in the call of its item; of the first one, if the task is a chunk.
    seconds : float
        Seconds that it ran.
    items : str
        What it ran on: ``item 617 of 1,000``, ``items 600 to 649 of 1,000``. Empty for `apply`.
    ended : str
        How its worker ended, if the task ended with it: ``was killed for time``. Its index, items and seconds are then those of the
        items that ran last. Empty for other tasks.
    """

    function: str
    index: int
    seconds: float
    items: str = ""
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Pickled:
    """Objects that were not shared, for one reason, in messages of 32 kB or more.

    Attributes
    ----------
    why : str
        The reason, such as ``column 'x': object dtype with int, str``, or, where nothing is wrong,
        ``DataFrame: small ones travel in the stream``.
    count, nbytes : int
        Number of objects, and bytes of their pickles.
    """

    why: str
    count: int
    nbytes: int

    def since(self, before: Pickled | None) -> Pickled:
        """What was counted since `before`, earlier figures of the same reason."""
        if before is None:
            return self
        return Pickled(self.why, self.count - before.count, self.nbytes - before.nbytes)


class _Ran(Protocol):
    @property
    def run(self) -> float: ...

    @property
    def running(self) -> float: ...


def ran_since(after: _Ran, before: _Ran) -> tuple[float, float]:
    """The seconds of `run` and of `running` since `before`, when a part of a task may have run already."""
    whole = max(0.0, after.run + after.running - before.run - before.running)
    running = min(after.running, whole)
    return whole - running, running
