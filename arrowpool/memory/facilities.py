"""Optional facilities of Linux, and whether this process uses them.

The environment variable ``ARROWPOOL_WITHOUT`` names facilities, separated by commas, that are treated as missing. So the
substitutes can be tested on a system that has everything. The variable is read here only; the rest of the package calls
:func:`has`. Workers inherit it.

=============  ==================================================  ====================================================
name           facility                                            substitute
=============  ==================================================  ====================================================
``memfd``      nameless files in memory                            unlinked files in ``/dev/shm`` or another directory
``pidfd``      a descriptor that is readable when a process ends   the sentinel of `multiprocessing`
``sigio``      a signal of choice when a pipe has lost its writer  a thread that reads the pipe
``pagemap``    ``PAGEMAP_SCAN``: which pages were written to       they are all mapped again; results are never lent
``dontneed``   ``MADV_DONTNEED``: drop the pages written to        the range is mapped again
``fallocate``  punch holes in files, and reserve their blocks      memory is kept until the file is closed; zeros are written
``lease``      ``F_SETLEASE``: whether others have a file open     a file is not used again
``mallopt``    glibc's thresholds for what a process frees          the C library's own: temporaries of tasks are faulted in
                                                                   again by each task
``proc``       ``/proc``                                           duplicates of descriptors; what is lent is copied;
                                                                   as for ``sigio``; no limits of control groups
=============  ==================================================  ====================================================
"""

from __future__ import annotations

import functools
import os

NAMES = frozenset(("memfd", "pidfd", "sigio", "pagemap", "dontneed", "fallocate", "lease", "mallopt", "proc"))
_VARIABLE = "ARROWPOOL_WITHOUT"


@functools.cache
def _without() -> frozenset[str]:
    names = frozenset(name.strip() for name in os.environ.get(_VARIABLE, "").split(",")) - {""}
    unknown = sorted(names - NAMES)
    if unknown:
        raise ValueError(f"{_VARIABLE} names {', '.join(unknown)}; known are {', '.join(sorted(NAMES))}")
    return names


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
