"""All errors of arrowpool.

Each is an `ArrowPoolError`, and subclasses what users of `multiprocessing` or `concurrent.futures` already catch. Errors that
belong to the Pool API are the standard library's own: ``ValueError("Pool not running")``, ``multiprocessing.TimeoutError``,
``multiprocessing.pool.MaybeEncodingError``.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from types import TracebackType
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
    "UnsupportedError",
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
        What it ran, such as ``compute on item 617 of 1,000``; or, when it is not known which item of a chunk the worker ran,
        ``compute on items 600 to 649 of 1,000``.
    index : int or None
        Index of the item, counted from 0. None when it is not known, and for `apply`.
    tries : int
        How often the task was run: more than once with ``retries``.
    """

    def __init__(self, pid: int, exitcode: int | None, task: str, index: int | None = None, tries: int = 1):
        super().__init__(pid, exitcode, task)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.index = index
        self.tries = tries

    def __str__(self) -> str:
        tried = f" (tried {self.tries} times)" if self.tries > 1 else ""
        return (
            f"worker {self.pid} {describe_exit(self.exitcode)} while it ran {self.task}{tried}; "
            f"{_likely_cause(self.exitcode)}"
        )


class WorkerInitError(ArrowPoolError, BrokenProcessPool):
    """No worker of the pool can run tasks: the initializer failed, or no worker can be started."""


class TaskExitError(ArrowPoolError, RuntimeError):
    """A task, or code that pickles it, raised SystemExit or KeyboardInterrupt.

    Raised in place of these, which would end or interrupt the caller.
    """


def contained(error: BaseException, doing: str = "the task") -> BaseException:
    """`error` itself, or a `TaskExitError` in place of a SystemExit or KeyboardInterrupt."""
    if issubclass(type(error), (SystemExit, KeyboardInterrupt)):  # not `isinstance`, which may run code of its class
        return TaskExitError(f"{doing} raised {said(error)}")
    return error


def said(obj: object, how: Callable[[Any], str] = repr) -> str:
    """The `repr` of an object, or a note that its `repr` fails: user code must not end a thread that serves all calls."""
    try:
        return how(obj)
    except BaseException:
        return f"<{type(obj).__name__}, whose {how.__name__}() fails>"


#: The attributes of an exception, whatever its class does with attributes.
_attributes_of: Callable[[BaseException], dict[str, Any]] = vars(BaseException)["__dict__"].__get__
#: Its traceback, likewise.
trace_of: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__
_set_attributes_of: Callable[[BaseException, dict[str, Any]], None] = vars(BaseException)["__dict__"].__set__
#: An exception that is one object for all tasks gets no more notes than this.
_MOST_NOTES = 20


def add_note(error: BaseException, note: str) -> None:
    """Add a line below the text of an error in its traceback. Runs no code of the error's class, and never fails.

    Python 3.10 does not show notes. There, the worker's traceback in the error's cause gets the line as well.
    """
    with contextlib.suppress(Exception):
        notes = _attributes_of(error).setdefault("__notes__", [])
        if type(notes) is list and len(notes) < _MOST_NOTES and note not in notes:
            notes.append(note)
            cause: Any = error.__cause__
            if sys.version_info < (3, 11) and type(cause) is RemoteTraceback:
                cause.tb += f"\n{note}"


def with_notes(text: str, error: BaseException) -> str:
    """The text of a traceback, and the notes of its error below it, for Python 3.10."""
    with contextlib.suppress(Exception):
        text = "\n".join([text, *_attributes_of(error).get("__notes__", ())])
    return text


def set_index(error: BaseException, index: int) -> None:
    """Set the attribute `index` of an error, unless its class has or makes such an attribute, or guards its attributes."""
    with contextlib.suppress(Exception):
        defined = [vars(kind) for kind in type(error).__mro__ if kind not in _PLAIN_CLASSES]
        if not any(name in names for names in defined for name in ("index", *_GUARDS)):
            _attributes_of(error).setdefault("index", index)


#: The attribute of an error that says who named it: a process, the number of its call, and the index and note that it has set.
_NAMED = "_arrowpool_named"


def name_item(error: BaseException, job: int, index: int | None = None, note: str = "") -> None:
    """Say in an error to which item of a call it belongs: as the attribute `index`, and in a note. Never fails.

    A task may raise an error again that an earlier call of this process has raised: what that call has said is removed. The note of
    a call within the task stays, which another process has made; the index becomes that of this call.

    Parameters
    ----------
    error : BaseException
        The error.
    job : int
        Number of the call.
    index : int, optional
        Index of the item, if it is known and the call has items.
    note : str
        The item in words; may be empty.
    """
    with contextlib.suppress(Exception):
        attributes, pid = _attributes_of(error), os.getpid()
        named = attributes.pop(_NAMED, None)
        if type(named) is tuple and named[:2] != (pid, job):
            _forget(attributes, named[2], named[3] if named[0] == pid else "")
        if note:
            add_note(error, note)
        if index is not None:
            set_index(error, index)
        if note or index is not None:
            attributes[_NAMED] = (pid, job, index, note)


def _forget(attributes: dict[str, Any], index: int | None, note: str) -> None:
    if index is not None and attributes.get("index") == index:
        del attributes["index"]
    notes = attributes.get("__notes__")
    if type(notes) is list and note in notes:
        notes.remove(note)
        if not notes:
            del attributes["__notes__"]


#: Classes with the methods below that do what they always do.
_PLAIN_CLASSES = (object, BaseException)
_GUARDS = ("__getattr__", "__getattribute__", "__setattr__")


def again(error: BaseException) -> BaseException:
    """A copy of the error for another call: an exception that is raised twice keeps the frames of both calls alive."""
    other = copy.copy(error)
    if _attributes_of(other) is _attributes_of(error):  # by a copier of another library (tblib, which Dask installs)
        _set_attributes_of(other, _attributes_of(error).copy())
    other.__cause__ = error.__cause__
    notes = _attributes_of(other).get("__notes__")
    if type(notes) is list:
        _attributes_of(other)["__notes__"] = notes[:]
    return other


class TaskTimeoutError(ArrowPoolError, TimeoutError):
    """A task, or an item of a chunk, ran longer than the pool's `task_timeout`. Its worker was killed and replaced; the pool goes on.

    Attributes
    ----------
    pid : int
        Process id of the killed worker.
    seconds : float
        The limit.
    task : str
        What it ran, such as ``compute on item 617 of 1,000``; or, when it is not known which item of a chunk the worker ran,
        ``compute on items 600 to 649 of 1,000``.
    index : int or None
        Index of the item, counted from 0. None when it is not known, and for `apply`.
    """

    def __init__(self, pid: int, seconds: float, task: str, index: int | None = None):
        super().__init__(pid, seconds, task)
        # An OSError takes three arguments for a number, a text and a file of the system.
        self.errno = self.strerror = self.filename = None
        self.args = (pid, seconds, task)
        self.pid = pid
        self.seconds = seconds
        self.task = task
        self.index = index

    def __str__(self) -> str:
        return (
            f"{self.task} ran for more than {self.seconds:g} s in worker {self.pid}, which was killed and replaced; "
            "give the pool a larger task_timeout."
        )


class TransferError(ArrowPoolError, RuntimeError):
    """A result could not be rebuilt in this process. The cause is the error that rebuilding raised."""


class UnsupportedError(ArrowPoolError, NotImplementedError):
    """This system cannot do what was asked for. The text says what it lacks, and what works instead."""


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


class ArenaFullError(MemoryError, ArrowPoolError):  # in this order, `ArenaFullError.__new__` can be called: tblib does
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
    name = describe_exit(exitcode).rpartition(" ")[2]  # not `signal.SIGKILL`, which Windows does not have
    if name == "SIGKILL":
        return "often the kernel's out-of-memory killer. Use smaller chunks or fewer processes, and see `dmesg`."
    if name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE"):
        return "usually a fault in compiled code that the task calls. Run the task alone with `python -X faulthandler`."
    return "another process sent the signal."
