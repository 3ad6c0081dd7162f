"""The feeder's mailbox: it wakes the feeder, or lets another thread do the feeder's work while it sleeps.

One thread at a time does the feeder's work, the one that holds `working`: the feeder itself, or a thread that *stands in* for it
while it sleeps: that of a source which has drawn tasks, or the collector at the end of a call (see `sending`). Waking the feeder costs
more than sending a short task, so it is woken only when there is work. Here and in other modules, *the acting thread* is the thread
that holds `working`.

Race between an answer and falling asleep
-----------------------------------------
1. The feeder has nothing to send. It says whether it wants answers: whether a worker that becomes free would get a task
   (`rest`, under a lock).
2. The feeder looks for answers. If there are none, it sleeps (`wait`).
3. The collector adds an answer (under the same lock), then looks whether the feeder wants it (`answered`).

If the collector takes the lock before the feeder, the feeder finds the answer at 2. If it takes it after the feeder, the collector
sees at 3 what the feeder said at 1, and puts an event. Verdict: the feeder never sleeps while a wanted answer waits. It may be
woken once too often, and then finds nothing to do. The same holds for an exhausted call, which the feeder notes before 1 and the
collector looks at after the lock; it settles the answer itself, or wakes the feeder if that does not sleep.

An answer wakes the feeder only if its worker has so few tasks left that it may get more. The collector judges that by what the
feeder has written about the worker, maybe while the feeder sends to it. Then the feeder is not at 1 yet, and finds the answer at 2.

An answer that was taken early, while tasks were encoded (`take_early`), counts at 2 like an answer that waits: its worker became
free after free workers were last looked for.

Race between a stand-in and waking up
-------------------------------------
1. A source, or the collector, sees that the feeder sleeps, and takes `working`.
2. An event arrives. The feeder leaves its sleep and waits for `working`.
3. The stand-in works, rests, and releases `working`. The feeder goes on with its event.

Verdict: no work is done twice, since all work is done under `working`. No work is lost: a feeder that still sleeps does so for the
time that was right before 3. A source wakes it if that time has become shorter, or if a wanted answer came before the source said
that it wants answers. The collector only settles: that leaves nothing to send, and no shorter time.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any

from arrowpool.engine.calls import Task
from arrowpool.engine.events import Answered, Late


class Mailbox:
    """Events and answers for the feeder.

    Parameters
    ----------
    inbox : queue.SimpleQueue
        Calls and events. Any thread puts into it, also in a finalizer.
    """

    def __init__(self, inbox: queue.SimpleQueue[Any]):
        self._inbox = inbox
        #: Tasks that have their results. The collector appends, the acting thread takes; both are atomic.
        self.answers: deque[Task] = deque()
        #: Held by the thread that does the feeder's work.
        self.working = threading.Lock()
        #: Held for the steps 1 and 3 of the first race, and for nothing else.
        self._lock = threading.Lock()
        #: Whether an answer wakes the feeder. Written by the acting thread, under `_lock` when it becomes True; read by the
        #: collector under `_lock`.
        self._wants_answers = False
        #: Whether an answer that frees memory wakes the feeder although there are others that will. As `_wants_answers`.
        self._wants_memory = False
        #: Whether answers were taken since free workers were last looked for. Written and read by the acting thread, and read by
        #: the feeder before it sleeps.
        self._taken_early = False
        #: Whether the feeder waits for an event, or has one and waits for `working`. Written by the feeder only. Sources read it
        #: without a lock, and again under `working`, which the feeder takes after it has cleared this.
        self.asleep = False
        #: Maximum number of seconds for which the feeder sleeps; None for no limit. Written by the acting thread, read by it and by
        #: the feeder.
        self._patience: float | None = None
        #: The exception of a stand-in's work. Written and read under `working`.
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        words = ("asleep" if self.asleep else "awake", f"answers: {len(self.answers)}")
        return f"<Mailbox {' | '.join(words)}{' wanted' if self._wants_answers else ''} | patience: {self._patience}>"

    @property
    def waited_for(self) -> str:
        """What the feeder will wait for when it sleeps now, in words."""
        if self._wants_memory:
            return "for memory"
        return "for a free worker" if self._wants_answers else "for tasks"

    # Any thread

    def put(self, event: Any) -> None:
        """Wake the feeder with an event. May be called in a finalizer."""
        self._inbox.put(event)

    def is_empty(self) -> bool:
        """Whether no event waits."""
        return self._inbox.empty()

    # The collector

    def answered(self, tasks: list[Task], frees_worker: bool) -> bool:
        """Add tasks that have their results, and wake the feeder if it may have something to send for that.

        That is so if their worker becomes free, and the feeder wants answers; or if they free memory while a task waits for some.

        Parameters
        ----------
        tasks : list of Task
            Tasks of one worker.
        frees_worker : bool
            Whether the worker has so few tasks left that it may get more.

        Returns
        -------
        bool
            Whether answers are to be settled soon although the feeder was not woken: one may end its call, or one frees memory
            while there is nothing to send that would wake the feeder.
        """
        with self._lock:
            self.answers.extend(tasks)
            wanted, wants_memory = self._wants_answers, self._wants_memory
        frees_memory = any(
            task.call.exhausted or (task.parcel.segments and (wants_memory or not wanted)) for task in tasks
        )
        if (wanted and frees_worker) or (wants_memory and frees_memory):
            self._inbox.put(Answered())
            return False
        return frees_memory

    # The feeder

    def wait(self) -> Any:
        """The next event; `Late` if none comes in time."""
        if self.answers or self._taken_early:
            return Answered()
        self.asleep = True
        try:
            return self._inbox.get(timeout=self._patience)
        except queue.Empty:
            return Late()
        finally:
            self.asleep = False

    def next(self) -> Any:
        """One more event.

        Raises
        ------
        queue.Empty
            When there is none.
        """
        return self._inbox.get_nowait()

    # The acting thread

    def begin(self) -> None:
        """Begin work: answers do not wake the feeder. Raises the exception of a stand-in's work, if any."""
        if self._failure is not None:
            raise self._failure
        self._wants_answers = False
        self._taken_early = False

    def take(self) -> Task | None:
        """Take an answer, before free workers are looked for; None when there is none."""
        return self.answers.popleft() if self.answers else None

    def take_early(self) -> Task | None:
        """Take an answer in the middle of the work. Free workers are looked for again before the feeder sleeps."""
        task = self.take()
        if task is not None:
            self._taken_early = True
        return task

    def clear(self) -> None:
        """Forget all answers, at the end of the feeder."""
        self.answers.clear()

    def rest(self, wants_answers: bool, patience: float | None, wants_memory: bool = False) -> None:
        """End work, since there is nothing more to do.

        Parameters
        ----------
        wants_answers : bool
            Whether there is something to send when a worker becomes free.
        wants_memory : bool
            Whether a task waits for memory.
        patience : float or None
            Seconds to sleep at most; None for no limit.
        """
        with self._lock:
            self._wants_answers, self._wants_memory = wants_answers, wants_memory
        self._patience = patience

    # Stand-ins

    def stand_in(self) -> bool:
        """Whether the calling thread now does the feeder's work, until it calls `stand_down`."""
        if not self.asleep or not self._inbox.empty() or not self.working.acquire(blocking=False):
            return False
        if self.asleep and self._failure is None:
            self._taken_early = False
            return True
        self.working.release()  # the feeder has woken up, and takes it next
        return False

    def rest_as_stand_in(self, wants_answers: bool, patience: float | None, wants_memory: bool = False) -> None:
        """As `rest`, while the feeder sleeps: wakes it if it would now sleep too long."""
        slept = self._patience
        self.rest(wants_answers, patience, wants_memory)
        if (patience is not None and (slept is None or patience < slept)) or (
            wants_answers and (self.answers or self._taken_early)
        ):
            self._inbox.put(Answered())

    def fail(self, error: BaseException) -> None:
        """Note the exception of a stand-in's work: the feeder raises it, and no other thread stands in."""
        self._failure = error
        self._inbox.put(Answered())

    def stand_down(self) -> None:
        """End the stand-in's work."""
        self.working.release()
