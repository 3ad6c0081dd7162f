"""The loop of a worker, in one thread: reads frames, and rebuilds, runs, encodes and answers each task.

It ends when the parent closes the channel.

Guarantees: each task is announced on the control page before its arguments are rebuilt, so a crash is always attributed to its
task. Arguments are released before the reply is sent. A task never sees another task's changes to its arguments.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.pool import _helper_reraises_exception  # type: ignore[attr-defined]
from typing import Any

from arrowpool.codecs import load, settle
from arrowpool.errors import ArenaFullError, contained, said
from arrowpool.memory import platform
from arrowpool.memory.arena import Arena
from arrowpool.memory.control_page import ControlPage
from arrowpool.memory.forks import settle_forks
from arrowpool.memory.heap import Heap
from arrowpool.memory.lease import Lease, live_leases
from arrowpool.transport import protocol
from arrowpool.transport.channel import Channel
from arrowpool.transport.error_packing import (
    not_encoded,
    raised,
    traceback_of,
    with_traceback,
)
from arrowpool.transport.protocol import (
    NO_ITEM,
    SOME_ITEM,
    Body,
    Frame,
    Grants,
    Message,
    Order,
    Trim,
    is_plain,
    is_plain_body,
)
from arrowpool.transport.receiver import NotReadableError, Receiver
from arrowpool.transport.reducer import dumps_stream
from arrowpool.transport.resolution import main_names, tell_names
from arrowpool.transport.sender import Sender
from arrowpool.transport.sent_errors import SentError
from arrowpool.tuning import IDLE_SECONDS, WARM_SECONDS
from arrowpool.worker.items import Items
from arrowpool.worker.results import encode_value, goes_on, not_sendable
from arrowpool.worker.signals import Interrupts
from arrowpool.worker.usage import Usage

_PARENT = "parent"


@dataclass(slots=True)
class Endpoints:
    """The descriptors of a worker. -1 stands for an arena that does not exist."""

    reader: int
    writer: int
    control: int
    lifeline: int
    arguments: int
    results: int

    def all(self) -> tuple[int, ...]:
        """All descriptors, in order."""
        return self.reader, self.writer, self.control, self.lifeline, self.arguments, self.results


@dataclass(slots=True)
class _Blob:
    """A function or shared object as it was received. Rebuilt for each task, unless it is a function without data.

    The payload of a function with data was reduced after the function: one unpickler rebuilds both.
    """

    stateless: bool
    body: Body
    function: Any = None


def main(
    endpoints: Endpoints,
    start: Callable[[], None],
    maxtasks: int | None,
    tells_names: bool,
    may_have_children: bool,
) -> None:
    """Run a worker until its parent closes the channel, or `maxtasks` tasks are done.

    Parameters
    ----------
    endpoints : Endpoints
        This worker's descriptors.
    start : callable
        Runs the user's initializer.
    maxtasks : int or None
        Number of tasks to run before exiting; None for no limit.
    tells_names : bool
        Whether to report the names in ``__main__``, which the parent cannot know.
    may_have_children : bool
        Whether tasks may start processes with `multiprocessing`, which forbids it to daemonic processes.
    """
    platform.die_with_parent(endpoints.lifeline)
    if may_have_children:
        # Daemonic for its parent only. `daemon` cannot be set in a process that has started.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    control = ControlPage(endpoints.control)
    # The page's descriptor stays open: `top` finds the page by it.
    interrupts = Interrupts(control)
    heap = Heap(control.owners)  # before the initializer, which allocates from this heap
    channel = Channel(endpoints.reader, endpoints.writer)
    before = dict(main_names()) if tells_names else {}
    try:
        start()
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(protocol.initializer_failed(*raised(error, dumps_stream)))
        if not isinstance(error, Exception):
            raise
        return
    names = tell_names(before) if tells_names else {}
    before.clear()
    load()
    parent = multiprocessing.parent_process()
    lender = parent.pid if parent is not None and parent.pid is not None else -1
    worker = _Worker(channel, control, interrupts, endpoints, lender, heap)
    with contextlib.suppress(OSError):  # the parent has ended, or terminates this worker
        channel.send(protocol.hello(names, platform.may_open_of(lender)))
        worker.run(maxtasks)
    util.debug("worker exiting after %d tasks", worker.completed)


class _Worker:
    """The loop and its state. For the worker's main thread only."""

    def __init__(
        self,
        channel: Channel,
        control: ControlPage,
        interrupts: Interrupts,
        endpoints: Endpoints,
        lender: int,
        heap: Heap,
    ):
        self._channel = channel
        self._control = control
        self._interrupts = interrupts
        self._heap = heap
        self._receiver = Receiver(endpoints.arguments, self._control.released_by_worker, lender=lender)
        arena = Arena(endpoints.results, control.owners, endpoints.arguments) if endpoints.results >= 0 else None
        self._sender = Sender(arena)
        self._sender.lifecycle.consumer_joined(_PARENT)
        self._blobs: dict[int, _Blob] = {}
        self._items = Items.own = Items(control.run_items, control.run_group, self._caught)
        self.completed = 0
        self._usage = Usage(control)
        #: Of a trace: whether the frame that runs is traced; seconds in which the last result was taken apart; and when the last reply
        #: was sent, 0 when that is not known.
        self._traced = False
        self._apart = 0.0
        self._sent = 0.0

    def run(self, maxtasks: int | None) -> None:
        while maxtasks is None or self.completed < maxtasks:
            try:
                orders = self._receive()
            except EOFError:
                return
            for order in orders:
                if isinstance(order, Trim):
                    self._trim()
                else:
                    self._run_frame(order)
                    self._heap.worked()
                if self._interrupts.ended_an_import:
                    return
            settle_forks()

    def _receive(self) -> list[Order]:
        idle = 0.0
        while not self._channel.readable(
            IDLE_SECONDS if self._holds_memory() or self._heap.holds_memory or (live_leases() and not idle) else None
        ):
            # Garbage may hold leases that the parent waits for. After a longer while, free pages go back to the system.
            if not idle and (live_leases() or self._holds_memory()):
                gc.collect()  # only if it may help: it writes to pages that a forked worker shares with the parent
            idle += IDLE_SECONDS
            if idle < WARM_SECONDS:
                self._settle()
            else:
                self._trim()
        return protocol.read_orders(self._channel.receive())

    def _holds_memory(self) -> bool:
        """Whether there is memory to give back after a while: of this process, or of processes that may have ended."""
        arena = self._sender.arena
        return (arena is not None and arena.resident > 0) or self._receiver.borrows()

    def _settle(self) -> None:
        """Free memory that other processes have released."""
        settle_forks()
        self._reap()
        self._receiver.trim()

    def _trim(self) -> None:
        self._settle()
        self._heap.trim()
        if self._sender.arena is not None:
            self._sender.arena.trim()
            self._control.results = self._sender.use(_PARENT)

    def _relieve(self) -> Callable[[int], bool]:
        answers, _ = self._control.relief
        self._trim()
        self._channel.send(protocol.memory_short())

        def may_come(nbytes: int) -> bool:
            now, elsewhere = self._control.relief
            return now == answers or elsewhere >= nbytes

        return may_come

    def _reap(self) -> None:
        if self._sender.reap(_PARENT, self._control.released_by_parent):
            self._control.results = self._sender.use(_PARENT)

    def _run_frame(self, frame: Frame) -> None:
        blobs = self._blobs
        for number in frame.forgotten:
            blobs.pop(number, None)
        for number, stateless, body in frame.new_blobs:
            blobs[number] = _Blob(stateless, body)
        grants = {number: self._receiver.accept(wire) for number, wire in frame.blob_grants}
        function, star = frame.function, frame.star
        number, end = frame.first, frame.first + len(frame.tasks)
        control = self._control
        self._traced = traced = frame.traced
        if not traced:
            self._sent = 0.0
        for body, task_grants in frame.tasks:
            began = time.monotonic()
            control.begin_task(began)
            control.started = number + 1
            if control.is_recalled(number):
                self._receiver.accept(task_grants)  # and released at once
                reply = protocol.task_skipped(number)
            else:
                reply = self._run_task(number, function, star, body, task_grants, grants)
            settle()
            # Skipped tasks count too: the parent counts the tasks that it has sent.
            self.completed += 1
            # Before the reply, which the parent may read late: the task's time has ended.
            control.end_task()
            number += 1
            if number == end:
                self._usage.note()  # before the last reply, which may end the call
            if traced:
                reply = protocol.traced(began, self._apart, self._sent, reply)
            self._channel.send(reply)
            if traced:
                self._apart, self._sent = 0.0, time.monotonic()
            if self._interrupts.ended_an_import:
                return  # the parent sends the other tasks to the next worker

    def _run_task(
        self,
        number: int,
        function: int,
        star: int,
        body: Body,
        task_grants: Grants,
        blob_grants: dict[int, list[Lease]],
    ) -> Message:
        # All references to arguments are local variables of this function, so none is left when the reply is sent.
        began = ready = time.perf_counter()
        called: Any = None
        # Before an interrupt can come: a lease that is not accepted would never end.
        accepted = self._receiver.accept(task_grants)
        try:
            self._interrupts.begin(number)
            try:
                if is_plain_body(body):
                    (payload,) = body
                elif not self._blobs[function].stateless:
                    called, payload = self._rebuild_both(function, body, accepted, blob_grants)
                else:
                    payload = self._receiver.rebuild(body, accepted, lambda blob: self._rebuild_blob(blob, blob_grants))
                del accepted  # a lease ends with the last object over it, also while the task runs
                if called is None:
                    called = self._rebuild_blob(function, blob_grants)
                self._interrupts.renew()
                ready = time.perf_counter()
                value = self._items.apply(function, called, star, payload)
            finally:
                # Later interrupts have no effect. Earlier ones are caught below, as all errors are.
                self._interrupts.running = -1
        except NotReadableError:
            return protocol.task_unreadable(number)
        except BaseException as error:
            return self._failure(number, (began, ready), called, error)
        try:
            ended = time.perf_counter()
            decode, run = ready - began, ended - ready
            payload = None  # so that arguments which are part of the value have no other owner
            if is_plain(value if type(value) is list else (value,)):
                return protocol.task_done(number, (decode, run, 0.0), protocol.plain(value))
            encoded = encode_value(
                value, star, goes_on(called, star), self._encode, self._sender.reduce, dumps_stream, (ArenaFullError,)
            )
            return protocol.task_done(number, (decode, run, time.perf_counter() - ended), *encoded)
        except ArenaFullError as error:
            return self._failed(number, (began, ready), error, str(error))
        except BaseException as error:
            failure, at = not_sendable(error, value, star)
            return self._failed(number, (began, ready), failure, said(error, str), at)

    def _rebuild_both(
        self, function: int, body: Body, accepted: list[Lease], grants: dict[int, list[Lease]]
    ) -> list[Any]:
        """A function with data and its payload, which may have objects in common."""
        parts = [(self._blobs[function].body, grants.get(function, [])), (body, accepted)]
        return self._receiver.rebuild_in_turn(parts, lambda inner: self._rebuild_blob(inner, grants))

    def _rebuild_blob(self, number: int, grants: dict[int, list[Lease]]) -> Any:
        blob = self._blobs[number]
        if blob.function is not None:
            return blob.function
        rebuilt = self._receiver.rebuild(
            blob.body, grants.get(number, []), lambda inner: self._rebuild_blob(inner, grants)
        )
        if blob.stateless:
            blob.function = rebuilt
        return rebuilt

    def _caught(self, error: BaseException) -> SentError:
        """An exception to return. Raises it if the task was interrupted."""
        sent = raised(error, dumps_stream)
        # The interrupt may also have come while the exception was formatted.
        if self._interrupts.running < 0:
            raise error
        return sent

    def _encode(self, value: Any) -> tuple[Body, Grants]:
        sender = self._sender
        began = time.monotonic() if self._traced else 0.0
        sender.refresh()
        reduced = sender.reduce(value)
        if self._traced:
            self._apart = time.monotonic() - began
        if not reduced.units:
            return protocol.encoded(reduced.stream), ()
        self._reap()
        parcel = sender.place(reduced, self._relieve)
        grants = sender.grant(parcel, _PARENT)
        sender.unpin(parcel.segments)
        self._control.results = sender.use(_PARENT)
        return parcel.body, grants

    def _failure(self, number: int, since: tuple[float, float], called: Any, error: BaseException) -> Message:
        # A separate function, so that no frame of the traceback refers to the error: such a cycle would keep the arguments alive.
        failure, at = contained(error), self._items.failed_at()
        if called is _helper_reraises_exception:
            # An error of the user's iterable. It was not raised here, so this traceback says nothing.
            return self._failed(number, since, failure, "", NO_ITEM)
        text = traceback_of(error)
        return self._failed(number, since, with_traceback(error, failure), text, at)

    def _failed(self, number: int, since: tuple[float, float], failure: Any, text: str, at: int = SOME_ITEM) -> Message:
        began, ready = since
        ended = time.perf_counter()
        try:
            encoded = self._encode(failure)
        except BaseException as error:
            encoded = self._encode(not_encoded(error, getattr(failure, "exc", failure), "the exception"))
        times = ready - began, ended - ready, time.perf_counter() - ended
        return protocol.task_failed(number, times, *encoded, text, at)
