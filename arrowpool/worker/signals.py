"""What a worker process is to the system's signals: interrupted and ended on its parent's word, and gone when its parent is.

Ctrl-C reaches every process of the terminal's group at once. The parent alone turns it into KeyboardInterrupt; workers
ignore it, but for the task that the parent says is not wanted any more.

A forked worker inherits the parent's handlers. `take_over` makes the signals its own, before the initializer runs, which may
decide otherwise:

- SIGINT: always ours. A server's handler, or that of `asyncio.run`, would interrupt the wrong task or none.
- SIGTERM: what was the default stays the default. A handler of the parent's runs, as with the standard library (a signal to
  the whole group ends no worker of a program that wants to finish first); but on the word of the pool the worker ends after
  that. Where the parent ignores SIGTERM, the worker obeys the pool and no one else.
- The descriptor of `signal.set_wakeup_fd` is the parent's event loop's: a worker's signals would be taken for the parent's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, ModuleType
from typing import Any

from arrowpool.forking import keep_from_children, no_forks
from arrowpool.memory import facilities
from arrowpool.memory.control_page import ControlPage
from arrowpool.waiting import wait_readable

# fcntl.h
_F_SETSIG = 10
_F_SETOWN_EX = 15
_F_OWNER_TID = 0
_OURS = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def signals_held_back(forks: bool) -> Iterator[None]:
    """Workers started in this block get no signal that `Interrupts` will handle before it does.

    A forked one would otherwise handle it as its parent does, in its parent's name. The others come with no handlers: they
    may be ended while they start. This thread's handlers run at the end of the block.
    """
    # It unblocks the signal when it starts its own process; so that must have happened before.
    resource_tracker.ensure_running()
    with handlers_put_off():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS if forks else {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: The program's handlers that are put off just now, by their signals; changed by the main thread alone.
_put_off: dict[int, tuple[Any, Any]] = {}
_watching = False


@contextlib.contextmanager
def handlers_put_off() -> Iterator[None]:
    """Python's signal handlers, whose exceptions could come at any line of this block, run at its end. In the main thread only.

    A mask alone does not do: any other thread (of BLAS, say) may get the signal, and Python runs the handler in the main one.
    """
    if _put_off or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch()
    came: list[int] = []
    until_now: dict[int, Any] = {
        number: handler for number in signal.valid_signals() if callable(handler := signal.getsignal(number))
    }
    over = False

    def note(number: int, frame: FrameType | None) -> None:
        if over:  # not taken back yet
            until_now[number](number, frame)
        elif number not in came:
            came.append(number)

    def catch_up() -> None:
        if came:
            number = came.pop(0)
            try:
                until_now[number](number, sys._getframe())
            finally:
                catch_up()  # all of them run, also when one raises

    try:
        for number, handler in until_now.items():
            _put_off[number] = note, handler
            signal.signal(number, note)
        yield
    finally:
        over = True
        try:
            _take_back()
        finally:
            try:
                _take_back()  # the rest, if a handler raised
            finally:
                catch_up()


def _take_back() -> None:
    """Have the program's handlers back; in a forked child as well, whose signals are no business of the block."""
    while _put_off:
        number, (note, handler) = _put_off.popitem()
        if signal.getsignal(number) is note:
            signal.signal(number, handler)


def _watch() -> None:
    global _watching
    if not _watching:
        os.register_at_fork(after_in_child=_take_back)
        _watching = True


class Interrupts:
    """A worker's signals, taken over from the process it was forked from.

    SIGINT: KeyboardInterrupt in the one task that the parent has marked, nothing otherwise. SIGTERM: see above.

    Parameters
    ----------
    control : ControlPage
        Where the parent marks the task, and says whether this process shall end.
    """

    def __init__(self, control: ControlPage):
        self._control = control
        self._modules = 0
        #: Number of the task that may be interrupted now, as `begin` said; -1 while there is none.
        self.running = -1
        #: Whether an interrupt ended the import of a module. This process may never be able to import that module again:
        #: modules in C, such as those of pandas, are initialised once in a process.
        self.ended_an_import = False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, self._handle)
        self._inherited = signal.getsignal(signal.SIGTERM)
        if self._inherited not in (signal.SIG_DFL, None):  # None: of some C library, which may know why
            signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)

    def begin(self, number: int) -> None:
        """The task `number` may be interrupted from now on; at once, if the signal has come before this."""
        self.running = number
        self._interrupt_if_meant()

    def renew(self) -> None:
        """Have the signal end what a task waits for, also when a library imported before it (not in it) would have it resumed."""
        modules = len(sys.modules)
        if modules != self._modules:
            self._modules = modules
            signal.siginterrupt(signal.SIGINT, True)

    def _handle(self, _signal: int, _frame: FrameType | None) -> Any:
        self._interrupt_if_meant()

    def _terminate(self, number: int, frame: FrameType | None) -> Any:
        if callable(self._inherited):
            self._inherited(number, frame)  # what it raises ends the task, and the worker after that
        if self._control.ending:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _interrupt_if_meant(self) -> None:
        if self.running >= 0 and self._control.is_interrupted(self.running):
            self.running = -1  # once is enough: what handles the first must not be hit by a second
            self.ended_an_import = self.ended_an_import or _is_importing()
            raise KeyboardInterrupt


def _is_importing() -> bool:
    """Whether the code of a module runs, in any thread."""
    specs = (vars(module).get("__spec__") for module in list(sys.modules.values()) if isinstance(module, ModuleType))
    return any(getattr(spec, "_initializing", False) for spec in specs)


class Lifeline:
    """A pipe on which nothing is ever written: its readers, the workers, are told when its one writer, the parent, is no more.

    One for all workers of a pool. Each is given a reading end by which the kernel can tell it apart from the others.
    """

    def __init__(self) -> None:
        with no_forks():
            self._reader, self._writer = os.pipe()
            keep_from_children(self)

    def end_for_worker(self) -> tuple[int, bool]:
        """A descriptor for one worker, and whether `tie` may be used on it: whether it is no other worker's as well."""
        try:
            return os.open(facilities.proc(f"self/fd/{self._reader}"), os.O_RDONLY), True
        except OSError:
            return os.dup(self._reader), False

    def close(self) -> None:
        """No worker is left."""
        for fd in (self._reader, self._writer):
            if fd >= 0:
                os.close(fd)
        self._reader = self._writer = -1

    close_in_child = close


def tie(pid: int, lifeline: int) -> None:
    """Have the kernel kill the process `pid` when the pipe `lifeline` has lost its last writer; no thread of it need run.

    The parent does this as soon as it knows the process, which may be stopped before it comes to `die_with_parent`.

    Parameters
    ----------
    pid : int
        A child of this process, or this process.
    lifeline : int
        Reading end of a pipe that has no writer but the parent, opened for this process.

    Raises
    ------
    OSError
        When the process has ended, or the kernel cannot do it.
    """
    if not facilities.has("sigio"):
        raise OSError("no signals from pipes")
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, pid)
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | fcntl.FASYNC)


def die_with_parent(lifeline: int) -> None:
    """Have this process end within moments of its parent, also while it computes or waits in a system call.

    Parameters
    ----------
    lifeline : int
        What `Lifeline.end_for_worker` gave.
    """
    try:
        # Opened again: where the parent could not do that, other workers have the same.
        tie(os.getpid(), os.open(facilities.proc(f"self/fd/{lifeline}"), os.O_RDONLY))
        told = _are_sent()
    except OSError:
        told = False
    if not told:
        threading.Thread(target=_wait_for_end, args=(lifeline,), name="arrowpool-lifeline", daemon=True).start()
        return
    if wait_readable([lifeline]):  # the parent had ended before `tie`
        os.kill(os.getpid(), signal.SIGKILL)


def _are_sent() -> bool:
    """Whether the kernel does what it has accepted: a pipe that loses its last writer sends the signal of our choice."""
    reader, writer = os.pipe()
    # A kernel that accepts the choice and ignores it sends SIGIO instead, which would end this process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG, signal.SIGIO})
    try:
        # To this thread, which alone has it blocked: others would take the signal and ignore it.
        fcntl.fcntl(reader, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, threading.get_native_id()))
        fcntl.fcntl(reader, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | fcntl.FASYNC)
        os.close(writer)
        writer = -1
        sent = signal.sigtimedwait({signal.SIGURG, signal.SIGIO}, 0)
        return sent is not None and sent.si_signo == signal.SIGURG
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _wait_for_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)
