"""The owner in this process: made when the first object is put, closed at exit, and left to the parent by a forked child."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from types import FrameType

from arrowpool.shelf import files, locks
from arrowpool.shelf.owner import Owner

#: The owner of this process. Written with `_starting` held, by `close`, and in a forked child. Read by any thread without a lock:
#: it gets the owner or None, and both are valid at that moment.
_owner: Owner | None = None
#: The first owner that was made, by process id. See `owner`.
_owners: dict[int, Owner] = {}
_starting = threading.RLock()


def current() -> Owner | None:
    """The owner of this process; None where nothing was put."""
    one = _owner
    return one if one is not None and one.pid == os.getpid() else None


def owner() -> Owner:
    """The owner of this process, made by the first call.

    Race: a signal handler or finalizer that puts an object interrupts this thread while it makes the owner. The lock is reentrant.

    1. The interrupted call has made an owner, or is about to.
    2. The interrupting call makes one as well, and enters it in `_owners` by `setdefault`, a single step.
    3. The interrupted call goes on, finds that `setdefault` returns the other one, and closes its own.

    Verdict: both return the owner that was entered first.
    """
    global _owner
    with _starting:
        if _owner is None or _owner.pid != os.getpid():
            made = Owner()
            first = _owners.setdefault(made.pid, made)
            if first is made:
                made.start()
                atexit.register(close)
            else:
                made.close()
            _owner = first
        return _owner


def close() -> None:
    """Give back everything that this process has put."""
    global _owner
    one = current()
    if one is not None:
        _owners.clear()
        one.close()
        _owner = None


def _forget_in_child() -> None:
    global _owner, _starting
    _starting = threading.RLock()
    locks.forget_locks()
    for one in _owners.values():
        one.forget()
    _owners.clear()
    _owner = None
    if not _is_at_work(sys._getframe().f_back):
        files.close_inherited()


def _is_at_work(frame: FrameType | None) -> bool:
    """Whether a signal handler or finalizer forked while this thread was in the shelf's code, which the child may finish."""
    while frame is not None:
        if frame.f_globals.get("__package__") == __package__:
            return True
        frame = frame.f_back
    return False


os.register_at_fork(after_in_child=_forget_in_child)
