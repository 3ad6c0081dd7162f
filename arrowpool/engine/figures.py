"""The figures of a pool: puts `Stats` together from the counters and books of its parts."""

from __future__ import annotations

from collections.abc import Callable

from arrowpool.engine.metrics import Metrics
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.memory.lease import live_leases_of
from arrowpool.stats import Stats
from arrowpool.transport.sender import Sender


class Figures:
    """What a pool has done so far. For any thread: reads only.

    Parameters
    ----------
    size : int
        Number of workers of the pool.
    metrics : Metrics
        Has the counters.
    sender : Sender
        Has the books of the arguments' arena.
    workers : list of WorkerHandle
        The workers that are ready: see `Parts`.
    released : callable
        What the leases of this pool's results report their end to.
    """

    def __init__(
        self,
        *,
        size: int,
        metrics: Metrics,
        sender: Sender,
        workers: list[WorkerHandle],
        released: Callable[[int], None],
    ):
        self._size = size
        self._metrics = metrics
        self._sender = sender
        self._workers = workers
        self._released = released

    def stats(self) -> Stats:
        """The figures of this moment. Parts of it may be of moments a little apart."""
        metrics, sender, workers = self._metrics, self._sender, list(self._workers)
        lifecycle = sender.lifecycle
        live_results, live_result_bytes = live_leases_of(self._released)
        times, of_workers = metrics.times(workers), metrics.workers(workers)
        busy = metrics.busy.seconds()
        return Stats(
            tasks=metrics.tasks,
            piped_bytes=metrics.sent_bytes + metrics.piped_bytes,
            shared_bytes=sender.shared_bytes + metrics.shared_bytes,
            copies=sender.copies + metrics.copies,
            copies_saved=metrics.copies_saved + sender.lent,
            saved_bytes=metrics.saved_bytes + sender.lent_bytes,
            live_segments=len(lifecycle.live),
            live_bytes=lifecycle.bytes_live,
            peak_segments=lifecycle.peak_segments,
            peak_bytes=lifecycle.peak_bytes,
            live_results=live_results,
            live_result_bytes=live_result_bytes,
            lost=metrics.lost_workers,
            lost_tasks=metrics.lost_tasks,
            lost_run=metrics.lost_run,
            replaced=metrics.replaced,
            timeouts=metrics.timeouts,
            cancelled=metrics.cancelled,
            refused=metrics.refused + metrics.shares_refused,
            size=self._size,
            seconds=busy,
            decode=times.decode,
            run=times.run,
            running=sum(one.running for one in of_workers),
            encode=times.encode,
            cpu=times.cpu,
            delayed=times.delayed,
            sending=metrics.acting,
            framing=metrics.framing,
            user=metrics.drawing + metrics.held_back.seconds(),
            starting=busy if metrics.starting is None else metrics.starting,
            workers=of_workers,
            slowest=metrics.slowest(),
            pickled=metrics.reasons(),
        )
