"""The end of a pool, wherever it begins: in the user's thread, at Python's exit, or in one of the pool's own threads.

The last happens when code of the user's that such a thread runs (a callback, `__reduce__`, an iterator) calls `terminate`, or
when the garbage collector runs there, which any allocation can start.

Rule: a thread that the end waits for does not wait for the end. It gives the word, and leaves the rest to a thread that is
made for it, which is outside of the pool as any other is:

1. The word: no worker is started any more, no result is set, no call taken. It takes no lock, and is given when `terminate`
   returns.
2. The supervisor ends, then the workers, the collector and the feeder; each closes nothing.
3. Once none of them looks at a descriptor any more, all are closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from arrowpool.engine.collector import Collector
from arrowpool.engine.feeder import Feeder
from arrowpool.engine.state import Move, PoolState
from arrowpool.engine.supervisor import Notifier, Supervisor
from arrowpool.memory.grant import settle_forks
from arrowpool.threads import Service, tell
from arrowpool.transport.sender import Sender

_log = logging.getLogger(__name__)

#: Workers that have not ended this long after SIGTERM are killed, all together.
_TERMINATE_SECONDS = 5.0


class Ending:
    """Ends everything of one pool; called once, by `terminate`, after `join`, or when the pool is gone or Python exits.

    Holds no reference to the pool itself.
    """

    def __init__(
        self,
        *,
        state: PoolState,
        supervisor: Supervisor,
        feeder: Feeder,
        collector: Collector,
        sender: Sender,
        notifier: Notifier,
    ):
        self._state = state
        self._supervisor = supervisor
        self._feeder = feeder
        self._collector = collector
        self._sender = sender
        self._notifier = notifier

    def __call__(self) -> None:
        self._state.move(Move.TERMINATE)
        self._notifier.wake()
        self._feeder.halt()
        self._collector.halt()
        own = self.own_service()
        if own is None:
            self._end()
        elif not _Elsewhere(self._end).try_start():
            own.do_last(self._end)

    def own_service(self) -> Service | None:
        """The supervisor, feeder or collector, if the current thread is its own or one that works for it."""
        return next((one for one in (self._supervisor, self._feeder, self._collector) if one.is_here()), None)

    def _end(self) -> None:
        try:
            self._end_and_close()
        finally:
            self._state.move(Move.END)

    def _end_and_close(self) -> None:
        # The supervisor first, so that no worker is started behind our back.
        self._supervisor.join()
        self._supervisor.end_workers(_TERMINATE_SECONDS)
        self._collector.join()
        # It may be held up in what pickles an argument, where nothing can reach it; its memory must then stay.
        if self._feeder.join(_TERMINATE_SECONDS):
            self._sender.close()
        else:
            self._feeder.refuse()
            tell(_log.warning, "pickling what was given to a pool still blocks after the pool was terminated")
        self._collector.close()
        self._supervisor.close()  # what the collector has not heard of
        self._notifier.close()
        # What was only kept because these workers, when they were forked, could see it.
        settle_forks()


class _Elsewhere(Service):
    """Does one thing, in a thread of its own."""

    def __init__(self, do: Callable[[], None]):
        super().__init__("arrowpool-ending")
        self._do = do

    def run(self) -> None:
        self._do()
