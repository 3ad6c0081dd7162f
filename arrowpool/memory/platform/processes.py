"""Linux: how a process notices that another one has ended. Each way has a substitute for systems that lack it."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading

from arrowpool.memory import facilities
from arrowpool.memory.platform.linux import open_again
from arrowpool.memory.platform.posix import end_with
from arrowpool.waiting import wait_readable

# fcntl.h
_F_SETSIG = 10
_F_SETOWN_EX = 15
_F_OWNER_TID = 0


def watch_end(pid: int) -> int:
    """A descriptor that is readable when the process has ended, also while children of it run.

    Raises
    ------
    OSError
        When the kernel has no such descriptors. The sentinel of `multiprocessing` is the substitute.
    """
    if not facilities.has("pidfd") or not hasattr(os, "pidfd_open"):  # some builds of Python lack it
        raise OSError("no pidfd")
    return os.pidfd_open(pid)


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
        The descriptor of `Lifeline.end_for_worker`, in `worker.lifeline`.
    """
    try:
        # Opened again: if the parent could not do that, several workers share the descriptor.
        tie(os.getpid(), open_again(lifeline, os.O_RDONLY))
        is_signalled = _are_sent()
    except OSError:
        is_signalled = False
    if not is_signalled:
        end_with(lifeline)
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
