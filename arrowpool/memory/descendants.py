"""The processes that a lost consumer has forked: they may still read what it had leased.

While a consumer lives, it releases no lease whose memory its forked children see (`forks`). When it has ended, its owner asks here
before it ends the leases. All of these processes have inherited the writing end of a pipe to the owner, and the kernel reports
its end when the last of them is gone. A process that has closed all of its descriptors is not noticed.
"""

from __future__ import annotations

import os
import weakref

from arrowpool.forking import keep_from_children, no_forks
from arrowpool.memory.descriptor import Descriptor
from arrowpool.waiting import wait_readable

_READ_BYTES = 1 << 16


class Descendants:
    """The processes that have the writing end of a pipe. For one thread at a time.

    Parameters
    ----------
    reader : int
        The reading end, this object's own from here on.
    """

    def __init__(self, reader: int):
        self._file = Descriptor(reader)
        with no_forks():
            keep_from_children(self)
        weakref.finalize(self, self._file.close).atexit = False

    def __repr__(self) -> str:
        return f"<Descendants reader={self._file.number}>"

    def are_gone(self) -> bool:
        """Whether there is none any more. The descriptor is closed then. Never waits."""
        with self._file.use() as reader:
            while reader >= 0 and wait_readable((reader,)):
                if not os.read(reader, _READ_BYTES):
                    break
            else:
                return reader < 0
        self.close()
        return True

    def close(self) -> None:
        """Ask no more."""
        self._file.close()

    close_in_child = close
