"""Linux: which pages of a private map this process has written to, by the kernel's own map of its pages."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from arrowpool.memory import facilities
from arrowpool.memory.platform.raw import libc

# linux/fs.h, since Linux 6.7: reports the pages of a range by category, about 3 ms per GB.
_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_FILE, _PAGE_IS_PRESENT, _PAGE_IS_SWAPPED = 1 << 2, 1 << 3, 1 << 4
_SCAN_REGIONS = 128


class _ScanArgument(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    ]


def open_page_map() -> int:
    """A descriptor for `written_pages`. A forked child has to open its own.

    Raises
    ------
    OSError
        When this system has no page maps, or this process may not read its own.
    """
    return os.open(facilities.proc("self/pagemap"), os.O_RDONLY | os.O_CLOEXEC)


def written_pages(page_map: int, address: int, size: int, found: Callable[[int, int], object]) -> bool | None:
    """Call `found` with start and end of each range that was written to, or swapped out, in a private map.

    Returns
    -------
    bool or None
        Whether there was any; None when the kernel cannot tell.
    """
    regions = (ctypes.c_uint64 * (3 * _SCAN_REGIONS))()
    end = address + size
    any_found = False
    while address < end:
        # A page of a private file map that no longer belongs to the file is this process's copy: it is dirty.
        argument = _ScanArgument(
            ctypes.sizeof(_ScanArgument),
            0,
            address,
            end,
            0,
            ctypes.addressof(regions),
            _SCAN_REGIONS,
            0,
            _PAGE_IS_FILE,
            _PAGE_IS_FILE,
            _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED,
            _PAGE_IS_PRESENT,
        )
        count: int = libc.ioctl(page_map, ctypes.c_ulong(_PAGEMAP_SCAN), ctypes.byref(argument))
        if count < 0:
            return None
        for index in range(count):
            any_found = True
            found(regions[3 * index], regions[3 * index + 1])
        if argument.walk_end <= address:
            return None
        address = argument.walk_end
    return any_found
