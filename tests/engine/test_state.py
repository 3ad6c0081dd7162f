"""The state of a pool: every phase with every move, the first error. No process."""

from __future__ import annotations

import itertools
import threading

import pytest

from arrowpool.engine.state import MOVES, IllegalMove, Move, Phase, PoolState

#: The moves that lead to each phase.
WAYS = {
    Phase.STARTING: (),
    Phase.RUNNING: (Move.START,),
    Phase.CLOSED: (Move.START, Move.CLOSE),
    Phase.TERMINATED: (Move.START, Move.TERMINATE),
    Phase.ENDED: (Move.START, Move.TERMINATE, Move.END),
}


def state_in(phase):
    state = PoolState()
    for move in WAYS[phase]:
        state.move(move)
    assert state.phase is phase
    return state


@pytest.mark.parametrize(("phase", "move"), list(itertools.product(Phase, Move)), ids=lambda one: one.name)
def test_every_move_in_every_phase(phase, move):
    state = state_in(phase)
    after = {
        Move.START: {Phase.STARTING: Phase.RUNNING, Phase.TERMINATED: Phase.TERMINATED},
        Move.CLOSE: {
            Phase.RUNNING: Phase.CLOSED,
            Phase.CLOSED: Phase.CLOSED,
            Phase.TERMINATED: Phase.TERMINATED,
            Phase.ENDED: Phase.ENDED,
        },
        Move.TERMINATE: {
            Phase.STARTING: Phase.TERMINATED,
            Phase.RUNNING: Phase.TERMINATED,
            Phase.CLOSED: Phase.TERMINATED,
            Phase.TERMINATED: Phase.TERMINATED,
            Phase.ENDED: Phase.ENDED,
        },
        Move.END: {Phase.TERMINATED: Phase.ENDED},
    }[move].get(phase)
    if after is None:
        with pytest.raises(IllegalMove, match=f"{phase.name} cannot {move.name}"):
            state.move(move)
        assert state.phase is phase, "an illegal move changes nothing"
    else:
        state.move(move)
        assert state.phase is after


def test_no_move_leads_back():
    assert all(after >= phase for (phase, _), after in MOVES.items())


@pytest.mark.parametrize("phase", list(Phase), ids=lambda one: one.name)
def test_what_the_threads_ask(phase):
    state = state_in(phase)
    assert state.is_taking_calls() == (phase in (Phase.STARTING, Phase.RUNNING))
    assert state.is_terminated() == (phase in (Phase.TERMINATED, Phase.ENDED))


@pytest.mark.parametrize("phase", list(Phase), ids=lambda one: one.name)
def test_the_first_error_stays(phase):
    state = state_in(phase)
    assert state.error is None
    first, second = OSError("first"), ValueError("second")
    assert state.break_with(first) is first
    assert state.break_with(second) is first
    assert state.error is first
    assert state.phase is phase
    assert "first" in repr(state)


def test_a_move_that_was_decided_before_a_later_phase():
    """Closing is noted after a termination that came in between: the pool stays terminated."""

    class Interrupted(PoolState):
        """Is terminated between the look at the phase and the note of the next one."""

        between = None

        @property
        def phase(self):
            found = super().phase
            act, self.between = self.between, None
            if act is not None:
                act()
            return found

    state = Interrupted()
    state.move(Move.START)
    state.between = lambda: state.move(Move.TERMINATE)
    state.move(Move.CLOSE)
    assert state.phase is Phase.TERMINATED
    assert state._noted[-1] is Phase.CLOSED


def test_waiting_for_the_end():
    state = state_in(Phase.TERMINATED)
    waiting = threading.Thread(target=state.wait, daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    state.move(Move.END)
    waiting.join(10)
    assert not waiting.is_alive()
