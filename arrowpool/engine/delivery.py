"""Delivery: sends encoded tasks to a worker in one frame, with the blobs that the worker does not have, and leases."""

from __future__ import annotations

import contextlib
import time

from arrowpool.engine.calls import Task
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError
from arrowpool.transport import protocol
from arrowpool.transport.protocol import Grants
from arrowpool.transport.sender import Sender


class Delivery:
    """Sends tasks. Used by the acting thread (see `mailbox`).

    Parameters
    ----------
    sender : Sender
        Grants leases of the segments that tasks refer to.
    reclaim : Reclaim
        Gets memory back for copies, when a worker cannot read memory that other processes own.
    """

    def __init__(self, sender: Sender, reclaim: Reclaim):
        self._sender = sender
        self._reclaim = reclaim
        #: Bytes that went through pipes. The acting thread adds; any thread reads.
        self.piped_bytes = 0

    def send(self, worker: WorkerHandle, tasks: list[Task]) -> None:
        """Send tasks of one function to a worker, in one frame.

        Raises
        ------
        ArenaFullError
            When there is no memory for a copy, or the worker holds too many leases. Nothing is sent then.
        """
        sender = self._sender
        blobs = tasks[0].blobs
        if any(task.blobs is not blobs for task in tasks):
            blobs = tuple(dict.fromkeys(blob for task in tasks for blob in task.blobs))
        new = [blob for blob in blobs if blob.number not in worker.known_blobs]
        if not worker.may_borrow:
            self._bring_in(tasks)
        blob_grants: list[tuple[int, Grants]] = []
        items: list[protocol.TaskWire] = []
        try:
            for blob in blobs:
                if blob.parcel.segments:
                    blob_grants.append((blob.number, sender.grant(blob.parcel, worker)))
            for task in tasks:
                parcel = task.parcel
                items.append((task.plain or parcel.body, sender.grant(parcel, worker) if parcel.segments else ()))
        except ArenaFullError:
            for _, grants in (*blob_grants, *items):
                sender.revoke(grants, worker)
            raise
        if blob_grants or tasks[0].parcel.segments:
            worker.control.arguments = sender.use(worker)
        first = worker.sent
        worker.sent += len(tasks)
        worker.outstanding.update(zip(range(first, worker.sent), tasks, strict=True))
        worker.last_frame = len(tasks)
        worker.pace = tasks[0].call.mean_seconds or 0.0
        worker.progress = (time.monotonic(), worker.control.started)
        if new:
            worker.known_blobs.update(blob.number for blob in new)
        message = protocol.frame(
            new_blobs=[(blob.number, blob.stateless, blob.parcel.body) for blob in new],
            forgotten=worker.to_forget,
            function=blobs[0].number,
            star=tasks[0].star,
            blob_grants=blob_grants,
            first=first,
            tasks=items,
        )
        worker.to_forget.clear()
        # If the worker is gone, the collector returns its tasks, or fails those that it had begun.
        with contextlib.suppress(OSError):
            self.piped_bytes += worker.channel.send(message)

    def _bring_in(self, tasks: list[Task]) -> None:
        """Copy memory that the tasks borrow from other processes. Borrow none from now on."""
        sender, relieve = self._sender, self._reclaim.relieve
        sender.lends = False
        for task in tasks:
            for blob in task.blobs:
                blob.parcel = sender.bring_in(blob.parcel, relieve)
        for task in tasks:
            task.parcel = sender.bring_in(task.parcel, relieve)
