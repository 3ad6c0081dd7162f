"""The state of one pool, for all of its threads: its phase, and the error that broke it, if any.

    STARTING --start--> RUNNING --close--> CLOSED --terminate--> TERMINATED --end--> ENDED
       |                   |                                        ^
       +------terminate----+----------------------------------------+

A pool can break in any phase: the first error stays, and every later call raises it. The phase does not change: a broken pool is
closed and terminated like any other.

Guarantees: no method takes a lock, except `wait`, so all others may be called in a finalizer. A phase is never left for an
earlier one. A move that the table does not have raises `IllegalMove` and changes nothing.

`ArrowPool._state`, the standard library's attribute, says what the *user* has done with the pool.
"""

from __future__ import annotations

import enum
import threading

from arrowpool.interrupts import slices


class Phase(enum.IntEnum):
    """The phases of a pool's life; later phases are greater."""

    STARTING = 0
    #: Calls are taken.
    RUNNING = 1
    #: No more calls are taken; those that were made are answered.
    CLOSED = 2
    #: No call is answered and no worker is started: the pool ends now.
    TERMINATED = 3
    #: No worker, thread or descriptor of the pool is left.
    ENDED = 4


class Move(enum.Enum):
    """A request to change the phase."""

    START = enum.auto()
    CLOSE = enum.auto()
    TERMINATE = enum.auto()
    END = enum.auto()


#: The phase after each legal move. A late move is legal and changes nothing: for example, Python's exit has terminated the pool
#: while another thread starts or closes it.
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
    """A defect of this package: a move that the phase does not allow."""


class PoolState:
    """Phase and first error of one pool, and the threads that have done their last work.

    Race: two moves at the same time, one of them in a finalizer, which cannot wait for a lock.

    1. Thread A closes the pool: it finds RUNNING, and so will note CLOSED.
    2. Thread B terminates it: it notes TERMINATED.
    3. Thread A notes CLOSED.

    The phase is the greatest that was noted: still TERMINATED. Verdict: the order of 2 and 3 does not matter.
    """

    #: Phases that were noted. Any thread appends and any thread reads: both are atomic, also on a free-threaded build.
    _noted: list[Phase]
    #: The first error. Written once, by the collector's thread only; read by any thread.
    _error: BaseException | None
    #: The error for calls that the workers leave behind, once the user has ended these: that is no loss, and none is replaced. Set by
    #: any thread, once; read by any thread.
    given_up: Exception | None
    #: Whether the feeder has sent its last message. Set by the feeder's thread, or by the thread that ends the pool if the feeder
    #: hangs; read by any thread. It only changes to True, so both threads may set it.
    sends_no_more: bool
    #: Whether the collector has read its last reply. Set by its thread, before it ends all calls for the last time; read by any
    #: thread.
    answers_no_more: bool

    def __init__(self) -> None:
        self._noted = [Phase.STARTING]
        self._error = None
        self.given_up = None
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
        """The error for all calls when no worker of this pool can run a task; None otherwise."""
        return self._error

    def move(self, move: Move) -> None:
        """Enter the phase that `move` leads to.

        Raises
        ------
        IllegalMove
            If the current phase does not allow the move.
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
        """Note the error for which no worker can run a task; return the first such error. For the collector's thread only."""
        if self._error is None:
            self._error = error
        return self._error

    def is_taking_calls(self) -> bool:
        """Whether more calls may come."""
        return self.phase <= Phase.RUNNING

    def describe(self) -> str:
        """The phase in one word, as for `Health.state`."""
        phase = self.phase
        return "running" if phase <= Phase.RUNNING else "closed" if phase is Phase.CLOSED else "terminated"

    def is_terminated(self) -> bool:
        return self.phase >= Phase.TERMINATED

    def has_ended(self) -> bool:
        """Whether no worker, thread or descriptor is left."""
        return self.phase is Phase.ENDED

    def wait(self) -> None:
        """Return when the pool has ended."""
        for seconds in slices(None):
            if self._ended.wait(seconds):
                return
