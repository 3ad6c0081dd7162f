"""The state of one pool, for all of its threads: how far its life has got, and why it is broken, if it is.

    STARTING --start--> RUNNING --close--> CLOSED --terminate--> TERMINATED --end--> ENDED
       |                   |                                        ^
       +------terminate----+----------------------------------------+

A pool breaks in any phase: the first error stays, and every later call raises it. The phase is not touched by that: a broken
pool is closed and terminated like any other.

Guarantees: no method takes a lock, except `wait`, so all others may be called in a finalizer. A phase is never left for an
earlier one. A move that the table does not have raises `IllegalMove` and changes nothing.

What the *user* has done with the pool is `ArrowPool._state`, the standard library's own attribute.
"""

from __future__ import annotations

import enum
import threading

from arrowpool.interrupts import slices


class Phase(enum.IntEnum):
    """How far the life of a pool has got; later phases are greater."""

    STARTING = 0
    #: Calls are taken.
    RUNNING = 1
    #: No more calls are taken; those that were made are answered.
    CLOSED = 2
    #: Nothing is answered, no worker is started: everything ends now.
    TERMINATED = 3
    #: No worker, thread or descriptor of the pool is left.
    ENDED = 4


class Move(enum.Enum):
    """What somebody asks of a pool."""

    START = enum.auto()
    CLOSE = enum.auto()
    TERMINATE = enum.auto()
    END = enum.auto()


#: The phase after each legal move. What comes late (the pool was terminated, at Python's exit, while another thread was
#: starting or closing it) is legal and changes nothing.
MOVES: dict[tuple[Phase, Move], Phase] = {
    (Phase.STARTING, Move.START): Phase.RUNNING,
    (Phase.STARTING, Move.TERMINATE): Phase.TERMINATED,
    (Phase.RUNNING, Move.CLOSE): Phase.CLOSED,
    (Phase.RUNNING, Move.TERMINATE): Phase.TERMINATED,
    (Phase.CLOSED, Move.CLOSE): Phase.CLOSED,
    (Phase.CLOSED, Move.TERMINATE): Phase.TERMINATED,
    (Phase.TERMINATED, Move.START): Phase.TERMINATED,
    (Phase.TERMINATED, Move.CLOSE): Phase.TERMINATED,
    (Phase.TERMINATED, Move.TERMINATE): Phase.TERMINATED,
    (Phase.TERMINATED, Move.END): Phase.ENDED,
    (Phase.ENDED, Move.CLOSE): Phase.ENDED,
    (Phase.ENDED, Move.TERMINATE): Phase.ENDED,
}


class IllegalMove(RuntimeError):
    """A defect of this package: a pool was asked for what its phase does not allow."""


class PoolState:
    """Phase and first error of one pool, and which of its threads have done their last work.

    Two moves at the same time, one of them in a finalizer, which cannot wait for a lock:

    1. A closes the pool: it finds RUNNING, and so will note CLOSED.
    2. B terminates it: it notes TERMINATED.
    3. A notes CLOSED.

    The phase is the greatest that was noted: still TERMINATED. So the order of 2 and 3 does not matter.
    """

    #: Phases that were noted. Written by any thread, by `list.append` alone, and read by any: both are atomic, also on a
    #: free-threaded build.
    _noted: list[Phase]
    #: The first error. Written by the collector's thread alone, once; read by any.
    _error: BaseException | None
    #: Whether the feeder sends nothing any more. Set by the feeder's thread, or by the one that ends the pool if the feeder
    #: hangs; read by any. It is only ever set, so it does not matter that two threads may do so.
    sends_no_more: bool
    #: Whether the collector reads no reply any more. Set by its thread, before it ends all calls for the last time; read by any.
    answers_no_more: bool

    def __init__(self) -> None:
        self._noted = [Phase.STARTING]
        self._error = None
        self.sends_no_more = False
        self.answers_no_more = False
        #: Set after ENDED was noted.
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<PoolState {self.phase.name}{'' if self._error is None else f' broken: {self._error!r}'}>"

    @property
    def phase(self) -> Phase:
        return max(self._noted)

    @property
    def error(self) -> BaseException | None:
        """Why no worker of this pool can run a task; None while they can."""
        return self._error

    def move(self, move: Move) -> None:
        """Go on to the phase that `move` leads to.

        Raises
        ------
        IllegalMove
            If that is none from the present phase.
        """
        phase = self.phase
        after = MOVES.get((phase, move))
        if after is None:
            raise IllegalMove(f"a pool that is {phase.name} cannot {move.name}")
        if after > phase:
            self._noted.append(after)
        if after is Phase.ENDED:
            self._ended.set()

    def break_with(self, error: BaseException) -> BaseException:
        """No worker can run a task, for this reason; return the first such reason. By the collector's thread alone."""
        if self._error is None:
            self._error = error
        return self._error

    def is_taking_calls(self) -> bool:
        """Whether more calls may come."""
        return self.phase <= Phase.RUNNING

    def is_terminated(self) -> bool:
        return self.phase >= Phase.TERMINATED

    def wait(self) -> None:
        """Return when the pool has ended."""
        for seconds in slices(None):
            if self._ended.wait(seconds):
                return
