"""Between a pool's methods and the standard library's threads: what `engine` is on systems with shared memory.

    method -- submit --> task queue --> task handler -- send --> workers --> result handler -- receive --> result

The task handler runs the standard library's own loop. What differs from its pool:

- A worker that is lost ends the pool, as it ends a `concurrent.futures.ProcessPoolExecutor`: all open calls raise `WorkerLostError`,
  and no new ones are taken. The standard library's pool does not know which task is lost, and its call waits indefinitely.
- Calls that are open when the pool ends raise an error.
- A call that is cancelled gets no more tasks. Tasks that workers have run to their end.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from multiprocessing import Pipe
from multiprocessing import pool as stdlib
from multiprocessing.pool import RUN, TERMINATE, _helper_reraises_exception  # type: ignore[attr-defined]
from typing import Any

from arrowpool import portable
from arrowpool.engine.calls import Call, parts_of
from arrowpool.errors import (
    PoolTerminatedError,
    WorkerInitError,
    WorkerLostError,
    again,
    contained,
    said,
)
from arrowpool.guard import ADVICE, UNGUARDED
from arrowpool.portable.outcomes import outcome_of_reply, packed, refusal
from arrowpool.portable.queues import Queue
from arrowpool.portable.tasks import Reply, run
from arrowpool.portable.workers import UNINITIALIZED
from arrowpool.stats import Stats
from arrowpool.stats_rows import Pickled

#: How long the end of a pool waits for each of its threads. The task handler may be in a generator of the user's.
_PATIENCE_SECONDS = 5.0
#: So many calls that are over may be known.
_MOST_OVER = 100


class Relay:
    """The calls of one pool, its threads and their end. `start` begins it.

    Parameters
    ----------
    workers : list
        The worker processes. The worker handler changes it.
    inqueue, outqueue : Queue
        To and from the workers.
    taskqueue : SimpleQueue
        Calls, in the standard library's form: ``(tasks, set_length)``.
    cache : dict
        Result objects of open calls, by job number.
    notifier : SimpleQueue
        Wakes the worker handler.
    """

    def __init__(
        self, workers: list[Any], inqueue: Queue, outqueue: Queue, taskqueue: Any, cache: dict[int, Any], notifier: Any
    ):
        self._workers = workers
        self._inqueue = inqueue
        self._outqueue = outqueue
        self._taskqueue = taskqueue
        self._cache = cache
        self._notifier = notifier
        #: Worker handler, task handler, result handler. Written once, by `start`.
        self.threads: tuple[threading.Thread, ...] = ()
        #: A message when no more tasks are sent, or `error` is set. Any thread sends it, the result handler takes it.
        self._stop, self._stopper = Pipe(duplex=False)
        #: Outcomes of tasks that are not sent, and a message for each of them. The task handler adds, the result handler takes.
        self._refused: deque[tuple[int, int, tuple[bool, Any]]] = deque()
        self._bell, self._ringer = Pipe(duplex=False)
        #: The error for all calls, once the pool takes no more. Written once, with `_ending` held; any thread reads it.
        self.error: BaseException | None = None
        self._ending = threading.Lock()
        #: Calls whose results are dropped. Any thread adds, also in a finalizer; the result handler takes. One atomic operation each.
        self._dropped: deque[int] = deque()
        #: Calls that get no more tasks. Any thread adds; the task handler reads and removes. One atomic operation each.
        self._unwanted: set[int] = set()
        #: Calls that may be open, by job number. Any thread adds, the result handler removes, the two handlers look up. Atomic operations.
        self._calls: dict[int, Call] = {}
        #: Number of the call whose reply was taken last. For the result handler only.
        self._last = -1
        #: Number of the call whose result is set now; -1 while there is none. For the result handler only.
        self._setting = -1
        #: Bytes of the pickles. The task handler alone writes the first, the result handler the others; any thread reads.
        self._sent_bytes = 0
        self._received_bytes = 0
        self._answers = 0

    def start(self, replace: Callable[[], object], wait: Callable[[], object], *, workers_end: bool) -> None:
        """Start the threads.

        Parameters
        ----------
        replace : callable
            Starts workers until there are as many as there should be.
        wait : callable
            Waits until a worker has ended, or `notifier` has a message.
        workers_end : bool
            Whether workers end by themselves, after a number of tasks.
        """
        loops: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = (
            (self._handle_workers, (replace, wait, workers_end)),
            (
                stdlib.Pool._handle_tasks,  # type: ignore[attr-defined]
                (self._taskqueue, self._send, _Stopper(self._stopper), self._workers, self._cache),
            ),
            (self._handle_results, ()),
        )
        self.threads = tuple(threading.Thread(target=loop, args=args, daemon=True) for loop, args in loops)
        for thread in self.threads:
            thread._state = RUN  # type: ignore[attr-defined]
            thread.start()

    # For the methods of the pool

    def submit(self, call: Call) -> None:
        """Queue a call. Any thread may do that."""
        call.release_items()
        self._calls[call.job] = call
        self._taskqueue.put((self._wanted(call), call.set_length))
        if self.error is not None:  # the task handler may have ended before it could see the call
            self._fail_all(self.error)

    def snapshot(self, *_: Any) -> None:
        """Nothing: a call is pickled at its turn, as by the standard library."""

    def framed(self, *_: Any) -> None:
        """Where the time went is not known."""

    def cancel(self, job: int, error: BaseException | None = None) -> None:
        """End a call with `error`, or `CancelledError`."""
        result = self._cache.get(job)
        if result is not None:
            with contextlib.suppress(KeyError):  # another thread has ended it
                result.fail(error or CancelledError())

    def drop(self, job: int, ends: bool) -> None:
        """Keep no more results of an imap; with `ends`, take no more of its tasks. Takes no lock."""
        self._dropped.append(job)
        if ends:
            self._unwanted.add(job)

    def is_own_thread(self) -> bool:
        """Whether the current thread is one of the three."""
        return threading.current_thread() in self.threads

    def stats(self) -> Stats:
        """The figures so far. Workers report none."""
        nbytes = self._sent_bytes + self._received_bytes
        pickled = (Pickled(portable.why(), self._answers, nbytes),) if nbytes else ()
        return Stats(tasks=self._answers, piped_bytes=nbytes, pickled=pickled)

    def usage(self) -> str:
        """For `repr`."""
        return f"nothing is shared | calls: {len(self._cache)}"

    # The threads

    def _handle_workers(self, replace: Callable[[], object], wait: Callable[[], object], workers_end: bool) -> None:
        thread: Any = threading.current_thread()
        try:
            while thread._state == RUN or (self._cache and thread._state != TERMINATE):
                # Looked at once: a worker that ends later is seen in the next round.
                ended = [worker for worker in self._workers if worker.exitcode is not None]
                for worker in ended:
                    worker.join()
                    self._workers.remove(worker)
                lost = next((worker for worker in ended if worker.exitcode or not workers_end), None)
                if lost is not None:
                    self._end_with(_loss_of(lost))
                    break
                replace()
                wait()
        except BaseException as error:
            failure = WorkerInitError(f"a worker could not be started: {said(error)}")
            failure.__cause__ = error
            self._end_with(failure)
        self._taskqueue.put(None)

    def _wanted(self, call: Call) -> Iterator[Any]:
        """The tasks of a call, until it is over. In the task handler's thread, which must not end by an exception."""
        job = call.job
        try:
            for task in call.tasks:
                if job not in self._cache or job in self._unwanted:
                    return
                yield task
                del task
        except GeneratorExit:
            raise
        except BaseException as error:
            self.cancel(job, contained(error, "the iterable"))
        finally:
            self._unwanted.discard(job)

    def _send(self, task: Any) -> None:
        """Send a task to the workers.

        Raises
        ------
        Exception
            When the pool has ended. The standard library's loop makes that the outcome of the task.
        """
        if task is None:  # a worker's end
            self._inqueue.send(None)
            return
        job, index, function, args, kwds = task
        if function is _helper_reraises_exception:
            self._refuse(job, index, (False, args[0]))
            return
        call = self._call_of(job)
        star, call.function, payload, _ = parts_of(function, args, kwds, call.on_error)
        try:
            stream = packed(call.function, star, payload)
        except BaseException as error:
            self._refuse(job, index, refusal(error, call, index, star, payload))
            return
        try:
            self._inqueue.send((job, index, run, (stream, len(payload) if star else 1), {}))
        except OSError:
            if self.error is not None:
                raise again(self.error) from None
            raise
        self._sent_bytes += len(stream)

    def _refuse(self, job: int, index: int, outcome: tuple[bool, Any]) -> None:
        """Have the result handler set the outcome of a task that is not sent. If two threads did so, counts of results could be wrong."""
        self._refused.append((job, index, outcome))
        self._ringer.send(None)

    def _handle_results(self) -> None:
        ending = False
        while self._cache or not ending:
            self._drop_results()
            self._forget_calls()
            try:
                message = self._outqueue.receive(self._stop, self._bell)
            except (OSError, EOFError):
                break
            if message is not None:
                self._take(*message)
                del message
                continue
            while self._bell.poll():
                self._bell.recv()
                self._set(*self._refused.popleft())
            if self._stop.poll():
                self._stop.recv()
                ending = True
                if self.error is not None:
                    break  # no more answers come, though calls may be open
        if self.error is not None:
            self._fail_all(self.error)

    def _take(self, job: int, index: int, outcome: tuple[bool, Any]) -> None:
        self._answers += 1
        self._last = job
        reply = outcome[1]
        if type(reply) is Reply:  # if not, the worker had no memory for it
            self._received_bytes += len(reply.stream)
            outcome = outcome_of_reply(self._call_of(job), index, reply)
        self._set(job, index, outcome)

    def _set(self, job: int, index: int, outcome: tuple[bool, Any]) -> None:
        result = self._cache.get(job)
        if result is not None:
            self._setting = job
            with contextlib.suppress(KeyError):  # another thread has ended it
                result._set(index, outcome)
            self._setting = -1

    def _drop_results(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                dropped = self._cache.get(self._dropped.popleft())
                if dropped is not None:
                    dropped.drop()

    def _call_of(self, job: int) -> Call:
        """The call of this number; a bare one for calls that other code has queued, and for those that are over."""
        return self._calls.get(job) or Call(iter(()), None, job=job)

    def _forget_calls(self) -> None:
        """Forget the calls that are over: the last one at once, those that were cancelled when they are many."""
        if self._last not in self._cache:
            self._calls.pop(self._last, None)
        if len(self._calls) > 2 * len(self._cache) + _MOST_OVER:
            for job in [job for job in list(self._calls) if job not in self._cache]:
                self._calls.pop(job, None)

    # The end

    def end(self) -> None:
        """End all workers and threads. Calls that are open raise `PoolTerminatedError`. Can be called again, in any thread."""
        self._end_with(PoolTerminatedError("the pool was terminated before the call had its result"))
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(_PATIENCE_SECONDS)
        self._fail_all(self.error)
        if not any(thread.is_alive() and thread is not threading.current_thread() for thread in self.threads):
            for one in (self._inqueue, self._outqueue, self._stop, self._stopper, self._bell, self._ringer):
                one.close()

    def _end_with(self, error: BaseException) -> None:
        worker_handler = self.threads[0] if self.threads else threading.current_thread()
        is_worker_handler = worker_handler is threading.current_thread()
        # A thread that ends the pool waits for the worker handler, which must not wait for that thread.
        if not self._ending.acquire(blocking=not is_worker_handler):
            return
        try:
            if self.error is not None:
                return
            self.error = error
            for thread in self.threads[:2]:
                thread._state = TERMINATE  # type: ignore[attr-defined]
            if not is_worker_handler:
                self._notifier.put(None)
                worker_handler.join()  # it starts no more workers after that
            for worker in self._workers:
                if worker.exitcode is None:
                    worker.terminate()
            for worker in self._workers:
                worker.join()
            self._workers.clear()
            self._taskqueue.put(None)
            _Stopper(self._stopper).put(None)
            self._inqueue.stop_sending()
            self._outqueue.stop_receiving()
        finally:
            self._ending.release()

    def _fail_all(self, error: BaseException | None) -> None:
        #: In a callback that ends the pool: the result whose callback that is has its value.
        is_result_handler = threading.current_thread() in self.threads[2:]
        for job, result in list(self._cache.items()):
            if not (is_result_handler and job == self._setting):
                with contextlib.suppress(KeyError):  # another thread has ended it
                    result.fail(again(error or CancelledError()))


class _Stopper:
    """In place of the results' queue, which a killed worker may have locked: tells the result handler to end."""

    def __init__(self, connection: Any):
        self._connection = connection

    def put(self, _: None) -> None:
        # On Windows, a message is refused while another thread sends one: that will do.
        with contextlib.suppress(ValueError):
            self._connection.send(None)


def _loss_of(worker: Any) -> BaseException:
    if worker.exitcode == UNGUARDED:
        return WorkerInitError(ADVICE)
    if worker.exitcode == UNINITIALIZED:
        return WorkerInitError("the initializer failed in a worker; its traceback is on the standard error output")
    return WorkerLostError(worker.pid, worker.exitcode, "a task of this pool, which ends with it")
