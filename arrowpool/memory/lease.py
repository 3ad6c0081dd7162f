"""The consumer's right to read one segment of another process's arena.

The owner *grants* a segment: it gives the consumer a slot among the release flags, and does not write to the segment until that
flag is set (`lifecycle`). The consumer holds a *lease*. It lasts while an object refers to it: a message that is being decoded, or
an array over the memory (`mapping`). When the lease has ended here, and in every forked child that sees the memory (`forks`), its
flag is set.

Guarantees: the flag of a lease is set at most once, and by the process that took the lease, never by its children. Ending a
lease takes no lock: it happens in any thread, also inside a finalizer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import cast

from arrowpool.memory import forks
from arrowpool.memory.control_page import Flags


class Account:
    """The leases of one consumer on one arena: their release flags, and functions that are called at their ends.

    Attributes
    ----------
    flags : Flags
        One for each slot. Set here when a lease is released; read and cleared by the owner.
    released : callable or None
        Called with the bytes of each lease that is released. May run in a finalizer, so it takes no lock.
    reclaim : callable or None
        Set by `disown` when the owner is gone and no process reads the flags any more. Called with offset and size of each
        lease that is released from then on.
    """

    __slots__ = ("flags", "reclaim", "released")

    def __init__(self, flags: Flags, released: Callable[[int], None] | None = None):
        self.flags = flags
        self.released = released
        #: Written by the thread that learns of the owner's death. Read by each thread that ends a lease, after the lease has
        #: left `forks.unreleased`; see `disown`.
        self.reclaim: Callable[[int, int], object] | None = None


class _Entry(forks.Held):
    """The facts about a lease that are needed at its end. Not changed after construction."""

    __slots__ = ("account", "offset", "size", "slot")

    def __init__(self, account: Account, slot: int, offset: int, size: int):
        self.account = account
        self.slot = slot
        self.offset = offset
        self.size = size

    def release(self) -> None:
        self.account.flags[self.slot] = 1

    def after_release(self) -> None:
        account = self.account
        if account.released is not None:
            account.released(self.size)
        if account.reclaim is not None:
            account.reclaim(self.offset, self.size)


class Lease:
    """The right to read one segment, until the last reference to this object is gone.

    `source` identifies the arena of the segment if it is not the granter's own: see `Mapping.source`.
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
        entry = _Entry(account, slot, offset, size)
        forks.begin(entry)
        weakref.finalize(self, forks.end, entry).atexit = False


def live_leases() -> int:
    """Number of leases that this process holds."""
    return len(forks.live())


def live_leases_of(released: Callable[[int], None]) -> tuple[int, int]:
    """Number and bytes of the leases that report their end to `released`."""
    sizes = [entry.size for entry in _entries(forks.live()) if entry.account.released is released]
    return len(sizes), sum(sizes)


def unreleased(account: Account) -> list[tuple[int, int]]:
    """Offset and size of all memory that this process or a forked child may still read through leases of `account`."""
    return [(entry.offset, entry.size) for entry in _entries(forks.unreleased()) if entry.account is account]


def disown(account: Account, reclaim: Callable[[int, int], object]) -> list[tuple[int, int]]:
    """After the end of the arena's owner: give the memory of each lease back when the lease is released.

    Parameters
    ----------
    account : Account
        The ranges of its leases do not overlap.
    reclaim : callable
        Called with offset and size of each lease that is released from now on. May run in a finalizer.

    Returns
    -------
    list of (int, int)
        Offset and size of the leases that are not released. All other memory may be given back at once.

    Notes
    -----
    Race: another thread releases a lease meanwhile.

    1. This thread sets `account.reclaim`.
    2. The other thread takes the lease out of `forks.unreleased`, and looks at `account.reclaim` after that.
    3. This thread reads `forks.unreleased`.

    Verdict: if the other thread looks before step 1, the lease has left the list before step 3, and the caller gives its memory
    back with the rest. If it looks later, it gives the memory back itself. Both may do so, which does no harm.
    """
    account.reclaim = reclaim
    return unreleased(account)


def _entries(held: list[forks.Held]) -> list[_Entry]:
    return cast("list[_Entry]", held)  # `forks` holds leases only
