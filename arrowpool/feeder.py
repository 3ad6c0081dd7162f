"""The feeder: takes calls apart into tasks, encodes them, and sends each to a worker that is free.

The one thread that encodes arguments (with `encoder`) and keeps the books of their arena. Tasks are bound to a worker as late as possible:
some are encoded ahead, but none is sent behind a running one, except where tasks are measured to be short and go several
to a frame; those are taken back when the one before them turns out long. Bytes in flight stay within the budget: then it
waits for releases, and so a user's generator is consumed only as fast as workers make room.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import util
from typing import Any

from arrowpool.dispatch import Recall, frame_size, free_lane
from arrowpool.encoder import Encoder, Unplaced
from arrowpool.errors import ArenaFullError, PoolTerminatedError, contained
from arrowpool.lane import (
    Answered,
    Blob,
    Broken,
    Call,
    Cancelled,
    Failed,
    Lane,
    LaneExited,
    LaneJoined,
    LookAgain,
    Released,
    Returned,
    Share,
    Short,
    Stop,
    Task,
    Unshare,
)
from arrowpool.ledger import Ledger
from arrowpool.memory.limits import is_tight
from arrowpool.results import Imap
from arrowpool.room import Room
from arrowpool.service import Service
from arrowpool.settings import (
    FRAME_BYTES,
    FRAME_TASKS,
    IDLE_SECONDS,
    PREFETCH_SECONDS,
    RECALL_SECONDS,
    SHORT_TASK_SECONDS,
    WARM_SECONDS,
)
from arrowpool.wire import Sender

#: How often to look again while waiting for what nobody reports: a lease that ends in a garbage collection, an iterator
#: that is read.
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
    ledger : Ledger
        Where it is noted down.
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
        ledger: Ledger,
    ):
        super().__init__("arrowpool-feeder")
        self._inbox = inbox
        self._tell_collector = tell_collector
        self._cache = cache
        self._sender = sender
        self._one_by_one = one_by_one
        self._has_ended = has_ended
        #: Whether this thread will send nothing any more.
        self.over = False
        self._ended = False
        self._closing = False
        self._lanes: list[Lane] = []
        self._room = Room(sender, self._lanes, budget, self._settle_answered, self._in_flight)
        self._encoder = Encoder(sender, self._room, ledger)
        self._recall = Recall(self._lanes, self._give_back)
        self._calls: deque[Call] = deque()
        #: Tasks that are encoded and not bound to a worker yet.
        self._ahead: deque[Task] = deque()
        #: The task that waits for room: not encoded any further.
        self._waiting: Unplaced | None = None
        #: Tasks the collector has the results of; and whether this thread waits for a worker to become free.
        self._answered: deque[Task] = deque()
        self._hungry = False
        #: When this thread first saw that there is no work; None while there is some.
        self._idle_since: float | None = None
        self.piped_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<Feeder lanes: {len(self._lanes)} | calls: {len(self._calls)} | ahead: {len(self._ahead)} | "
            f"{self._sender.lifecycle!r}>"
        )

    @property
    def sender(self) -> Sender:
        return self._sender

    @property
    def lanes(self) -> list[Lane]:
        """The workers that are up."""
        return list(self._lanes)

    def answered(self, tasks: list[Task]) -> None:
        """These tasks have their results; from the collector's thread. Wakes this one only if it has use for that."""
        self._answered.extend(tasks)
        if self._hungry or any(task.parcel.segments or task.call.exhausted for task in tasks):
            self._inbox.put(Answered())

    def end(self) -> None:
        """There will be no more calls, and all are answered."""
        self._inbox.put(None)

    def wake(self) -> None:
        """Look again: at the workers, one of which may be used again, and at what they have released."""
        self._inbox.put(LookAgain())

    def hurry(self) -> None:
        """The pool is closed: results may pile up, since who waits for its end may read them only after that."""
        self._closing = True
        self._inbox.put(Answered())

    def refuse(self) -> None:
        """This thread has ended, or is given up: what came too late for it will never be placed. From any thread."""
        self.over = True
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if isinstance(event, Share):
                    event.placed.set_exception(PoolTerminatedError("the pool has ended"))

    # The loop

    def run(self) -> None:
        try:
            while not self._ended:
                self._take_events()
                if not self._ended:
                    self._recall.look()
                    self._pump()
        except BaseException as error:
            self._tell_collector(Broken(PoolTerminatedError(f"the pool cannot go on: {error!r}")))
            raise
        finally:
            util.debug("feeder exiting")
            self._waiting = None
            for held in (self._lanes, self._ahead, self._calls, self._answered):
                held.clear()
            self.refuse()
            self._has_ended(None)

    def _take_events(self) -> None:
        """Wait for an event, or until there is something to look at again; take all that are there."""
        self._hungry = bool(self._ahead or self._calls or self._waiting)
        if not self._answered:
            try:
                self._handle(self._inbox.get(timeout=self._patience()))
            except queue.Empty:
                self._look_again()
        self._hungry = False
        self._settle_answered()
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(self._inbox.get_nowait())

    def _patience(self) -> float | None:
        if self._waiting is not None or (self._calls and self._is_throttled(self._calls[0])):
            return _LOOK_AGAIN_SECONDS
        if self._recall.is_pending():
            return RECALL_SECONDS
        arena = self._sender.arena
        return IDLE_SECONDS if self._sender.lifecycle.live or (arena is not None and arena.resident) else None

    def _look_again(self) -> None:
        self._room.reap()
        now = time.monotonic()
        if self._calls or any(lane.outstanding for lane in self._lanes):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= WARM_SECONDS:
            self._room.trim()

    def _handle(self, event: Any) -> None:
        if event is None:
            self._ended = True
        elif isinstance(event, tuple):
            self._calls.append(Call(iter(event[0]), event[1]))
        elif isinstance(event, Call):
            self._calls.append(event)
            self._idle_since = None
        elif isinstance(event, Returned):
            self._give_back(event.tasks)
        elif isinstance(event, Released):
            if is_tight():
                self._room.have_trimmed()
        elif isinstance(event, Short):
            self._room.help(event.lane)
        elif isinstance(event, Share):
            self._share(event)
        elif isinstance(event, Unshare):
            if event.share.blob is not None:
                self._forget(self._encoder.unpin(event.share.obj, event.share.blob))
        elif isinstance(event, LookAgain):
            self._room.reap()
        elif isinstance(event, Cancelled):
            self._cancel(event.job)
        elif isinstance(event, LaneJoined):
            event.lane.ready = True
            self._sender.reducer.lends = event.lane.may_borrow and (self._sender.reducer.lends or not self._lanes)
            self._sender.lifecycle.consumer_joined(event.lane)
            self._lanes.append(event.lane)
        elif isinstance(event, LaneExited):
            if event.lane in self._lanes:
                self._lanes.remove(event.lane)
                self._sender.consumer_lost(event.lane)
            # Sent after the collector had buried it: nobody read these.
            self._give_back(list(event.lane.outstanding.values()))
            event.lane.outstanding.clear()
        elif isinstance(event, Stop):
            self._ended = True

    # Sending

    def _pump(self) -> None:
        """Send while a worker is free, then encode ahead."""
        while True:
            lane = free_lane(self._lanes, queue_behind=self._next_may_queue())
            if lane is None:
                break
            task = self._ahead.popleft() if self._ahead else self._encode_next()
            if task is None:
                return
            alone = self._one_by_one or task.parcel.segments
            size = 1 if alone else frame_size(task, lane, len(self._lanes))
            if task.call.lazy:
                # Each at once, and as many of them one after the other as would go in one frame.
                self._send(lane, [task])
                lane.last_frame = size
            else:
                self._send(lane, [task, *self._companions(task, size)])
        # More of them when they are short, while there is nothing else to do.
        many = FRAME_TASKS // 2 if self._next_is_below(SHORT_TASK_SECONDS) else len(self._lanes)
        while len(self._ahead) < many and self._inbox.empty():
            call = self._next_call()
            if self._waiting is None and call is not None and call.lazy:
                # It may wait for results of what it has given: all of that is sent before it is asked for more.
                return
            task = self._encode_next()
            if task is None:
                return
            self._ahead.append(task)

    def _next_is_below(self, seconds: float) -> bool:
        """Whether the next task's call has had tasks that took less than this."""
        call = self._ahead[0].call if self._ahead else self._calls[0] if self._calls else None
        return (
            not self._one_by_one and call is not None and call.mean_seconds is not None and call.mean_seconds < seconds
        )

    def _next_may_queue(self) -> bool:
        """Whether the next task may go to a worker that has one to run: a short one, or one that cannot be encoded ahead."""
        if self._one_by_one:
            return False
        call = self._ahead[0].call if self._ahead else self._next_call()
        return (call is not None and call.lazy) or self._next_is_below(PREFETCH_SECONDS)

    def _companions(self, first: Task, size: int) -> Iterator[Task]:
        """More short tasks of the same call that go in the same frame, which has room for so many."""
        call = first.call
        nbytes = first.parcel.piped_bytes
        for _ in range(size - 1):
            if self._ahead:
                task: Task | Unplaced | None = self._ahead.popleft()
            elif self._waiting is None and not call.exhausted and self._calls[0] is call:
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

    def _send(self, lane: Lane, tasks: list[Task]) -> None:
        sender = self._sender
        blobs = tasks[0].blobs if len(tasks) == 1 else tuple(dict.fromkeys(b for task in tasks for b in task.blobs))
        new = []
        for blob in blobs:
            if blob.number not in lane.known_blobs:
                lane.known_blobs.add(blob.number)
                new.append((blob.number, blob.stateless, blob.parcel.body))
        first = lane.sent
        try:
            if not lane.may_borrow:
                self._sender.reducer.lends = False
                for blob in blobs:
                    blob.parcel = sender.bring_in(blob.parcel)
                for task in tasks:
                    task.parcel = sender.bring_in(task.parcel)
            blob_grants = tuple((b.number, sender.grant(b.parcel, lane)) for b in blobs if b.parcel.segments)
            items = tuple((task.parcel.body, sender.grant(task.parcel, lane)) for task in tasks)
        except ArenaFullError as error:
            lane.known_blobs.difference_update(number for number, _, _ in new)
            for task in tasks:
                self._tell_collector(Failed(task.call.job, task.index, error))
                self._settle(task)
            return
        if blob_grants or tasks[0].parcel.segments:
            lane.control.arguments = sender.use(lane)
        for task in tasks:
            lane.outstanding[lane.sent] = task
            lane.sent += 1
        lane.last_frame = len(tasks)
        lane.progress = (time.monotonic(), lane.control.started)
        message = (tuple(new), tuple(lane.to_forget), blobs[0].number, int(tasks[0].star), blob_grants, first, items)
        lane.to_forget.clear()
        # When the worker is gone its tasks come back as `Returned`, or fail if it had begun them.
        with contextlib.suppress(OSError):
            self.piped_bytes += lane.channel.send(message)

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
                call = self._next_call()
                if call is None:
                    return None
                taken = self._take(call)
            if isinstance(taken, Task):
                return taken
            if taken is None:
                continue
            try:
                if self._room.make(taken.reduced.nbytes):
                    self._room.may_wait = True
                    return self._encoder.place(taken)
                self._waiting = taken
                return None
            except Exception as error:
                if isinstance(error, ArenaFullError) and self._in_flight():
                    self._waiting = taken
                    return None
                self._tell_collector(Failed(taken.call.job, taken.at, error))
                taken.call.pending -= 1
                self._finish(taken.call)
            finally:
                self._room.may_wait = False

    def _take(self, call: Call) -> Task | Unplaced | None:
        """The next task of a call; None when it failed, or there are no more."""
        taken = self._encoder.take(call)
        if taken is None:
            self._calls.remove(call)
            call.exhausted = True
            if call.set_length is not None:
                call.set_length(call.last_index + 1)
            self._finish(call)
        elif isinstance(taken, Failed):
            self._tell_collector(taken)
            return None
        else:
            call.pending += 1
        return taken

    def _next_call(self) -> Call | None:
        for call in self._calls:
            if not self._is_throttled(call):
                return call
        return None

    def _is_throttled(self, call: Call) -> bool:
        """Whether results of an imap pile up unread beyond the budget. Reading them goes on with it."""
        if self._closing or not call.result_bytes:
            return False
        result = self._cache.get(call.job)
        return isinstance(result, Imap) and call.result_bytes / call.replies * result.unread() > self._room.budget

    def _in_flight(self) -> bool:
        return bool(self._ahead) or any(lane.outstanding for lane in self._lanes)

    # Endings

    def _settle_answered(self) -> None:
        while self._answered:
            self._settle(self._answered.popleft())

    def _settle(self, task: Task) -> None:
        """A task is over: let go of what it held, and of what its call held if it was the last."""
        self._sender.unpin(task.parcel.segments)
        task.call.pending -= 1
        self._finish(task.call)

    def _finish(self, call: Call) -> None:
        if call.exhausted and not call.pending:
            self._forget(self._encoder.finish(call))

    def _forget(self, blobs: list[Blob]) -> None:
        """No task will refer to these: the workers that have them may drop them."""
        for blob in blobs:
            for lane in self._lanes:
                if blob.number in lane.known_blobs:
                    lane.known_blobs.discard(blob.number)
                    lane.to_forget.append(blob.number)

    def _give_back(self, tasks: list[Task]) -> None:
        """These were sent and never begun: they go first, unless nobody waits for them any more."""
        for task in reversed(tasks):
            if task.call.cancelled:
                self._settle(task)
            else:
                self._ahead.appendleft(task)

    def _cancel(self, job: int) -> None:
        """Do no more of this job: forget what is left of it, take back what was sent, interrupt what runs."""
        calls = {task.call for task in self._ahead}
        calls |= {task.call for lane in self._lanes for task in list(lane.outstanding.values())}
        for call in {*calls, *self._calls}:
            if call.job != job:
                continue
            if not call.exhausted:
                self._calls.remove(call)
                call.exhausted = True
            self._recall.cancel(call)
            if self._waiting is not None and self._waiting.call is call:
                self._waiting = None
                call.pending -= 1
            for task in [task for task in self._ahead if task.call is call]:
                self._ahead.remove(task)
                self._settle(task)
            self._finish(call)
