"""The user ids of this process, and whether a number alone identifies a user.

The kernel names users by number: the peer of a socket, the owner of a file. In a user namespace that does not map all users
(a container, ``unshare -U``), every unmapped user has the same number, the overflow id (65534). A process that runs under this
id cannot tell its own user from strangers by number, so `trusted` leaves the id out. Access that the kernel itself checks, such
as opening ``/proc/<pid>/fd`` or changing the mode of a directory, remains a proof.
"""

from __future__ import annotations

import functools

from arrowpool.memory import facilities, platform

#: A process sees all users if its namespace maps this many: all 32-bit numbers but -1.
_ALL_USERS = (1 << 32) - 1
_DEFAULT_OVERFLOW_ID = 65534


def own() -> set[int]:
    """The user ids that this process runs with, or can return to."""
    return platform.user_ids()


def trusted() -> set[int]:
    """The ids in `own` under which no other user appears."""
    return {user for user in own() if not is_ambiguous(user)}


def is_ambiguous(user: int) -> bool:
    """Whether other users may appear under the number `user` as well."""
    return user == _overflow_id() and not _sees_all_users()


def ambiguity() -> str:
    """The explanation for a user whose id proves nothing."""
    return (
        f"this process runs as user {_overflow_id()} in a user namespace, where all users that are not mapped have this "
        "number, so strangers cannot be told from its own user; run it under a user id that is mapped"
    )


@functools.cache
def _overflow_id() -> int:
    try:
        with open(facilities.proc("sys/kernel/overflowuid")) as file:
            return int(file.read())
    except (OSError, ValueError):
        return _DEFAULT_OVERFLOW_ID


def _sees_all_users() -> bool:
    """Not cached: the map of a namespace may be written after its first process has started."""
    try:
        with open(facilities.proc("self/uid_map")) as file:
            return sum(int(line.split()[2]) for line in file) >= _ALL_USERS
    except (OSError, ValueError, IndexError):
        return False
