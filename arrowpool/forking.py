"""Forks while other threads run: descriptors that a child must not keep, and imports that it must not inherit unfinished.

Guarantees
----------
- A forked worker can import every module that another thread of its parent was importing at the fork. CPython reinitializes
  its global import lock in a child, but not the lock of each module: the child would wait for a thread that it does not have.
- A child keeps neither the parent's ends of the workers' channels nor the descriptors of a worker that is being started, except its
  own. That holds for children of user code, too.
- A forked worker has no pipe of a program or process that another thread was starting at the fork. `subprocess.Popen` and
  `multiprocessing.Process` close their ends of such pipes only after the start. While another process has these ends open, `Popen`
  does not return, and ``Process.join(timeout)`` does not see the end of the process.
- No lock is held while user code runs. A fork waits only for imports and for such starts, at most `_PATIENCE_SECONDS`.

Imports of other threads
------------------------
1. Before the fork, the forking thread waits until no other thread imports. After that, most forks meet no import.
2. An import that began between this wait and the fork has hardly run: the child drops the module and imports it again.
3. An import that outlasts the wait (for example, of a module that uses the pool in its own body) stays as it is. The child gets the
   unfinished module, as in a circular import, and does not wait for the rest. No later fork waits for this import.

Verdict: the child can import each of these modules, and waits for no thread of its parent.

Programs and processes that other threads start
-----------------------------------------------
1. The forking thread shuts all gates and then looks which code the other threads execute: as late as Python code can.
2. If another thread is in ``__init__`` of `subprocess.Popen` or of `multiprocessing.popen_fork.Popen`, the forking thread opens all
   gates, waits, shuts them and looks again. While the gates are open, that thread may fork, and other threads may begin leases.
3. A start that outlasts the wait (a `preexec_fn` that blocks) is not waited for again.

Verdict: a start that begins after the last look meets the fork only if its thread gets the interpreter in between; the fork follows
at once. A fork does not wait for another thread that starts a worker: the pool notices the end of a worker without these pipes. On a
build without the interpreter lock, a fork does not wait for starts: a look at a running thread may crash there
(https://github.com/python/cpython/issues/152355), which is worse than a program whose start waits for a worker's end.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import popen_fork
from typing import Any, Protocol

#: A fork waits at most this long for other threads' imports, and for programs and processes that they start.
_PATIENCE_SECONDS = 3.0
_LOOK_AGAIN_SECONDS = 0.002
#: A start takes a millisecond. Where many threads start programs all the time, the moments without a start are short.
_LOOK_FOR_STARTS_SECONDS = 0.0002

#: The import system's own table: weak references to the locks of the modules that are being imported, by name.
_module_locks: dict[str, weakref.ref[Any]] = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {})


class ParentOnly(Protocol):
    """An object that only the process that made it may keep."""

    def close_in_child(self) -> None:
        """Close all its descriptors in a forked child. At the fork, any thread may have been in the middle of any method."""


#: `os.register_at_fork`; systems that cannot fork do not have it.
_at_fork: Callable[..., None] = getattr(os, "register_at_fork", lambda **_: None)

# The state of this process. A forked child, which has one thread, reads it and resets it.
#: Owners of descriptors that children must not keep. Any thread that holds `_gate` adds; a child reads.
_parent_only: weakref.WeakSet[Any] = weakref.WeakSet()
#: Held across each fork, and while descriptors are made that other children must not keep. Reentrant: a finalizer may fork.
_gate = threading.RLock()
#: The threads that fork a worker now, each with the descriptors for its child. Each thread writes its own entry. A child reads them, and
#: a thread that looks for starts asks for one key: each is one atomic operation of a dict.
_forkers: dict[int, Handover] = {}
#: Those of them whose workers stay. Each thread adds, looks for and removes itself only.
_staying: set[int] = set()
#: Locks of modules whose import outlasted a wait. Any thread that forks a worker adds and reads; a child reads. A thread that misses an
#: entry waits once more, which does no harm.
_outlasted: weakref.WeakSet[Any] = weakref.WeakSet()
#: Starts that outlasted a wait, by the ids of their Popen objects. Written and read by forking threads that hold `_gate`.
_outlasted_starts: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
#: The code that starts a program, or a process under any start method. None if a library has replaced it by something that is not
#: written in Python.
_STARTS = [
    getattr(getattr(kind, "__init__", None), "__code__", None)
    for kind in (subprocess.Popen, getattr(popen_fork, "Popen", None))
]
#: The gates that each fork holds, in the order of registration. Forks shut them in the reverse order. Any thread appends; forking
#: threads read a copy.
_gates: list[Gate] = []
#: Whether the look for starts and the hooks of this module are registered. Any thread reads and sets them: hooks that are registered
#: twice do no harm.
_looks = False
_watching = False


class Gate:
    """A lock that each fork holds, and the hook that acquires it.

    Attributes
    ----------
    nested : bool
        Whether the forking thread held the lock before its fork. Written and read by the thread that holds the lock.
    """

    __slots__ = ("_before", "lock", "nested")

    def __init__(self, lock: threading.RLock, before: Callable[[bool], object] | None):
        self.lock = lock
        self.nested = False
        self._before = before

    def shut(self) -> None:
        nested = self.lock._is_owned()  # type: ignore[attr-defined]
        self.lock.acquire()
        self.nested = nested
        if self._before is not None:
            self._before(nested)


class Handover:
    """Descriptors for one new worker. No other child keeps them, and the parent keeps them only until `close`."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def add(self, fd: int) -> int:
        """Own `fd`."""
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Close them in the parent: the worker has them, or could not be started."""
        while self._fds:
            os.close(self._fds.pop())

    def close_in_child(self) -> None:
        if _forkers.get(threading.get_ident()) is not self:
            self.close()


def hold_across_forks(
    gate: threading.RLock,
    *,
    before: Callable[[bool], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object],
) -> None:
    """Make each forking thread hold `gate` from before the fork until after it, and run these hooks while it holds the gate.

    A thread in a ``with gate`` block keeps all other threads from forking.

    Parameters
    ----------
    gate : RLock
        The lock.
    before : callable, optional
        Called before the fork. Its argument says whether the forking thread held the gate already: in such a block, or in a fork
        around this one. Called again if the forking thread has to wait after the first call.
    after_in_parent, after_in_child : callable
        Called after the fork.
    """
    global _looks
    if not _looks:
        _at_fork(before=_await_starts)  # before all gates, so it runs when all are shut
        _looks = True
    held = Gate(gate, before)
    _at_fork(after_in_child=after_in_child)
    if after_in_parent is not None:
        _at_fork(after_in_parent=after_in_parent)
    # In one call: if another thread forked between two calls, the gate would stay shut. After the hooks above, and not Python code:
    # an exception of a signal handler cannot keep the gate shut.
    _at_fork(
        before=held.shut,
        after_in_parent=gate.release,
        after_in_child=gate._at_fork_reinit,  # type: ignore[attr-defined]
    )
    _gates.append(held)


def run_in_children(hook: Callable[[], object]) -> None:
    """Call `hook` in each forked child from now on. Does nothing on systems that cannot fork."""
    _at_fork(after_in_child=hook)


@contextlib.contextmanager
def no_forks() -> Iterator[None]:
    """Keep all other threads from forking in this block, which makes descriptors and registers their owner. The block must not wait."""
    _watch()
    with _gate:
        yield


def keep_from_children(owner: ParentOnly) -> None:
    """Close `owner` in every child that is forked from now on, while `owner` is referenced.

    If a child kept the parent's end of a channel, workers would not see the end of the parent.
    """
    _watch()
    with _gate:
        _parent_only.add(owner)


@contextlib.contextmanager
def worker_fork(handover: Handover, *, stays: bool = True) -> Iterator[None]:
    """Fork a worker in this block: the child gets `handover`, and does not wait for imports of other threads.

    Parameters
    ----------
    handover : Handover
        The descriptors of the worker.
    stays : bool
        Whether the child goes on as this program. A child that executes another program (loky before 3.5 forks it from Python)
        needs the descriptors, and no imports.
    """
    _watch()
    if stays:
        _await_imports()
    me = threading.get_ident()
    _forkers[me] = handover
    if stays:
        _staying.add(me)
    try:
        yield
    finally:
        del _forkers[me]
        _staying.discard(me)


def _of_others() -> list[tuple[str, Any]]:
    """The modules that other threads are importing at this moment, with their locks."""
    me = threading.get_ident()
    found = []
    for name, reference in list(_module_locks.items()):
        lock = reference()
        if lock is not None and getattr(lock, "owner", None) not in (None, me):
            found.append((name, lock))
    return found


def _await_imports() -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while waited_for := [lock for _, lock in _of_others() if lock not in _outlasted]:
        if time.monotonic() > until:
            _outlasted.update(waited_for)
            return
        time.sleep(_LOOK_AGAIN_SECONDS)  # the import system has no wait with a time limit


def _has_interpreter_lock() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()  # since Python 3.13


def _starting() -> list[Any]:
    """The Popen objects that other threads are making at this moment, without those that outlasted a wait."""
    if not _has_interpreter_lock():
        return []
    found = []
    running = sys._current_frames()
    # Not in a variable: a frame that refers to itself would keep all its callers' objects until the next garbage collection.
    running.pop(threading.get_ident(), None)
    for thread, top in running.items():
        frame: types.FrameType | None = None if thread in _forkers else top
        while frame is not None:
            if frame.f_code in _STARTS:
                start = frame.f_locals.get("self")
                # A forked process runs in the call that has started it.
                is_over = start is None or getattr(start, "pid", None) == 0
                if not is_over and _outlasted_starts.get(id(start)) is not start:
                    found.append(start)
            frame = frame.f_back
    return found


def _await_starts() -> None:
    """Wait until no other thread starts a program or process, if this thread forks a worker that stays. All gates are held at the return."""
    gates = _gates.copy()
    if threading.get_ident() not in _staying or any(gate.nested for gate in gates):
        return
    until = time.monotonic() + _PATIENCE_SECONDS
    while waited_for := _starting():
        if time.monotonic() > until:
            _outlasted_starts.update((id(one), one) for one in waited_for)
            return
        for gate in gates:
            gate.lock.release()
        while _starting() and time.monotonic() <= until:
            time.sleep(_LOOK_FOR_STARTS_SECONDS)  # Python reports no end of a start
        for gate in reversed(gates):
            gate.shut()


def _watch() -> None:
    """Register the fork hooks, once per process and its forked children."""
    global _watching
    if not _watching:
        hold_across_forks(_gate, after_in_child=_after_in_child)
        # Last: a registration that was interrupted is done again; hooks that are registered twice do no harm.
        _watching = True


def _after_in_child() -> None:
    for owner in list(_parent_only):
        owner.close_in_child()
    _parent_only.clear()
    if threading.get_ident() in _forkers:
        _free_modules()
    _forkers.clear()
    _staying.clear()


def _free_modules() -> None:
    """Remove the import locks of threads that are not in this process."""
    for name, lock in _of_others():
        del _module_locks[name]
        module = sys.modules.get(name)
        if lock not in _outlasted and getattr(getattr(module, "__spec__", None), "_initializing", False):
            del sys.modules[name]
