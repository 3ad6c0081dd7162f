"""Optional facilities of Linux, and whether this process uses them.

The environment variable ``ARROWPOOL_WITHOUT`` names facilities, separated by commas, that the package treats as missing. So tests
can use the substitutes on a system that has all facilities. Only this module reads the variable; other modules call :func:`has`.
Workers inherit it.

=============  ==================================================  ====================================================
name           facility                                            substitute
=============  ==================================================  ====================================================
``linux``      all that follow, and the flags and advice of Linux  what macOS has: `platform.darwin`, and a shelf of files
``memfd``      nameless files in memory                            unlinked files in ``/dev/shm`` or another directory
``pidfd``      a descriptor that is readable when a process ends   the sentinel of `multiprocessing`
``sigio``      a signal of choice when a pipe has lost its writer  a thread that reads the pipe
``pagemap``    ``PAGEMAP_SCAN``: which pages were written to       the whole range is mapped again; results are never lent
``dontneed``   ``MADV_DONTNEED``: drop the pages written to        the whole range is mapped again
``fallocate``  punch holes in files, and reserve their blocks      memory is kept until the file is closed; zeros are written
``lease``      ``F_SETLEASE``: whether others have a file open     a file is not used again
``mallopt``    glibc's thresholds for freed memory                  the C library's own: each task faults in the pages of its
                                                                   temporaries again
``proc``       ``/proc``                                           duplicates of descriptors; copies instead of lent memory;
                                                                   as for ``sigio``; no limits of control groups
=============  ==================================================  ====================================================
"""

from __future__ import annotations

import functools
import os

NAMES = frozenset(("linux", "memfd", "pidfd", "sigio", "pagemap", "dontneed", "fallocate", "lease", "mallopt", "proc"))
_VARIABLE = "ARROWPOOL_WITHOUT"


@functools.cache
def _without() -> frozenset[str]:
    names = frozenset(name.strip() for name in os.environ.get(_VARIABLE, "").split(",")) - {""}
    unknown = sorted(names - NAMES)
    if unknown:
        raise ValueError(f"{_VARIABLE} names {', '.join(unknown)}; known are {', '.join(sorted(NAMES))}")
    return NAMES if "linux" in names else names


def has(name: str) -> bool:
    """Whether a facility may be tried. The attempt shows whether the kernel has it.

    Raises
    ------
    ValueError
        When ``ARROWPOOL_WITHOUT`` contains a name that is not in the table.
    """
    if name not in NAMES:
        raise ValueError(f"unknown facility: {name}")
    return name not in _without()


def proc(path: str) -> str:
    """A path below ``/proc``.

    Raises
    ------
    FileNotFoundError
        When ``ARROWPOOL_WITHOUT`` excludes it.
    """
    if not has("proc"):
        raise FileNotFoundError(f"/proc is excluded by {_VARIABLE}")
    return f"/proc/{path}"
