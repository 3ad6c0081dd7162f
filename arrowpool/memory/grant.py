"""The consumer's side of a segment: a lease that lasts as long as any object over the memory, in this or a forked process.

Theory of operation
-------------------
The owner *grants*: it gives the consumer a slot in its flags, and will not touch the segment until the consumer has set
that flag. The consumer opens *leases* on the segment (`mapping`), each the base object of arrays. A grant is over when
nothing refers to it any more: no message that is being decoded, no lease. Then it is *released*: its flag is set.

A fork in between copies the views but cannot tell the owner. So forks are numbered, and each passes the writing end of a
pipe to the child (and its children), of which this process keeps the reading end: when that is at its end, the child is
gone. A grant remembers how many forks there had been when it began. When it ends here, the children that can see it are
those of the forks since then; it is released when the last of them is gone. The child itself never sets a flag.

Consecutive forks between which no grant began or ended see the same: they share one pipe. A fork at which no descriptor
can be had leaves a child that nobody can wait for: what it sees is never released.

A thread may fork while it forks: in a signal handler, a finalizer, or another's fork hook. Each fork is counted as it comes;
what either of them passes stays open until the outer one is done, so that both children have it. And the thread may begin
a grant there, which the outer child sees though the fork was counted before: then the fork is counted once more.

What a fork costs does not depend on how many grants there are, nor does looking which children are gone.

Who runs what: `Grant` is made, and a fork's hooks run, in any thread, one at a time (`_gate`). A grant ends in any thread, also
inside a finalizer: no locks there, only atomic operations on sets and deques. One thread at a time looks which children are
gone (`_settling`); whoever finds another at it does not wait.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from arrowpool.memory import facilities
from arrowpool.memory.control_page import Flags

_log = logging.getLogger(__name__)


class Account:
    """Where the ends of one consumer's grants of one arena are noted.

    Attributes
    ----------
    flags : Flags
        One for each slot, which the owner reads.
    released : callable or None
        Called with the bytes of each grant that is released, maybe in a finalizer: it may take no lock.
    reclaim : callable or None
        Set when the owner is gone, and nobody reads flags any more: called with offset and size instead.
    """

    __slots__ = ("flags", "reclaim", "released")

    def __init__(self, flags: Flags, released: Callable[[int], None] | None = None):
        self.flags = flags
        self.released = released
        self.reclaim: Callable[[int, int], object] | None = None


class _State:
    """What has to be known when a grant ends: how many forks there had been when it began, and when it ended."""

    __slots__ = ("account", "began", "ended", "offset", "size", "slot")

    def __init__(self, account: Account, slot: int, offset: int, size: int):
        self.account = account
        self.slot = slot
        self.offset = offset
        self.size = size
        self.began = -1
        self.ended = -1


class _Children:
    """The children of consecutive forks that see the same grants, with all their descendants.

    Attributes
    ----------
    number : int
        Of the first of these forks.
    reader : int
        At its end when all of them are gone; -1 when that can never be known.
    waiting : deque of _State
        Grants that ended here and that they may still see; each waits in one place at a time.
    gone : bool
        Set before `waiting` is emptied for the last time: whoever adds to it looks at this afterwards.
    """

    __slots__ = ("gone", "number", "reader", "waiting")

    def __init__(self, number: int, reader: int):
        self.number = number
        self.reader = reader
        self.waiting: deque[_State] = deque()
        self.gone = False


# All the state of this process.
#: Grants that are running, and grants that are over here and only wait for children. A grant leaves the one after it has
#: been added to the other.
_live: set[_State] = set()
_deferred: set[_State] = set()
#: Children that were there when it was last looked, by number; and how many forks there have been.
_children: list[_Children] = []
_forks = 0
#: The youngest children, if no grant has begun or ended since; else empty.
_same_sight: list[_Children] = []
#: Writing ends of the fork that is happening just now, and how many forks are: more than one if they are nested.
_passing: list[int] = []
_depth = 0
_poll = select.poll()
_pid = 0
#: Held while a grant begins, and across a fork: no other thread can begin a grant between the hook that counts the fork and
#: the fork itself. Reentrant: a signal handler or a finalizer may fork, or begin a grant, in the middle of either.
_gate = threading.RLock()
#: Held by the one thread that settles.
_settling = threading.Lock()
_warned = False


class Grant:
    """The right to read one segment, until the last reference to this object is gone.

    `source` says whose arena it lies in, if not in the granter's own: see `Mapping.source`.
    """

    __slots__ = ("__weakref__", "offset", "size", "source")

    def __init__(
        self,
        account: Account,
        slot: int,
        offset: int,
        size: int,
        source: tuple[int, int] | None = None,
    ):
        self.offset = offset
        self.size = size
        self.source = source
        watch_forks()
        state = _State(account, slot, offset, size)
        in_a_fork = _gate._is_owned()  # type: ignore[attr-defined]
        with _gate:
            state.began = _forks
            _live.add(state)
            if _same_sight:
                _same_sight.clear()
            if in_a_fork and _depth > 0:
                _count_fork()
        weakref.finalize(self, _end, state).atexit = False


def _end(state: _State) -> None:
    if state not in _live or os.getpid() != _pid:
        return  # a forked child's: not its to end
    if _same_sight:
        _same_sight.clear()
    # A fork from here on may still be counted for this grant, or not: its child cannot see it.
    state.ended = _forks
    if state.began == state.ended:
        _release(state)
    else:
        settle_forks()
        _wait_for_children(state)


def _wait_for_children(*ended: _State) -> None:
    """Release what no child sees any more; have the rest wait for one of those that do."""
    states = list(ended)
    while states:
        state = states.pop()
        children = _youngest(state.began, state.ended)
        if children is None:
            _release(state)
            continue
        _deferred.add(state)
        _live.discard(state)
        children.waiting.append(state)
        # 1. This thread has found them on the list. 2. Another takes them off it, says that they are gone, and empties
        # `waiting`. 3. This one adds to it: then it sees here that they are gone, and no longer on the list.
        if children.gone:
            states += _emptied(children.waiting)


def _youngest(began: int, ended: int) -> _Children | None:
    """The last children of the forks ``[began, ended)`` that are not known to be gone."""
    if not _children:
        return None
    known = _children.copy()
    index = bisect_left(known, ended, key=_number) - 1
    return known[index] if index >= 0 and known[index].number >= began else None


def _number(children: _Children) -> int:
    return children.number


def _emptied(waiting: deque[_State]) -> list[_State]:
    states = []
    try:
        while True:
            states.append(waiting.popleft())
    except IndexError:
        return states


def _release(state: _State) -> None:
    account = state.account
    account.flags[state.slot] = 1
    _live.discard(state)
    _deferred.discard(state)
    if account.released is not None:
        account.released(state.size)
    # After it has left the sets: see `disown`.
    if account.reclaim is not None:
        account.reclaim(state.offset, state.size)


def live_grants() -> int:
    """How many grants this process holds."""
    return len(_live)


def live_grants_of(released: Callable[[int], None]) -> tuple[int, int]:
    """How many of these end with that call, and how many bytes they are of."""
    sizes = [state.size for state in list(_live) if state.account.released is released]
    return len(sizes), sum(sizes)


def unreleased(account: Account) -> list[tuple[int, int]]:
    """Offset and size of all that was granted and may still be read, here or by a forked child."""
    # In this order none is missed that changes from the one to the other.
    states = [*list(_live), *list(_deferred)]
    return [(state.offset, state.size) for state in states if state.account is account]


def disown(account: Account, reclaim: Callable[[int, int], object]) -> list[tuple[int, int]]:
    """The owner of the arena is gone: nobody else will use this memory.

    Parameters
    ----------
    account : Account
        Whose grants are each of a range of its own.
    reclaim : callable
        Gets offset and size of what is released from now on, maybe in a finalizer.

    Returns
    -------
    list of (int, int)
        Offset and size of what is not released yet. All else may be reclaimed at once: what is released meanwhile in
        another thread has either been reclaimed by that, or is not in this list.
    """
    account.reclaim = reclaim
    return unreleased(account)


def settle_forks() -> None:
    """Release the grants that only waited for forked children which are gone by now.

    Called between messages, before a fork, and when a grant ends that a child may see. Never waits.
    """
    if _children and _settling.acquire(blocking=False):
        try:
            _settle()
        finally:
            _settling.release()


def _settle() -> None:
    over = {fd for fd, event in _poll.poll(0) if event & select.POLLHUP}
    if not over:
        return
    for children in [children for children in _children.copy() if children.reader in over]:
        _poll.unregister(children.reader)
        # Forgotten before it is closed: a child forked in between would close what has that number by then.
        _children.remove(children)
        if children in _same_sight:
            _same_sight.clear()
        os.close(children.reader)
        children.gone = True
        _wait_for_children(*_emptied(children.waiting))


def watch_forks() -> None:
    """Register the fork hooks, once per process and its forked children."""
    global _pid
    if _pid == 0:
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
        # By themselves, after the others, and no Python code: an exception of a signal handler cannot keep the gate shut.
        os.register_at_fork(after_in_parent=_gate.release, after_in_child=_gate._at_fork_reinit)  # type: ignore[attr-defined]
        # Last: what was interrupted is done again, and hooks that are registered twice do no harm.
        _pid = os.getpid()


def _before_fork() -> None:
    global _depth
    nested = _gate._is_owned()  # type: ignore[attr-defined]
    _gate.acquire()
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
        # A signal handler's; the fork takes place all the same.
        if _live and _forks == forks and len(_passing) == passing:
            _add_children(-1)
        raise


def _pass_or_settle() -> bool:
    """Whether the next child needs no pipe of its own; and release what children saw that are gone."""
    # Held so that no other thread finds the pipe at its end just before this one passes it on.
    if _settling.acquire(blocking=False):
        try:
            _settle()
            return bool(_live and _same_sight) and _pass_again(_same_sight.copy())
        finally:
            _settling.release()
    return False


def _count_fork() -> None:
    """All that is granted now will be seen by a child, until the other end of a pipe is closed."""
    try:
        reader, writer = os.pipe()
    except OSError:
        reader = -1
    else:
        _passing.append(writer)
        _poll.register(reader, select.POLLIN)
    _add_children(reader)


def _add_children(reader: int) -> None:
    global _forks
    children = _Children(-1, reader)
    # Only now, and with nothing in between: a fork in a signal handler may have been counted meanwhile.
    children.number = _forks
    _children.append(children)
    # A grant that ends before this is done does not wait for the child, which cannot see it.
    _forks += 1
    # Last: a child of a nested fork that shares the pipe is counted by then.
    _same_sight[:] = [children]


def _pass_again(same: list[_Children]) -> bool:
    """Pass the pipe of these on; whether that could be done."""
    if not same or same[0].reader < 0:
        return bool(same)
    try:
        _passing.append(os.open(facilities.proc(f"self/fd/{same[0].reader}"), os.O_WRONLY | os.O_CLOEXEC))
    except OSError:  # no /proc, or no descriptor
        return False
    return True


def _after_in_parent() -> None:
    global _depth, _warned
    _depth -= 1
    if _depth > 0:
        return  # the fork around this one has yet to pass them
    _close_passed()
    unknown = bool(_children) and _children[-1].reader < 0
    if unknown and not _warned:
        _warned = True
        _log.warning(
            "a process was forked while no descriptor was to be had: the shared memory that this one reads just now is "
            "kept for as long as it runs"
        )


def _close_passed() -> None:
    while _passing:
        os.close(_passing.pop())


def _after_in_child() -> None:
    global _pid, _settling, _poll, _forks, _warned, _depth
    # The writing end stays open for as long as this process lives: that is how the parent knows. What was leased before
    # the fork is not this process's to release, nor to wait for children of its own: they inherit the writing end.
    for children in _children:
        if children.reader >= 0:
            os.close(children.reader)
    for known in (_children, _same_sight, _passing, _deferred, _live):
        known.clear()
    _poll = select.poll()
    _forks, _warned, _depth = 0, False, 0
    _pid = os.getpid()
    _settling = threading.Lock()
