"""The end of a pool. It begins in the user's thread, at Python's exit, or in one of the pool's own threads.

It begins in one of the pool's own threads when user code there (a callback, `__reduce__`, an iterator) calls `terminate`, or when
the garbage collector runs there, which any allocation can start.

Rule: a thread that the end waits for does not wait for the end. It does step 1, and leaves the others to a new thread, which is not
one of the pool's:

1. Stop: start no worker, set no result, take no call. This step takes no lock, and is complete when `terminate` returns.
2. End the supervisor, then the workers, the collector and the feeder. None of them closes a descriptor.
3. Close all descriptors, when no thread uses them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from arrowpool.engine.collector import Collector
from arrowpool.engine.feeder import Feeder
from arrowpool.engine.state import Move, PoolState
from arrowpool.engine.supervisor import Supervisor
from arrowpool.memory.forks import settle_forks
from arrowpool.threads import Service, tell
from arrowpool.transport.sender import Sender

_log = logging.getLogger(__name__)

#: Workers that have not ended this long after SIGTERM are killed, all together.
_TERMINATE_SECONDS = 5.0


class Ending:
    """Ends all parts of one pool. Called once: by `terminate` or `join`, when the pool is collected, or when Python exits.

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
    ):
        self._state = state
        self._supervisor = supervisor
        self._feeder = feeder
        self._collector = collector
        self._sender = sender

    def __call__(self) -> None:
        self._state.move(Move.TERMINATE)
        self._supervisor.wake()
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
        # The supervisor first: it starts workers.
        self._supervisor.join()
        self._supervisor.end_workers(_TERMINATE_SECONDS)
        self._collector.join()
        # The feeder may be blocked in user code that pickles an argument. Then the sender's memory must stay.
        if self._feeder.join(_TERMINATE_SECONDS):
            self._sender.close()
        else:
            self._feeder.refuse()
            tell(_log.warning, "the pool was terminated, but code that pickles one of its arguments still blocks")
        self._collector.close()
        self._supervisor.close()  # also for workers that the collector did not get
        # Free the memory that was kept because these workers saw it when they were forked.
        settle_forks()


class _Elsewhere(Service):
    """Runs one function in a new thread."""

    def __init__(self, do: Callable[[], None]):
        super().__init__("arrowpool-ending")
        self._do = do

    def run(self) -> None:
        self._do()
