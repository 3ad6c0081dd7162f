"""The judge: logs, once, that a pool made calls slower."""

from __future__ import annotations

import logging
from collections.abc import Callable

from arrowpool.engine.clock import Clock
from arrowpool.stats import Stats
from arrowpool.threads import tell
from arrowpool.verdict import Choice, gain

_log = logging.getLogger(__name__)

#: Calls of so many seconds are judged together: shorter ones are not worth a word. A busy machine makes any pool slow for a second.
_SECONDS = 5.0
#: How many times as fast a loop must be. The time of a loop is an estimate.
_MARGIN = 1.5
#: Whether it was said. Once per process. Written by the acting threads of all pools (see `mailbox`), only to True.
_said = False


def be_silent() -> None:
    """Judge no pool of this process."""
    global _said
    _said = True


class Judge:
    """Looks at the calls of a pool each time none is left. For the acting thread.

    Parameters
    ----------
    busy, held_back : Clock
        Run while there are calls, and while one of them is held back.
    figures : callable
        Returns the figures of the pool so far.
    """

    def __init__(self, busy: Clock, held_back: Clock, figures: Callable[[], Stats]):
        self._busy = busy
        self._held_back = held_back
        self._figures = figures
        #: The figures of the last judgement, before the calls that were not judged yet.
        self._before = Stats()

    def rested(self) -> None:
        """No call is left: judge those since the last judgement, if they took long enough."""
        self._busy.stop()
        self._held_back.stop()  # the call may have been cancelled
        if not _said and self._busy.seconds() - self._before.seconds >= _SECONDS:
            after = self._figures()
            self._judge(after.since(self._before))
            self._before = after

    def _judge(self, calls: Stats) -> None:
        global _said
        spent = calls.spent
        if spent is None or spent.choice is Choice.POOL:
            return
        # Without the start of the workers, which a pool pays for once.
        seconds = spent.costs.pool - spent.costs.starting
        if seconds >= _SECONDS and seconds > _MARGIN * spent.costs.serial:
            _said = True
            tell(_log.warning, "calls of an arrowpool.Pool were %s; pool.stats() says why", gain(spent.costs))
