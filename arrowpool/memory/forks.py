"""Forked children that still see leases which this process held when they were forked.

A fork copies every view of shared memory into the child, without the knowledge of the memory's owner. So a lease that ends in this
process is released only when no child sees its memory any more. `lease` calls this module at the beginning and the end of each
lease; every loop of the package calls `settle_forks` between messages.

Theory of operation
-------------------
Forks are numbered. Each fork passes the writing end of a pipe to the child, and so to the child's children; this process
keeps the reading end. When the reading end reports the end of the pipe, the child and all its descendants are gone. Each held
object stores the number of forks before it began. When it ends, the children of the forks since then can see it; it is released
when the last of them is gone. A child never releases objects that it inherited.

The children of consecutive forks see the same objects if no object began or ended in between: they share one pipe. If a fork finds
no free descriptor, the end of its child cannot be noticed: objects that this child sees are never released.

A thread may fork while it forks: in a signal handler, in a finalizer, or in the fork hook of another library. Each fork is
counted as it comes. The writing ends stay open until the outer fork is done, so that both children have them. A lease that
begins inside a fork hook is seen by the child of the outer fork, which was counted before; so that fork is counted once more.

The cost of a fork does not depend on the number of held objects. The cost of looking for children that are gone does not either.

Who runs what
-------------
- `begin` and the fork hooks run in any thread, one at a time: they hold `_gate`.
- `end` runs in any thread, also inside a finalizer. It takes no lock; each step is one atomic operation on a set or a deque.
- One thread at a time looks which children are gone: it holds `_settling`. A thread that finds it held does not wait.
"""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_left
from collections import deque

from arrowpool.forking import hold_across_forks
from arrowpool.memory import platform
from arrowpool.waiting import POLLHUP, POLLIN, poll

_log = logging.getLogger(__name__)


class Held:
    """An object that this process holds, and that children see if they are forked meanwhile."""

    __slots__ = ("began", "ended")

    #: Number of forks before it began. Written by `begin`, before the object is in `_live`.
    began: int
    #: Number of forks before it ended. Written by the thread that ends it.
    ended: int

    def release(self) -> None:
        """Called when no process sees it any more. May run in a finalizer, so it takes no lock."""

    def after_release(self) -> None:
        """Called after it has left `_live` and `_deferred`. May run in a finalizer, so it takes no lock."""


class _Children:
    """The children of consecutive forks that see the same objects, with all their descendants.

    Attributes
    ----------
    number : int
        Number of the first of these forks.
    reader : int
        Reading end of their pipe, which reports its end when all of them are gone; -1 when their end cannot be noticed.
    waiting : deque of Held
        Objects that ended here and that they may still see. Each object waits in one place at a time. Any thread appends. The
        thread that settles, and a thread that finds `gone` set, take out.
    gone : bool
        Set by the thread that settles, before it empties `waiting` for the last time. Read by each thread that has appended.
    """

    __slots__ = ("gone", "number", "reader", "waiting")

    def __init__(self, number: int, reader: int):
        self.number = number
        self.reader = reader
        self.waiting: deque[Held] = deque()
        self.gone = False


# All the state of this process.
#: Objects that are held; and objects that have ended here and wait for children. An object leaves one set after it was added to
#: the other. Any thread adds and discards one object at a time, and reads a copy: each is one atomic operation of a set.
_live: set[Held] = set()
_deferred: set[Held] = set()
#: Children that were not known to be gone at the last look, by number. Added to under `_gate`, removed from under `_settling`,
#: read as a copy by any thread.
_children: list[_Children] = []
#: Number of forks that were counted. Written under `_gate`. Read by any thread: an object that ends during a fork may read either
#: value, since the child does not see it.
_forks = 0
#: The youngest children, if no object has begun or ended since; else empty. Filled under `_gate`, cleared by any thread.
_same_sight: list[_Children] = []
#: Writing ends that the current fork passes on, and the number of forks under way, more than one when they are nested. Both are
#: used only under `_gate`.
_passing: list[int] = []
_depth = 0
#: The reading ends. Registered under `_gate`, waited for and unregistered under `_settling`.
_poll = poll()
#: The process that all of this belongs to. Written when the hooks are registered, and in a new child by its one thread.
_pid = 0
#: Held while an object begins, and across each fork: no other thread can begin an object between the hook that counts the fork
#: and the fork itself. Reentrant: a signal handler or a finalizer may fork, or begin an object, in the middle of either.
_gate = threading.RLock()
#: Held by the one thread that settles; never waited for.
_settling = threading.Lock()
#: Whether the warning was given. Used only under `_gate`.
_warned = False


def begin(held: Held) -> None:
    """Hold `held` from now on: each child that is forked until `end` sees it."""
    watch_forks()
    in_a_fork = _gate._is_owned()  # type: ignore[attr-defined]
    with _gate:
        held.began = _forks
        _live.add(held)
        if _same_sight:
            _same_sight.clear()
        if in_a_fork and _depth > 0:
            _count_fork()


def end(held: Held) -> None:
    """Release `held` as soon as no child sees it any more: now, or later in `settle_forks`. Does nothing in a child."""
    if held not in _live or os.getpid() != _pid:
        return
    if _same_sight:
        _same_sight.clear()
    # A fork from here on may be counted for it, or not: its child cannot see it.
    held.ended = _forks
    if held.began == held.ended:
        _release(held)
    else:
        settle_forks()
        _wait_for_children(held)


def live() -> list[Held]:
    """The objects that this process holds."""
    return list(_live)


def unreleased() -> list[Held]:
    """The objects that this process holds, and those that forked children may still see."""
    # In this order, an object that moves from one set to the other meanwhile is listed at least once.
    return [*list(_live), *list(_deferred)]


def settle_forks() -> None:
    """Release objects whose last forked children are gone.

    Called between messages, before a fork, and when an object ends that a child may see. Never waits.
    """
    if _children and _settling.acquire(blocking=False):
        try:
            _settle()
        finally:
            _settling.release()


def watch_forks() -> None:
    """Register the fork hooks, once per process and its forked children."""
    global _pid
    if _pid == 0:
        hold_across_forks(_gate, before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
        # Last: a registration that was interrupted is done again; hooks that are registered twice do no harm.
        _pid = os.getpid()


def _wait_for_children(*ended: Held) -> None:
    """Release objects that no child sees any more. The others wait for the youngest children that see them.

    Race: another thread settles meanwhile.

    1. This thread finds the children in `_children`.
    2. The other thread removes them from the list, sets `gone` and empties `waiting`.
    3. This thread appends to `waiting`, which no thread would empty again.

    Verdict: this thread looks at `gone` after it has appended. If it is set, this thread empties `waiting` itself and looks for
    other children; those that are gone are not in the list any more.
    """
    rest = list(ended)
    while rest:
        held = rest.pop()
        children = _youngest(held.began, held.ended)
        if children is None:
            _release(held)
            continue
        _deferred.add(held)
        _live.discard(held)
        children.waiting.append(held)
        if children.gone:
            rest += _emptied(children.waiting)


def _youngest(began: int, ended: int) -> _Children | None:
    """The last children of the forks ``[began, ended)`` that are not known to be gone."""
    if not _children:
        return None
    known = _children.copy()
    index = bisect_left(known, ended, key=_number) - 1
    return known[index] if index >= 0 and known[index].number >= began else None


def _number(children: _Children) -> int:
    return children.number


def _emptied(waiting: deque[Held]) -> list[Held]:
    taken = []
    try:
        while True:
            taken.append(waiting.popleft())
    except IndexError:
        return taken


def _release(held: Held) -> None:
    held.release()
    _live.discard(held)
    _deferred.discard(held)
    held.after_release()


def _settle() -> None:
    over = {fd for fd, event in _poll.poll(0) if event & POLLHUP}
    if not over:
        return
    for children in [children for children in _children.copy() if children.reader in over]:
        _poll.unregister(children.reader)
        # Removed before it is closed: a child that is forked in between would close another file that has the number by then.
        _children.remove(children)
        if children in _same_sight:
            _same_sight.clear()
        os.close(children.reader)
        children.gone = True
        _wait_for_children(*_emptied(children.waiting))


def _before_fork(nested: bool) -> None:
    """Count the fork. The gate is held. `nested` says that this thread was forking already, or in `begin`."""
    global _depth
    if not nested:
        _depth = 0
        _close_passed()  # left by a fork whose hook was interrupted
    _depth += 1
    if os.getpid() != _pid:
        return
    forks, passing = _forks, len(_passing)
    try:
        if not _pass_or_settle() and _live:
            _count_fork()
    except BaseException:
        # A signal handler raised. The fork takes place anyway.
        if _live and _forks == forks and len(_passing) == passing:
            _add_children(-1)
        raise


def _pass_or_settle() -> bool:
    """Whether the next child shares the pipe of the youngest children. Also settles."""
    # Held so that no other thread finds the pipe at its end just before this thread passes it on.
    if _settling.acquire(blocking=False):
        try:
            _settle()
            return bool(_live and _same_sight) and _pass_again(_same_sight.copy())
        finally:
            _settling.release()
    return False


def _count_fork() -> None:
    """Note that a child sees all objects that are held now, until the other end of a pipe is closed."""
    try:
        reader, writer = os.pipe()
    except OSError:
        reader = -1
    else:
        _passing.append(writer)
        _poll.register(reader, POLLIN)
    _add_children(reader)


def _add_children(reader: int) -> None:
    global _forks
    children = _Children(-1, reader)
    # Only now, and without a step in between: a fork in a signal handler may have been counted meanwhile.
    children.number = _forks
    _children.append(children)
    # An object that ends before this line does not wait for the child, which cannot see it.
    _forks += 1
    # Last: a child of a nested fork that shares the pipe is counted by then.
    _same_sight[:] = [children]


def _pass_again(same: list[_Children]) -> bool:
    """Pass the pipe of these children to the next child too. Return whether that was possible."""
    if not same or same[0].reader < 0:
        return bool(same)
    try:
        _passing.append(platform.open_again(same[0].reader, os.O_WRONLY))
    except OSError:  # no /proc, or no free descriptor
        return False
    return True


def _after_in_parent() -> None:
    global _depth, _warned
    _depth -= 1
    if _depth > 0:
        return  # the fork around this one passes them later
    _close_passed()
    unknown = bool(_children) and _children[-1].reader < 0
    if unknown and not _warned:
        _warned = True
        _log.warning(
            "a process was forked while no descriptor was free: the shared memory that this process reads now is kept "
            "until the end of this process"
        )


def _close_passed() -> None:
    while _passing:
        os.close(_passing.pop())


def _after_in_child() -> None:
    global _pid, _settling, _poll, _forks, _warned, _depth
    # The writing end stays open until the end of this process, which the parent notices by it. This process does not release the
    # objects that were held before the fork. Its own children need no other pipe for them: they inherit the writing end.
    readers = [children.reader for children in _children if children.reader >= 0]
    for known in (_children, _same_sight, _passing, _deferred, _live):
        known.clear()
    _poll = poll()
    _forks, _warned, _depth = 0, False, 0
    _pid = os.getpid()
    _settling = threading.Lock()
    for reader in readers:
        os.close(reader)
