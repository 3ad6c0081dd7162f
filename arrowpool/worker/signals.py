"""The signals of a worker process: the parent interrupts its tasks, and the parent ends it.

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
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, ModuleType
from typing import Any

from arrowpool.forking import no_forks
from arrowpool.memory.control_page import ControlPage

_OURS = {signal.SIGINT, signal.SIGTERM}


@contextlib.contextmanager
def signals_held_back(forks: bool) -> Iterator[None]:
    """Block the signals that `Interrupts` handles, for workers that are started in this block, until it handles them.

    A forked worker would otherwise run its parent's handlers. Other workers start without handlers: SIGTERM may end them while they
    start. This thread's handlers run at the end of the block.
    """
    # The resource tracker unblocks signals when it starts its own process, so it must run before. Not while another thread forks: its
    # child would find the tracker's lock held, and for ever.
    with no_forks():
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
        # The state. Written and read by the main thread only: in `begin` and `renew`, by the worker's loop, and by the handlers,
        # which Python runs in the main thread between two of its instructions. No lock could guard against those; each change is one
        # store.
        #: Number of modules at the last `renew`.
        self._modules = 0
        #: Number of the task that may be interrupted now; -1 while there is none. `begin` sets it; the interrupt and the end of the
        #: task clear it.
        self.running = -1
        #: Whether an interrupt ended the import of a module. Set once. This process may never be able to import that module again:
        #: modules in C, such as those of pandas, are initialised once in a process.
        self.ended_an_import = False
        #: The parent's handler of SIGTERM. Not changed after construction.
        self._inherited = signal.getsignal(signal.SIGTERM)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, self._handle)
        if self._inherited not in (signal.SIG_DFL, None):  # None: installed by a C library, so it stays
            signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)

    def begin(self, number: int) -> None:
        """Allow interrupts of the task `number` from now on. Interrupt it at once if the signal has come before.

        Race: the parent cancels the task at any moment.

        1. The parent marks the task in the control page, then sends SIGINT.
        2. This thread sets `running`, then looks for the mark.
        3. The handler looks for the mark if `running` is set.

        Verdict: if the handler runs before `running` is set, this thread finds the mark, which was there before the signal. If it runs
        later, the handler finds it. Both may find it: the first one clears `running` before it raises, so there is one interrupt.
        """
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
