"""A descriptor that several threads use, and that one of them closes: never while it is used, since its number may be another file's
a moment later. Used by `mapping`.

Takes no lock, as it is used in finalizers. The race of a use and the end:

1. The user adds itself to the users, and reads the number after that.
2. The closing thread replaces the number by -1, and looks for users after that.

If the user reads before 2, the closing thread finds it, and leaves the file open until it is asked again. If it reads after 2, it
gets -1. Verdict: no thread uses a number that is closed.
"""

from __future__ import annotations

import os


class Descriptor:
    """Owns a descriptor.

    Parameters
    ----------
    number : int
        The descriptor.
    """

    __slots__ = ("_late", "_users", "number")

    def __init__(self, number: int):
        #: -1 once it is to be closed. Written by the closing thread, read by any.
        self.number = number
        #: Any thread adds and discards: each is one atomic operation of a set.
        self._users: set[Use] = set()
        #: The number, if it was in use when it was to be closed. The closing thread's.
        self._late = -1

    def use(self) -> Use:
        """A context in which the number stays valid; its value is -1 if the file is closed."""
        return Use(self)

    def close(self) -> bool:
        """Close the file, or leave that to the next call if a thread uses it; return whether it is closed. By one thread at a time."""
        if self.number >= 0:
            self._late, self.number = self.number, -1
        if self._late >= 0 and not self._users:
            number, self._late = self._late, -1
            os.close(number)
        return self._late < 0


class Use:
    """See `Descriptor.use`."""

    __slots__ = ("_of",)

    def __init__(self, of: Descriptor):
        self._of = of

    def __enter__(self) -> int:
        self._of._users.add(self)
        return self._of.number

    def __exit__(self, *_: object) -> None:
        self._of._users.discard(self)
