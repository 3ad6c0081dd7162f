"""All errors of arrowpool.

Each is an `ArrowPoolError`, and subclasses what users of `multiprocessing` or `concurrent.futures` already catch. Errors that
belong to the Pool API are the standard library's own: ``ValueError("Pool not running")``, ``multiprocessing.TimeoutError``,
``multiprocessing.pool.MaybeEncodingError``.
"""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

__all__ = [
    "ArenaFullError",
    "ArrowPoolError",
    "ForkedPoolError",
    "PoolTerminatedError",
    "ShelfKeyError",
    "TaskExitError",
    "TaskTimeoutError",
    "TransferError",
    "WorkerInitError",
    "WorkerLostError",
]


class ArrowPoolError(Exception):
    """Base of all errors of arrowpool."""


class WorkerLostError(ArrowPoolError, BrokenProcessPool):
    """A worker process ended while it ran a task. Only that task's call fails; the pool goes on.

    Attributes
    ----------
    pid : int
        Process id of the lost worker.
    exitcode : int or None
        Exit code of the worker: negative for the signal that ended it, None when it is unknown.
    task : str
        The lost task, such as ``task 3 of compute``.
    """

    def __init__(self, pid: int, exitcode: int | None, task: str):
        super().__init__(pid, exitcode, task)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task

    def __str__(self) -> str:
        return (
            f"worker {self.pid} {describe_exit(self.exitcode)} while it ran {self.task}; {_likely_cause(self.exitcode)}"
        )


class WorkerInitError(ArrowPoolError, BrokenProcessPool):
    """No worker of the pool can run tasks: the initializer failed, or no worker can be started."""


class TaskExitError(ArrowPoolError, RuntimeError):
    """A task, or code that pickles it, raised SystemExit or KeyboardInterrupt.

    Raised in place of these, which would end or interrupt the caller.
    """


def contained(error: BaseException, doing: str = "the task") -> BaseException:
    """`error` itself, or a `TaskExitError` in place of a SystemExit or KeyboardInterrupt."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return TaskExitError(f"{doing} raised {said(error)}")
    return error


def said(obj: object, how: Callable[[Any], str] = repr) -> str:
    """The `repr` of an object, or a note that its `repr` fails: user code must not end a thread that serves all calls."""
    try:
        return how(obj)
    except BaseException:
        return f"<{type(obj).__name__}, whose {how.__name__}() fails>"


def add_note(error: BaseException, note: str) -> None:
    """Add a line below the text of an error in its traceback. Python 3.10 has no notes: without effect there."""
    with contextlib.suppress(Exception):  # AttributeError of Python 3.10, or a class that refuses attributes
        error.add_note(note)  # type: ignore[attr-defined, unused-ignore]


def again(error: BaseException) -> BaseException:
    """A copy of the error for another call: an exception that is raised twice keeps the frames of both calls alive."""
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other


class TaskTimeoutError(ArrowPoolError, TimeoutError):
    """A task ran longer than the pool's `task_timeout`. Its worker was killed and replaced; the pool goes on.

    Attributes
    ----------
    pid : int
        Process id of the killed worker.
    seconds : float
        The limit.
    task : str
        The task, such as ``task 3 of compute``.
    """

    def __init__(self, pid: int, seconds: float, task: str):
        super().__init__(pid, seconds, task)
        self.pid = pid
        self.seconds = seconds
        self.task = task

    def __str__(self) -> str:
        return (
            f"{self.task} ran for more than {self.seconds:g} s in worker {self.pid}, which was killed and replaced; "
            "give the pool a larger task_timeout, or use smaller chunks."
        )


class TransferError(ArrowPoolError, RuntimeError):
    """A result could not be rebuilt in this process. The cause is the error that rebuilding raised."""


class ForkedPoolError(ArrowPoolError, RuntimeError):
    """A forked child uses a pool of its parent, whose threads are in the parent. Make a new pool in the child.

    Attributes
    ----------
    pid : int
        The process that made the pool.
    """

    def __init__(self, pid: int):
        super().__init__(pid)
        self.pid = pid

    def __str__(self) -> str:
        return (
            f"this pool belongs to process {self.pid}; its threads are not in this process, a forked child. "
            "Make a new pool here."
        )


class PoolTerminatedError(ArrowPoolError, RuntimeError):
    """The pool was terminated before the call had its result."""


class ShelfKeyError(ArrowPoolError, KeyError):
    """The shelf has no object under this key: it was never put, was deleted, ended with its owner, or is damaged."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ArenaFullError(ArrowPoolError, MemoryError):
    """Shared memory has no space for an object."""


def describe_exit(exitcode: int | None) -> str:
    """Describe how a process ended: "was killed by SIGKILL", "exited with code 3"."""
    if exitcode is None:
        return "was lost"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"was killed by {name}"


def _likely_cause(exitcode: int | None) -> str:
    if exitcode is None:
        return "see the system's log for the cause."
    if exitcode >= 0:
        return "the task, or a library it calls, ended the process (sys.exit, os._exit). Return or raise an Exception instead."
    if -exitcode == signal.SIGKILL:
        return "often the kernel's out-of-memory killer. Use smaller chunks or fewer processes, and see `dmesg`."
    if -exitcode in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
        return "usually a fault in compiled code that the task calls. Run the task alone with `python -X faulthandler`."
    return "another process sent the signal."
