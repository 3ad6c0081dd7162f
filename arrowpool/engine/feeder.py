"""The feeder: takes calls apart into tasks, encodes them, and sends each to a worker that is free.

The one that encodes arguments (with `encoder`) and keeps the books of their arena, in one thread at a time: its own, or while
that sleeps, a source's which has something to send. Tasks are bound to a worker as late as possible:
some are encoded ahead, but none is sent behind a running one, except where tasks are measured to be short and go several
to a frame; those are taken back when the one before them turns out long. Bytes in flight stay within the budget: then it
waits for releases, and so a user's generator is consumed only as fast as workers make room. None of the user's iterators is
drawn in this thread (see `source`); what pickling an argument calls is the only code of the user's that runs in it.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import util
from typing import Any

from arrowpool.engine.budget import Budget, Verdict
from arrowpool.engine.calls import Blob, Call, Share, Task
from arrowpool.engine.encoder import Encoder, Unplaced
from arrowpool.engine.events import (
    Answered,
    Broken,
    Cancelled,
    Drawn,
    Failed,
    Hurry,
    Late,
    LookAgain,
    Read,
    Released,
    Returned,
    Short,
    Stop,
    Unshare,
    WorkerExited,
    WorkerJoined,
)
from arrowpool.engine.imap import Imap
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.reclaim import Reclaim
from arrowpool.engine.round_robin import Turns
from arrowpool.engine.scheduling import Recall, ahead_size, draw_size, frame_size, free_worker
from arrowpool.engine.snapshot import Snapshots
from arrowpool.engine.source import Source
from arrowpool.engine.state import PoolState
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import ArenaFullError, PoolTerminatedError, contained, said
from arrowpool.memory.limits import is_tight
from arrowpool.threads import Service
from arrowpool.transport import protocol
from arrowpool.transport.sender import Sender
from arrowpool.tuning import FRAME_BYTES, IDLE_SECONDS, PREFETCH_SECONDS, RECALL_SECONDS, WARM_SECONDS

#: How often to look again while waiting for what nobody reports: a lease that ends in a garbage collection.
_LOOK_AGAIN_SECONDS = 0.02


class Feeder(Service):
    """Runs until it gets None, which comes after the last call is answered, or a `Stop`.

    Parameters
    ----------
    inbox : queue.SimpleQueue
        Calls as ``(iterable of tasks, set_length or None)``, `Call` objects, and events.
    tell_collector : callable
        Passes events on to the collector.
    cache : dict
        Result objects of running calls by job number.
    sender : Sender
        Encodes arguments into the parent's arena; this thread's own from here on.
    budget : int
        Bytes of segments in flight at a time.
    one_by_one : bool
        Whether no task is to wait in a worker behind another one.
    has_ended : callable
        Called with None at the end of this thread.
    metrics : Metrics
        Where it is noted down.
    state : PoolState
        Of the pool: noted there when this thread sends nothing any more.
    """

    def __init__(
        self,
        inbox: queue.SimpleQueue[Any],
        tell_collector: Callable[[Any], None],
        cache: dict[int, Any],
        sender: Sender,
        budget: int,
        one_by_one: bool,
        has_ended: Callable[[None], None],
        metrics: Metrics,
        state: PoolState,
    ):
        super().__init__("arrowpool-feeder")
        self._inbox = inbox
        self._tell_collector = tell_collector
        self._cache = cache
        self._sender = sender
        self._one_by_one = one_by_one
        self._has_ended = has_ended
        self._state = state
        self._ended = False
        self._closing = False
        self._workers: list[WorkerHandle] = []
        #: Tasks that are encoded and not bound to a worker yet.
        self._ahead: deque[Task] = deque()
        self._reclaim = Reclaim(sender, self._workers)
        self._budget = Budget(budget, sender.lifecycle, self._reclaim, self._workers, self._ahead)
        #: Takes single calls, in their callers' threads.
        self.snapshots = Snapshots(sender)
        self._encoder = Encoder(sender, self._budget, self._reclaim, metrics, self.snapshots)
        self._recall = Recall(self._workers, self._give_back)
        self._turns = Turns(self._is_throttled)
        #: The task that waits for room: not encoded any further.
        self._waiting: Unplaced | None = None
        #: Tasks the collector has the results of; and whether this thread waits for a worker to become free.
        self._answered: deque[Task] = deque()
        self._hungry = False
        #: Held by whoever does this thread's work: itself, or the thread of a source while this one sleeps. It waits for an
        #: event then, for so many seconds. A failure in another's hands is raised in this one.
        self._at_work = threading.Lock()
        self._asleep = False
        self._waits: float | None = None
        self._failure: BaseException | None = None
        #: When this thread first saw that there is no work; None while there is some.
        self._idle_since: float | None = None
        self.piped_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<Feeder workers: {len(self._workers)} | calls: {len(self._turns)} | ahead: {len(self._ahead)} | "
            f"{self._sender.lifecycle!r}>"
        )

    @property
    def sender(self) -> Sender:
        return self._sender

    @property
    def workers(self) -> list[WorkerHandle]:
        """The workers that are up."""
        return list(self._workers)

    def answered(self, tasks: list[Task]) -> None:
        """These tasks have their results; from the collector's thread. Wakes this one only if it has use for that."""
        self._answered.extend(tasks)
        if self._hungry or any(task.parcel.segments or task.call.exhausted for task in tasks):
            self._inbox.put(Answered())

    def end(self) -> None:
        """There will be no more calls, and all are answered."""
        self._inbox.put(None)

    def halt(self) -> None:
        """Send nothing more, and end; from any thread, also from a finalizer."""
        self._inbox.put(Stop(drain=False))

    def wake(self) -> None:
        """Look again: at the workers, one of which may be used again, and at what they have released."""
        self._inbox.put(LookAgain())

    def hurry(self) -> None:
        """The pool is closed: results may pile up, since who waits for its end may read them only after that."""
        self._inbox.put(Hurry())

    def refuse(self) -> None:
        """This thread has ended, or is given up: what came too late for it will never be placed. From any thread."""
        self._state.sends_no_more = True
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if isinstance(event, Share):
                    event.placed.set_exception(PoolTerminatedError("the pool has ended"))

    # The loop

    def run(self) -> None:
        try:
            while not self._ended:
                event = self._next_event()
                with self._at_work:
                    self._go_on(event)
        except BaseException as error:
            self._tell_collector(Broken(PoolTerminatedError(f"the pool cannot go on: {said(error)}")))
            raise
        finally:
            util.debug("feeder exiting")
            with self._at_work:
                self._ended = True
                self._waiting = None
                for call in self._turns.calls():
                    self._turns.exhausted(call)
                    self._turns.over(call)
                for held in (self._workers, self._ahead, self._answered):
                    held.clear()
            self.refuse()
            self._has_ended(None)

    def _next_event(self) -> Any:
        """Wait for an event, or until there is something to look at again."""
        if self._answered:
            return Answered()
        self._asleep = True
        try:
            return self._inbox.get(timeout=self._waits)
        except queue.Empty:
            return Late()
        finally:
            self._asleep = False

    def _go_on(self, event: Any) -> None:
        """Take this event and all that are there; send and encode what there is."""
        if self._failure is not None:
            raise self._failure
        self._hungry = False
        self._handle(event)
        self._settle_answered()
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(self._inbox.get_nowait())
        if not self._ended:
            self._recall.look()
            self._pump()
            self._go_to_sleep()

    def _go_to_sleep(self) -> None:
        self._hungry = bool(self._ahead or self._waiting or self._turns.next())
        self._waits = self._patience()

    def _was_drawn(self, job: int, last: bool) -> None:
        """A source has tasks. In its thread, which sends a single one itself while this thread sleeps: to wake another thread
        for each task would cost more than the task. Of several, more are drawn until this thread is awake."""
        if last and self._asleep and self._inbox.empty() and self._at_work.acquire(blocking=False):
            try:
                # Else this thread has woken up, and comes to it next.
                if self._asleep and not self._ended and self._failure is None:
                    self._turns.drawn(job)
                    self._settle_answered()
                    self._pump()
                    slept = self._waits
                    self._go_to_sleep()
                    if (self._waits is not None and (slept is None or self._waits < slept)) or (
                        self._hungry and self._answered
                    ):
                        self._inbox.put(Answered())
                    return
            except BaseException as error:
                self._failure = error
                self._inbox.put(Answered())
                return
            finally:
                self._at_work.release()
        self._inbox.put(Drawn(job))

    def _patience(self) -> float | None:
        if self._waiting is not None:
            return _LOOK_AGAIN_SECONDS
        if self._recall.is_pending():
            return RECALL_SECONDS
        return IDLE_SECONDS if self._sender.lifecycle.live or self._sender.resident else None

    def _look_again(self) -> None:
        self._reclaim.reap()
        now = time.monotonic()
        if self._turns or any(worker.outstanding for worker in self._workers):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= WARM_SECONDS:
            self._reclaim.trim()

    def _handle(self, event: Any) -> None:
        if event is None:
            self._ended = True
        elif isinstance(event, tuple):
            self._begin(Call(iter(event[0]), event[1]))
        elif isinstance(event, Call):
            self._encoder.adopt(event)
            self._begin(event)
        elif isinstance(event, Drawn):
            self._turns.drawn(event.job)
        elif isinstance(event, Read):
            self._turns.release(event.job)
            self._draw_on(self._turns.find(event.job))
        elif isinstance(event, Hurry):
            self._closing = True
            self._turns.release_all()
            for call in self._turns.calls():
                self._draw_on(call)
        elif isinstance(event, Returned):
            self._give_back(event.tasks)
        elif isinstance(event, Released):
            if is_tight():
                self._reclaim.trim_all()
        elif isinstance(event, Short):
            self._reclaim.help(event.worker)
        elif isinstance(event, Share):
            self._share(event)
        elif isinstance(event, Unshare):
            if event.share.blob is not None:
                self._forget(self._encoder.unpin(event.share.blob))
        elif isinstance(event, LookAgain):
            self._reclaim.reap()
        elif isinstance(event, Late):
            self._look_again()
        elif isinstance(event, Cancelled):
            self._cancel(event.job)
        elif isinstance(event, WorkerJoined):
            event.worker.ready = True
            self._sender.lends = event.worker.may_borrow and (self._sender.lends or not self._workers)
            self._sender.lifecycle.consumer_joined(event.worker)
            self._workers.append(event.worker)
        elif isinstance(event, WorkerExited):
            if event.worker in self._workers:
                self._workers.remove(event.worker)
                self._sender.consumer_lost(event.worker)
            # Sent after the collector had buried it: nobody read these.
            self._give_back(list(event.worker.outstanding.values()))
            event.worker.outstanding.clear()
        elif isinstance(event, Stop):
            self._ended = True

    def _begin(self, call: Call) -> None:
        """A new call: one that a user's iterator makes the tasks of gets a thread to draw them."""
        self._idle_since = None
        if call.lazy:
            source = Source(call.tasks, functools.partial(self._was_drawn, call.job), self)
            if source.try_start():  # otherwise they are drawn here
                call.tasks = call.source = source
        self._turns.add(call)
        self._draw_on(call)

    # Sending

    def _pump(self) -> None:
        """Send while a worker is free, then encode ahead. What has come in meanwhile may change all that: look at it first."""
        while True:
            call = self._ahead[0].call if self._ahead else self._turns.next()
            worker = free_worker(self._workers, queue_behind=self._is_short(call, PREFETCH_SECONDS))
            if worker is None:
                break
            task = self._ahead.popleft() if self._ahead else self._encode_next()
            if task is None:
                return
            alone = self._one_by_one or task.parcel.segments
            size = 1 if alone else min(frame_size(task, worker, len(self._workers)), self._ahead_size(task.call) * 2)
            self._send(worker, [task, *self._companions(task, size)])
            self._turns.took(task.call)
            if not self._inbox.empty():
                return
        while self._inbox.empty():
            # While there is nothing else to do.
            call = self._turns.next()
            many = len(self._workers) if call is None else self._ahead_size(call)
            if len(self._ahead) >= many:
                return
            task = self._encode_next()
            if task is None:
                return
            self._ahead.append(task)

    def _ahead_size(self, call: Call) -> int:
        return len(self._workers) if self._one_by_one else ahead_size(call, len(self._workers), self._budget.limit)

    def _is_short(self, call: Call | None, seconds: float) -> bool:
        """Whether this call has had tasks that took less than this."""
        return (
            not self._one_by_one and call is not None and call.mean_seconds is not None and call.mean_seconds < seconds
        )

    def _companions(self, first: Task, size: int) -> Iterator[Task]:
        """More short tasks of the same call that go in the same frame, which has room for so many."""
        call = first.call
        nbytes = first.parcel.piped_bytes
        for _ in range(size - 1):
            if self._ahead:
                task: Task | Unplaced | None = self._ahead.popleft()
            elif self._waiting is None and not call.exhausted and (call.source is None or call.source.has_some()):
                task = self._take(call)
            else:
                return
            if not isinstance(task, Task):
                # Failed, or there are no more; or it needs room in a segment and so a frame of its own.
                self._waiting = task
                continue
            nbytes += task.parcel.piped_bytes
            if task.call is not call or task.parcel.segments or nbytes > FRAME_BYTES or task.blobs[0] != first.blobs[0]:
                self._ahead.appendleft(task)
                return
            yield task

    def _send(self, worker: WorkerHandle, tasks: list[Task]) -> None:
        sender = self._sender
        blobs = tasks[0].blobs if len(tasks) == 1 else tuple(dict.fromkeys(b for task in tasks for b in task.blobs))
        new = []
        for blob in blobs:
            if blob.number not in worker.known_blobs:
                worker.known_blobs.add(blob.number)
                new.append(blob)
        first = worker.sent
        try:
            if not worker.may_borrow:
                self._sender.lends = False
                for blob in blobs:
                    blob.parcel = sender.bring_in(blob.parcel, self._reclaim.relieve)
                for task in tasks:
                    task.parcel = sender.bring_in(task.parcel, self._reclaim.relieve)
            blob_grants = [(blob.number, sender.grant(blob.parcel, worker)) for blob in blobs if blob.parcel.segments]
            items = [(task.parcel.body, sender.grant(task.parcel, worker)) for task in tasks]
        except ArenaFullError as error:
            worker.known_blobs.difference_update(blob.number for blob in new)
            for task in tasks:
                self._tell_collector(Failed(task.call.job, task.index, error))
                self._settle(task)
            return
        if blob_grants or tasks[0].parcel.segments:
            worker.control.arguments = sender.use(worker)
        for task in tasks:
            worker.outstanding[worker.sent] = task
            worker.sent += 1
        worker.last_frame = len(tasks)
        worker.progress = (time.monotonic(), worker.control.started)
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
        # When the worker is gone its tasks come back as `Returned`, or fail if it had begun them.
        with contextlib.suppress(OSError):
            self.piped_bytes += worker.channel.send(message)

    # Encoding

    def _share(self, share: Share) -> None:
        try:
            share.blob = self._encoder.pin(share.obj)
        except BaseException as error:
            share.placed.set_exception(contained(error, "pickling it"))
        else:
            share.placed.set_result(None)

    def _encode_next(self) -> Task | None:
        """The next task, encoded; None when there is none, or no room for it now."""
        while True:
            taken: Task | Unplaced | None
            if self._waiting is not None:
                taken, self._waiting = self._waiting, None
            else:
                call = self._turns.next()
                if call is None:
                    return None
                taken = self._take(call)
            if isinstance(taken, Task):
                return taken
            if taken is None:
                continue
            self._settle_answered()
            verdict = self._budget.judge(taken.nbytes)
            if verdict is Verdict.WAIT:
                self._waiting = taken
                return None
            try:
                task = self._encoder.place(taken, self._reclaim.relieve if verdict is Verdict.PLACE else None)
                self._draw_on(task.call)
                return task
            except Exception as error:
                if verdict is Verdict.PLACE_OR_WAIT and isinstance(error, ArenaFullError):
                    self._waiting = taken
                    return None
                self._tell_collector(Failed(taken.call.job, taken.at, error))
                taken.call.pending -= 1
                self._finish(taken.call)
                self._draw_on(taken.call)

    def _take(self, call: Call) -> Task | Unplaced | None:
        """The next task of a call; None when it failed, or there are no more."""
        known = call.job
        self._settle_answered()  # what it shares with later tasks is placed at once, if there is room for it
        taken = self._encoder.take(call)
        if call.job != known:
            self._turns.found(call)
        if taken is None:
            if call.set_length is not None:
                call.set_length(call.last_index + 1)
            self._turns.exhausted(call)
            self._encoder.exhausted(call)
            self._finish(call)
            return None
        if isinstance(taken, Failed):
            self._tell_collector(taken)
            self._draw_on(call)
            return None
        call.pending += 1
        if isinstance(taken, Task):
            self._draw_on(call)
        return taken

    def _draw_on(self, call: Call | None) -> None:
        """Have a user's iterator go on, all that it gave before being encoded, unless it is to wait."""
        if call is None or call.source is None or (self._waiting is not None and self._waiting.call is call):
            return
        if call.source.may_go_on() and not self._is_throttled(call):
            call.source.ask(draw_size(call, len(self._workers)))

    def _is_throttled(self, call: Call) -> bool:
        """Whether results of an imap pile up unread beyond the budget. Then this thread is told when some are read."""
        if self._closing or not call.result_bytes:
            return False
        result = self._cache.get(call.job)
        if not isinstance(result, Imap) or not self._is_piled_up(call, result):
            return False
        result.when_read(functools.partial(self._inbox.put, Read(call.job)))
        return self._is_piled_up(call, result)  # it may have been read since, and nobody told

    def _is_piled_up(self, call: Call, result: Imap) -> bool:
        return call.result_bytes / call.replies * result.unread() > self._budget.limit

    # Endings

    def _settle_answered(self) -> None:
        while self._answered:
            self._settle(self._answered.popleft())

    def _settle(self, task: Task) -> None:
        """A task is over: let go of what it held, and of what its call held if it was the last."""
        self._forget(self._encoder.settled(task))
        task.call.pending -= 1
        self._finish(task.call)

    def _finish(self, call: Call) -> None:
        if call.exhausted and not call.pending:
            self._turns.over(call)
            self._forget(self._encoder.finish(call))

    def _forget(self, blobs: list[Blob]) -> None:
        """No task will refer to these: the workers that have them may drop them."""
        for blob in blobs:
            for worker in self._workers:
                if blob.number in worker.known_blobs:
                    worker.known_blobs.discard(blob.number)
                    worker.to_forget.append(blob.number)

    def _give_back(self, tasks: list[Task]) -> None:
        """These were sent and never begun: they go first, unless nobody waits for them any more."""
        for task in reversed(tasks):
            if task.call.cancelled:
                self._settle(task)
            else:
                self._ahead.appendleft(task)

    def _cancel(self, job: int) -> None:
        """Do no more of this job: forget what is left of it, take back what was sent, interrupt what runs."""
        call = self._turns.find(job)
        if call is None:
            return
        call.cancelled = True
        self._turns.exhausted(call)
        if call.pending:
            if self._waiting is not None and self._waiting.call is call:
                self._waiting = None
                call.pending -= 1
            mine = [task for task in self._ahead if task.call is call]
            if mine:
                kept = [task for task in self._ahead if task.call is not call]
                self._ahead.clear()
                self._ahead.extend(kept)
                for task in mine:
                    self._settle(task)
            if call.pending:
                self._recall.cancel(call)
        self._finish(call)
