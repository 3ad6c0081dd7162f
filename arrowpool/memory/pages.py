"""Replace the pages of a private map that this process has written to by the file's pages.

Used by `mapping` before memory goes back to its owner. Guarantees: `restore` returns True only when the range shows exactly the
file's bytes. It is safe in finalizers: it only makes system calls, and takes no lock.

The result of ``MADV_DONTNEED`` is always checked: the kernel refuses it where pages are locked (`mlockall`) or a seccomp filter
forbids it, and other kernels may ignore it. If the check fails or is not possible, the range is mapped again over itself, which
drops all writes on every system.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from arrowpool.memory import facilities, platform


def _nothing(_start: int, _end: int) -> None:
    pass


class PageMap:
    """The kernel's view of this process's pages. A forked child needs its own: see :func:`page_map`.

    Any thread may use it: the attributes are not changed after construction.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._fd = -1
        try:
            if facilities.has("pagemap"):
                self._fd = platform.open_page_map()
                weakref.finalize(self, _close, self._fd, self.pid).atexit = False
        except OSError:
            pass
        self._drops = facilities.has("dontneed")

    def is_clean(self, address: int, size: int) -> bool:
        """Whether this process has written to no page of ``[address, address + size)``. False also when the kernel cannot tell."""
        start = address - address % platform.PAGE
        return self._scan(start, platform.page_ceil(address + size - start), _nothing) is False

    def restore(self, address: int, size: int, fd: int, offset: int) -> bool:
        """Make a private map of the file `fd` show the file's bytes again. Untouched pages stay mapped if possible.

        Returns
        -------
        bool
            False when writes may still be visible: then the range must not be used for another lease, or reported as free.
        """
        if self._drops:
            dirty = self._scan(address, size, platform.drop_pages)
            if dirty is False or (dirty and self._scan(address, size, _nothing) is False):
                return True
        return platform.map_again(address, size, fd, offset)

    def _scan(self, address: int, size: int, found: Callable[[int, int], object]) -> bool | None:
        """Call `found` for each dirty range. Return whether there was one; None when the kernel cannot tell."""
        if self._fd < 0:
            return None
        return platform.written_pages(self._fd, address, size, found)


#: The page map that was made last. Any thread reads and replaces it; two threads that make one at the same time both have a valid one.
_current: weakref.ref[PageMap] | None = None


def page_map() -> PageMap:
    """The page map of this process. All users share it; it is closed with the last of them."""
    global _current
    known = _current() if _current is not None else None
    if known is None or known.pid != os.getpid():
        known = PageMap()
        _current = weakref.ref(known)
    return known


def _close(fd: int, pid: int) -> None:
    # Not in a forked child, whose own page map has another descriptor.
    if os.getpid() == pid:
        os.close(fd)
