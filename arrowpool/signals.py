"""What a worker process is to the system's signals: interrupted only on its parent's word, and gone when its parent is.

Ctrl-C reaches every process of the terminal's group at once. The parent alone turns it into KeyboardInterrupt; workers
ignore it, but for the task that the parent says is not wanted any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from arrowpool.memory.control import ControlPage

_F_SETSIG = 10  # fcntl.h


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes started in this block are not interrupted before `Interrupts` is there to say what for."""
    # It unblocks the signal when it starts its own process; so that must have happened before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupts:
    """A worker's answer to SIGINT: KeyboardInterrupt in the one task that the parent has marked, nothing otherwise.

    Parameters
    ----------
    control : ControlPage
        Where the parent marks it.
    """

    def __init__(self, control: ControlPage):
        self._control = control
        self._modules = 0
        #: Number of the task that may be interrupted now, as `begin` said; -1 while there is none.
        self.running = -1
        # A handler of the user's own, inherited by a fork, stays.
        if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGINT, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

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

    def _interrupt_if_meant(self) -> None:
        if self.running >= 0 and self._control.is_interrupted(self.running):
            self.running = -1  # once is enough: what handles the first must not be hit by a second
            raise KeyboardInterrupt


def tie(pid: int, lifeline: int) -> None:
    """Have the kernel kill the process `pid` when the pipe `lifeline` has lost its last writer; no thread of it need run.

    The parent does this as soon as it knows the process, which may be stopped before it comes to `die_with_parent`.

    Parameters
    ----------
    pid : int
        A child of this process, or this process.
    lifeline : int
        Reading end of a pipe that has no writer but the parent.

    Raises
    ------
    OSError
        When the process has ended, or the kernel cannot do it.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, pid)
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | fcntl.FASYNC)


def die_with_parent(lifeline: int) -> None:
    """Have this process end within moments of its parent, also while it computes or waits in a system call.

    Parameters
    ----------
    lifeline : int
        Reading end of a pipe that has no writer but the parent.
    """
    try:
        tie(os.getpid(), lifeline)
    except OSError:
        threading.Thread(target=_wait_for_end, args=(lifeline,), name="arrowpool-lifeline", daemon=True).start()
        return
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):  # it was too late to be told
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)
