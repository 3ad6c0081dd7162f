"""The consumer's side of a segment: a lease that lasts as long as any object over the memory, in this or a forked process.

Theory of operation
-------------------
The owner *grants*: it gives the consumer a slot in its flags, and will not touch the segment until the consumer has set
that flag. The consumer opens *leases* on the segment (`mapping`), each the base object of arrays. A grant is over when
nothing refers to it any more: no message that is being decoded, no lease. Then its flag is set.

A fork in between copies the views but cannot tell the owner. So before a fork every live grant is tied to a pipe whose
writing end only the child (and its children) keep; the flag is set when the grant is over here *and* that pipe has
closed over there. The child itself never sets a flag.

What ends a grant can run inside a finalizer, in any thread: no locks, only atomic operations on sets and lists.
"""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Callable

from arrowpool.memory.control import Flags

# All the state of this process: grants that are running; grants that only wait for a forked child; the children that
# are waited for; the fork that is happening just now.
_live: set[_GrantState] = set()
_deferred: list[_GrantState] = []
_forks: list[_Fork] = []
_forking: list[_Fork] = []
_pid = 0
#: Held while a grant begins, and across a fork: no grant can begin between the hook that ties them and the fork itself.
_gate = threading.Lock()
#: Held by the one thread that settles.
_settling = threading.Lock()


class _Fork:
    """One forked child (and its descendants) that may still see what was leased when it came to be."""

    __slots__ = ("over", "reader", "writer")

    def __init__(self) -> None:
        self.over = False
        self.reader, self.writer = os.pipe()


class _GrantState:
    """What has to be known when a grant ends."""

    __slots__ = ("flags", "forks", "released", "size", "slot")

    def __init__(self, flags: Flags, slot: int, size: int, released: Callable[[int], None] | None):
        self.flags = flags
        self.slot = slot
        self.size = size
        self.released = released
        self.forks: list[_Fork] = []


class Grant:
    """The right to read one segment, until the last reference to this object is gone.

    `released`, if given, is then called with the bytes, maybe in a finalizer: it may take no lock. `source` says whose arena
    it lies in, if not in the granter's own: see `Mapping.source`.
    """

    __slots__ = ("__weakref__", "offset", "size", "source")

    def __init__(
        self,
        flags: Flags,
        slot: int,
        offset: int,
        size: int,
        source: tuple[int, int] | None = None,
        released: Callable[[int], None] | None = None,
    ):
        self.offset = offset
        self.size = size
        self.source = source
        watch_forks()
        state = _GrantState(flags, slot, size, released)
        with _gate:
            _live.add(state)
        weakref.finalize(self, _end, state).atexit = False


def _end(state: _GrantState) -> None:
    if os.getpid() != _pid:
        return
    settle_forks()
    if state.forks and not all(fork.over for fork in state.forks):
        _deferred.append(state)
    else:
        state.flags[state.slot] = 1
        if state.released is not None:
            state.released(state.size)
    # Last, so that a fork in between still finds it and ties it to the child.
    _live.discard(state)


def live_grants() -> int:
    """How many grants this process holds."""
    return len(_live)


def live_grants_of(released: Callable[[int], None]) -> tuple[int, int]:
    """How many of these end with that call, and how many bytes they are of."""
    sizes = [state.size for state in list(_live) if state.released is released]
    return len(sizes), sum(sizes)


def settle_forks() -> None:
    """End the grants that only waited for a forked child which is gone by now.

    Called between messages, and whenever a grant ends; costs nothing while there are no such children. Never waits.
    """
    if not _forks or not _settling.acquire(blocking=False):
        return
    try:
        for fork in list(_forks):
            if _is_over(fork):
                _forks.remove(fork)
                os.close(fork.reader)
                fork.over = True
        for state in list(_deferred):
            if all(fork.over for fork in state.forks):
                _deferred.remove(state)
                state.flags[state.slot] = 1
    finally:
        _settling.release()


def _is_over(fork: _Fork) -> bool:
    poll = select.poll()
    poll.register(fork.reader, select.POLLIN)
    return bool(poll.poll(0))


def watch_forks() -> None:
    """Register the fork hooks, once per process and its forked children."""
    global _pid
    if _pid == 0:
        _pid = os.getpid()
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before_fork() -> None:
    _gate.acquire()
    if os.getpid() == _pid and (_live or _deferred):
        fork = _Fork()
        for state in [*_live, *_deferred]:
            state.forks.append(fork)
        _forking.append(fork)


def _after_in_parent() -> None:
    while _forking:
        fork = _forking.pop()
        os.close(fork.writer)
        _forks.append(fork)
    _gate.release()


def _after_in_child() -> None:
    global _pid, _settling
    # The writing end stays open for as long as this process lives: that is how the parent knows. What was leased before
    # the fork is not this process's to end, nor to tie to children of its own: they inherit the writing end.
    for fork in [*_forks, *_forking]:
        os.close(fork.reader)
    _forks.clear()
    _forking.clear()
    _deferred.clear()
    _live.clear()
    _pid = os.getpid()
    _settling = threading.Lock()
    _gate.release()
