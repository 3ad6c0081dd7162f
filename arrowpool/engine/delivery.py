"""Delivery: sends encoded tasks to a worker in one frame, with the blobs that the worker does not have, and leases."""

from __future__ import annotations

import contextlib
import time

from arrowpool.engine.announcing import announce
from arrowpool.engine.calls import Task, name_of
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.naming import items_of
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.recorder import Activity, Link, Recorder
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
    metrics : Metrics
        Counts the bytes that go through pipes.
    recorder : Recorder
        Says whether the tasks are traced.
    """

    def __init__(self, sender: Sender, reclaim: Reclaim, metrics: Metrics, recorder: Recorder):
        self._sender = sender
        self._reclaim = reclaim
        self._metrics = metrics
        self._recorder = recorder

    def send(self, worker: WorkerHandle, tasks: list[Task]) -> None:
        """Send tasks of one function to a worker, in one frame.

        Raises
        ------
        ArenaFullError
            When there is no memory for a copy, or the worker holds too many leases. Nothing is sent then.
        """
        sender, began = self._sender, self._recorder.begin()
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
        announce(worker.control.announcements, first, tasks)
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
            traced=bool(began),
        )
        worker.to_forget.clear()
        # If the worker is gone, the collector returns its tasks, or fails those that it had begun.
        with contextlib.suppress(OSError):
            sent = worker.channel.send(message)
            self._metrics.sent_bytes += sent
            if began:
                task, link = tasks[0], Link(worker.process.pid or 0, first, len(tasks))
                more = f"{len(tasks):,} tasks from " if len(tasks) > 1 else ""
                item = f"{more}{items_of(task.call, task.index, task.count)}"
                self._recorder.note(Activity.SEND, began, name_of(task), item, sent, link)

    def _bring_in(self, tasks: list[Task]) -> None:
        """Copy memory that the tasks borrow from other processes. Borrow none from now on."""
        sender, relieve = self._sender, self._reclaim.relieve
        sender.lends = False
        for task in tasks:
            for blob in task.blobs:
                blob.parcel = sender.bring_in(blob.parcel, relieve)
        for task in tasks:
            task.parcel = sender.bring_in(task.parcel, relieve)
