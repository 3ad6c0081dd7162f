"""Every error of arrowpool's own, by whose fault it is.

Each subclasses what a user of `multiprocessing` or `concurrent.futures` already catches. What belongs to the Pool API
keeps the standard library's errors: ``ValueError("Pool not running")``, ``multiprocessing.TimeoutError``,
``multiprocessing.pool.MaybeEncodingError``.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

__all__ = [
    "ArenaFullError",
    "ForkedPoolError",
    "PoolTerminatedError",
    "ShelfKeyError",
    "TaskExitError",
    "TaskTimeoutError",
    "TransferError",
    "WorkerInitError",
    "WorkerLostError",
]


class WorkerLostError(BrokenProcessPool):
    """A worker process ended while it ran a task; only that task's call fails, the pool goes on.

    Attributes
    ----------
    pid : int
        Process id of the worker that was lost.
    exitcode : int or None
        Its exit code; negative for the signal that ended it, None when it could not be learnt.
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


class WorkerInitError(BrokenProcessPool):
    """The initializer failed in a worker, so no worker of this pool can ever run a task."""


class TaskExitError(RuntimeError):
    """A task, or what pickles it, raised SystemExit or KeyboardInterrupt; that would end or interrupt the caller."""


def contained(error: BaseException, doing: str = "the task") -> BaseException:
    """`error` itself, or a `TaskExitError` in place of what would end or interrupt whoever it is raised in."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return TaskExitError(f"{doing} raised {said(error)}")
    return error


def said(obj: object, how: Callable[[Any], str] = repr) -> str:
    """What an object says of itself, or that it cannot: its own code must not end a thread that all calls depend on."""
    try:
        return how(obj)
    except BaseException:
        return f"<{type(obj).__name__}, whose {how.__name__}() fails>"


def again(error: BaseException) -> BaseException:
    """The same error for somebody else: one object raised twice would hold on to the frames of both."""
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other


class TaskTimeoutError(TimeoutError):
    """A task ran for longer than the pool's `task_timeout`; its worker was killed and replaced, the pool goes on.

    Attributes
    ----------
    pid : int
        Process id of the worker that was killed.
    seconds : float
        The time that it had.
    """

    def __init__(self, pid: int, seconds: float, task: str):
        super().__init__(pid, seconds, task)
        self.pid = pid
        self.seconds = seconds
        self.task = task

    def __str__(self) -> str:
        return (
            f"{self.task} ran for more than {self.seconds:g} s in worker {self.pid}, which was killed and replaced; "
            "give a larger task_timeout to the pool, or smaller chunks to the tasks."
        )


class TransferError(RuntimeError):
    """What a worker sent could not be rebuilt in this process; the cause is the error that rebuilding raised."""


class ForkedPoolError(RuntimeError):
    """A forked child uses a pool of its parent. The pool's threads stayed there: make a new pool in the child.

    Attributes
    ----------
    pid : int
        The process that has the pool.
    """

    def __init__(self, pid: int):
        super().__init__(pid)
        self.pid = pid

    def __str__(self) -> str:
        return (
            f"this pool belongs to process {self.pid}: its threads are not in this process, which was forked from that one. "
            "Make a new pool here."
        )


class PoolTerminatedError(RuntimeError):
    """The pool was terminated before this result was there."""


class ShelfKeyError(KeyError):
    """There is nothing on the shelf under that key: never was, was deleted, went with its owner, or is damaged."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ArenaFullError(MemoryError):
    """There is no room for an object in shared memory."""


def describe_exit(exitcode: int | None) -> str:
    """How a process ended, in words: "was killed by SIGKILL", "exited with code 3"."""
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
        return "look into the system's log for what ended it."
    if exitcode >= 0:
        return "the task, or a library it calls, ended the process (sys.exit, os._exit). Return or raise an Exception instead."
    if -exitcode == signal.SIGKILL:
        return "often the kernel's out-of-memory killer. Use smaller chunks or fewer processes, and see `dmesg`."
    if -exitcode in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
        return "usually a fault in compiled code that the task calls. Run the task alone with `python -X faulthandler`."
    return "somebody sent it that signal."
