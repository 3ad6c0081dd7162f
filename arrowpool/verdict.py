"""The verdict: whether a pool paid for its calls, why, and what would be faster. One rule, for `pool.stats()` and for `bench`.

Pure functions of figures. `bench` measures a loop and threads; a pool only knows how long its tasks ran, so it estimates: a loop
takes as long as all tasks together, and as the user's code that made the items.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

#: Two times whose ratio is smaller than this count as equal.
NOISE = 1.1
#: A task should run this long: many times the cost of a message.
TASK_SECONDS = 0.02
#: From so many bytes a task on, a task costs what its bytes cost, not what its message costs: larger tasks would not help.
_LARGE = 1 << 20
#: Tasks that compute for less than this share of their time wait: for a disk, the network, a lock.
_COMPUTING = 0.2
#: Shares of the time of the calls that are worth a remark.
_NOTABLE, _MOST = 0.3, 0.8


class Choice(enum.Enum):
    """What is fastest for some calls."""

    #: The pool, as it was used.
    POOL = enum.auto()
    THREADS = enum.auto()
    #: A loop: all tasks together are too short for any pool.
    LOOP = enum.auto()
    #: Fewer and larger tasks, since messages cost more than tasks; or a loop.
    LARGER_TASKS = enum.auto()
    #: More work in each task, since moving the data takes longer than the tasks; or a loop.
    MORE_WORK = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What some calls cost with a pool, and would cost without one.

    Attributes
    ----------
    serial, pool : float
        Seconds by a loop and by the pool.
    user, starting : float
        Seconds of these in which a loop, too, would make items, use results, cut a frame or join results; and in which the pool had no
        worker yet.
    threads : float or None
        Seconds by threads; None if they were not measured.
    tasks : int
        Number of tasks; a chunk is one task.
    workers : int
        Number of workers of the pool.
    nbytes : int
        Bytes moved, arguments and results together.
    computing : float or None
        The share of their time in which tasks computed. In the rest they waited. None if it is not known.
    """

    serial: float
    pool: float
    threads: float | None = None
    user: float = 0.0
    starting: float = 0.0
    tasks: int
    workers: int
    nbytes: int = 0
    computing: float | None = None

    @property
    def run(self) -> float:
        """Seconds of all tasks in a loop."""
        return self.serial - self.user

    @property
    def each(self) -> float:
        """Seconds of one task in a loop."""
        return self.run / self.tasks

    @property
    def waits(self) -> bool:
        """Whether the tasks mostly wait, which threads do as well as processes."""
        return self.computing is not None and self.computing < _COMPUTING


def choose(costs: Costs) -> Choice:
    """What is fastest for more such calls, of a pool whose workers have started."""
    threads = math.inf if costs.threads is None else costs.threads
    if costs.pool - costs.starting <= min(costs.serial, threads) * NOISE:
        return Choice.POOL
    if threads * NOISE < costs.serial or (costs.threads is None and costs.waits and costs.tasks > 1):
        return Choice.THREADS
    if costs.run < TASK_SECONDS * costs.workers:
        return Choice.LOOP
    if costs.each < TASK_SECONDS and costs.tasks > costs.workers and costs.nbytes < _LARGE * costs.tasks:
        return Choice.LARGER_TASKS
    return Choice.MORE_WORK


def larger_by(costs: Costs) -> int:
    """By which factor tasks should be larger, so that each runs long enough and each worker has one."""
    factor = max(2, min(math.ceil(TASK_SECONDS / costs.each), math.ceil(costs.tasks / costs.workers)))
    return int(float(f"{factor:.1g}"))


def gain(costs: Costs) -> str:
    """How the pool compares with a loop, as the end of "The calls were": ``about 1.7 times as fast as a plain loop``."""
    if costs.serial <= 0:
        return "slower: a plain loop would take next to no time"
    ratio = costs.serial / costs.pool
    if 1 / NOISE <= ratio <= NOISE:
        return "about as fast as a plain loop"
    if ratio > 1:
        return f"about {_times(ratio)} times as fast as a plain loop"
    return f"slower: a plain loop would be about {_times(1 / ratio)} times as fast"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Where the time of some calls went. Seconds.

    Attributes
    ----------
    costs : Costs
        Their costs; its `serial` is estimated.
    run, moved, waited : float
        Time of all workers together: in tasks; in moving data, also as long as this process kept them waiting with that; waiting.
    sending : float
        Time for which the pool's threads in this process were at work.
    delayed : float
        The part of `run` in which tasks waited for a processor.
    longest : float
        The longest task.
    lost : int
        Number of tasks that ended with their workers; `costs` counts them, too.
    lost_run : float
        The part of `run` that these took.
    framing : float
        The part of the costs' `user` that cutting frames and joining results took.
    """

    costs: Costs
    run: float
    moved: float
    waited: float
    sending: float = 0.0
    delayed: float = 0.0
    longest: float = 0.0
    lost: int = 0
    lost_run: float = 0.0
    framing: float = 0.0

    @property
    def is_comparable(self) -> bool:
        """Whether a loop would have done the same: not if no task was answered."""
        return self.costs.tasks > self.lost

    @property
    def choice(self) -> Choice:
        """What is fastest for more such calls. The pool, if that is not known."""
        return choose(self.costs) if self.is_comparable else Choice.POOL


def verdict(spent: Spent) -> str:
    """Where the time went, whether the pool paid, and what would be faster. A few sentences; empty without a task."""
    costs = spent.costs
    whole = spent.run + spent.moved + spent.waited
    if whole <= 0:
        return ""
    run, moved = round(100 * spent.run / whole), round(100 * spent.moved / whole)
    where = (
        f"In {show_seconds(costs.pool)} of calls, the workers spent {run}% of their time on tasks, {moved}% on moving data, "
        f"and {max(0, 100 - run - moved)}% waiting."
    )
    if spent.lost:
        what = "1 task ended with its worker" if spent.lost == 1 else f"{spent.lost:,} tasks ended with their workers"
        where += f" {what}, after {show_seconds(spent.lost_run)}, which count as time on tasks."
    return " ".join((where, f"The calls were {gain(costs)}.", *_advice(spent))) if spent.is_comparable else where


def _advice(spent: Spent) -> list[str]:
    costs = spent.costs
    choice = spent.choice
    crowded = spent.delayed > _NOTABLE * spent.run
    moving = spent.moved > spent.run - spent.delayed
    said: list[str] = []
    if choice in (Choice.LARGER_TASKS, Choice.MORE_WORK) and not moving:
        # Something else costs the time.
        if not crowded:
            larger = f"A task ran for {show_seconds(costs.each)}: do more in each task, or use a loop."
            said = _why_they_waited(spent) or [larger]
    elif choice is not Choice.POOL and not (crowded and choice is Choice.MORE_WORK):
        said = [_instead(costs, choice)]
    if crowded:
        share = spent.delayed / spent.run
        said.append(
            f"The tasks waited for a processor for {'most' if share > 0.9 else f'{share:.0%}'} of their time: fewer cores are free "
            "than there are workers (because of other programs, or of the limit of the container). Use fewer workers, or a loop."
        )
    if costs.starting > _NOTABLE * costs.pool:
        said.append(f"Starting the workers took {show_seconds(costs.starting)}: keep one pool for many calls.")
    elif choice is Choice.POOL and not said:
        whole = spent.run + spent.moved + spent.waited
        if spent.waited > _NOTABLE * whole:
            said += _why_they_waited(spent)
        elif spent.moved > _NOTABLE * whole and spent.sending > _MOST * costs.pool:
            said.append("This process was busy with sending and receiving all the time: more workers would not help.")
    return said


def _instead(costs: Costs, choice: Choice) -> str:
    ran = f"A task ran for {show_seconds(costs.each)}"
    if choice is Choice.THREADS:
        return f"{ran}, and waited for most of it (for a disk, the network, a lock): use threads, which move no data."
    if choice is Choice.LOOP:
        return f"All tasks together ran for {show_seconds(costs.run)}: use a loop."
    if choice is Choice.LARGER_TASKS:
        return (
            f"{ran}, less than its message takes: use fewer and larger tasks (a chunksize about {larger_by(costs):,} times as "
            "large), or a loop."
        )
    return (
        f"{ran}, less than moving its data takes: do more in each task, or use a loop; or threads, which move no data, if "
        "the tasks release the interpreter lock."
    )


def _why_they_waited(spent: Spent) -> list[str]:
    """One remark at most: the likeliest cause."""
    costs = spent.costs
    if spent.framing > _NOTABLE * costs.pool:
        return [
            f"Cutting the frame and joining the results took {show_seconds(spent.framing)} of that, which a loop does as well."
        ]
    if costs.user - spent.framing > _NOTABLE * costs.pool:
        return ["The workers waited for your code: for items of an iterable, or until results were read."]
    if costs.tasks < costs.workers:
        few = "was 1 task" if costs.tasks == 1 else f"were {costs.tasks} tasks"
        return [f"There {few} for {costs.workers} workers: use more and smaller tasks (a smaller chunksize)."]
    if spent.longest > costs.pool / 2 and costs.tasks > 1:
        return [
            f"The longest task took {show_seconds(spent.longest)}, while other workers waited: use smaller tasks (a smaller "
            "chunksize)."
        ]
    return []


def show_seconds(seconds: float) -> str:
    """A time with a unit and two or three significant digits: ``1.2 s``, ``15 ms``, ``20 us``."""
    if seconds >= 99.95:
        return f"{seconds:,.0f} s"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 0.9995:
            return (
                f"{seconds * factor:.0f} {unit}"
                if seconds * factor >= 9.95 and unit == "ms"
                else f"{seconds * factor:.1f} {unit}"
            )
    return f"{seconds * 1e6:.0f} us"
