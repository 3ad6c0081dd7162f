"""The signals of a worker process: the parent interrupts its tasks, the parent ends it, and it ends with the parent.

Ctrl-C reaches every process of the terminal's group at once. Only the parent turns it into KeyboardInterrupt. A worker ignores it,
except in a task that the parent has marked as cancelled.

A forked worker inherits the parent's handlers. `Interrupts` replaces them before the initializer runs, which may install others:

- SIGINT: always replaced. A server's handler, or that of `asyncio.run`, would interrupt the wrong task or none.
- SIGTERM: the default stays the default. A handler of the parent runs, as with the standard library: a signal to the whole group
  ends no worker of a program that wants to finish first. If the pool has sent the signal, the worker ends after that. If the parent
  ignores SIGTERM, the worker ignores it unless the pool has sent it.
- `signal.set_wakeup_fd`: reset. The descriptor is that of the parent's event loop, which would take a worker's signals for its own.
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
    """Block the signals that `Interrupts` handles, for workers that are started in this block, until it handles them.

    A forked worker would otherwise run its parent's handlers. Other workers start without handlers: SIGTERM may end them while they
    start. This thread's handlers run at the end of the block.
    """
    # The resource tracker unblocks signals when it starts its own process, so it must run before.
    resource_tracker.ensure_running()
    with handlers_put_off():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS if forks else {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


#: By signal, the replacement and the program's handler that is put off now. Changed by the main thread only.
_put_off: dict[int, tuple[Any, Any]] = {}
_watching = False


@contextlib.contextmanager
def handlers_put_off() -> Iterator[None]:
    """Run Python's signal handlers at the end of this block: their exceptions could come at any line of it. For the main thread.

    A signal mask is not enough: any other thread, such as one of BLAS, may get the signal, and Python runs the handler in the main
    thread.
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
        if over:  # the program's handler is not restored yet
            until_now[number](number, frame)
        elif number not in came:
            came.append(number)

    def catch_up() -> None:
        if came:
            number = came.pop(0)
            try:
                until_now[number](number, sys._getframe())
            finally:
                catch_up()  # all handlers run, even when one raises

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
    """Restore the program's handlers. Also called in a forked child, which the block does not concern."""
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
        The parent marks the cancelled task there, and the end of this process.
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
        if self._inherited not in (signal.SIG_DFL, None):  # None: installed by a C library, so it stays
            signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)

    def begin(self, number: int) -> None:
        """Allow interrupts of the task `number` from now on. Interrupt it at once if the signal has come before."""
        self.running = number
        self._interrupt_if_meant()

    def renew(self) -> None:
        """Make the signal end a task's waits, even when a library that was imported before the task makes the kernel resume them."""
        modules = len(sys.modules)
        if modules != self._modules:
            self._modules = modules
            signal.siginterrupt(signal.SIGINT, True)

    def _handle(self, _signal: int, _frame: FrameType | None) -> Any:
        self._interrupt_if_meant()

    def _terminate(self, number: int, frame: FrameType | None) -> Any:
        if callable(self._inherited):
            self._inherited(number, frame)  # its exception ends the task, and then the worker
        if self._control.ending:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _interrupt_if_meant(self) -> None:
        if self.running >= 0 and self._control.is_interrupted(self.running):
            self.running = -1  # only once: a second interrupt must not hit the code that handles the first
            self.ended_an_import = self.ended_an_import or _is_importing()
            raise KeyboardInterrupt


def _is_importing() -> bool:
    """Whether the code of a module runs, in any thread."""
    specs = (vars(module).get("__spec__") for module in list(sys.modules.values()) if isinstance(module, ModuleType))
    return any(getattr(spec, "_initializing", False) for spec in specs)


class Lifeline:
    """A pipe that the parent never writes to: the kernel reports its end to the workers when the parent has ended.

    All workers of a pool share one. Each worker opens the reading end separately, so that the kernel can signal each of them.
    """

    def __init__(self) -> None:
        with no_forks():
            self._reader, self._writer = os.pipe()
            keep_from_children(self)

    def end_for_worker(self) -> tuple[int, bool]:
        """A descriptor for one worker, and whether `tie` may use it: whether it was opened for this worker only."""
        try:
            return os.open(facilities.proc(f"self/fd/{self._reader}"), os.O_RDONLY), True
        except OSError:
            return os.dup(self._reader), False

    def close(self) -> None:
        """Close both ends, after the last worker has ended."""
        reader, writer = self._reader, self._writer
        # Forgotten first: a child that is forked in between would close other files that have the numbers by then.
        self._reader = self._writer = -1
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)

    close_in_child = close


def tie(pid: int, lifeline: int) -> None:
    """Make the kernel kill the process `pid` when the pipe `lifeline` loses its last writer. No thread of the process has to run.

    The parent calls this as soon as it knows the process, which may be stopped before it calls `die_with_parent`.

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
    """Make this process end within moments of its parent, even while it computes or waits in a system call.

    Parameters
    ----------
    lifeline : int
        The descriptor of `Lifeline.end_for_worker`.
    """
    try:
        # Opened again: if the parent could not do that, several workers share the descriptor.
        tie(os.getpid(), os.open(facilities.proc(f"self/fd/{lifeline}"), os.O_RDONLY))
        is_signalled = _are_sent()
    except OSError:
        is_signalled = False
    if not is_signalled:
        threading.Thread(target=_wait_for_end, args=(lifeline,), name="arrowpool-lifeline", daemon=True).start()
        return
    if wait_readable([lifeline]):  # the parent had ended before `tie`
        os.kill(os.getpid(), signal.SIGKILL)


def _are_sent() -> bool:
    """Whether the kernel sends the chosen signal when a pipe loses its last writer. Some kernels accept the choice and ignore it."""
    reader, writer = os.pipe()
    # A kernel that ignores the choice sends SIGIO instead, which would end this process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG, signal.SIGIO})
    try:
        # To this thread, which has the signal blocked: another thread would take the signal and ignore it.
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
