"""What the package asks of the operating system: one list of primitives, and a module for each system that has them.

Callers import this package alone, and use its names as attributes. `raw`, `files`, `posix` and `segments` need POSIX only. `linux`,
`pagemap` and `processes` are Linux's; `darwin` has their names for macOS. No other module imports `fcntl`, `resource` or `ctypes`, and
only `waiting` imports `select.poll`.

====================  ===================================================  ========================================================
question              primitives                                           what they are for
====================  ===================================================  ========================================================
create                `create_memory`, `create_unlinked`,                  a sparse file without a name, in memory or elsewhere; one
                      `create_resizable`, `create_segment`                 whose size may change; memory without a file
reserve               `reserve`, `set_size`                                blocks of a file system, so that no write to a map fails
populate              `populate`                                           pages of a shared map, so that no write to it fails
punch                 `punch`, `punch_mapped`                              give pages of a file back
map_owner             `map_shared`, `map_page`                             a shared map, absent from children or present in them
map_private           `map_private`                                        a consumer's map: no write reaches the file
restore               `map_again`, `drop_pages`                            make a private map show the file's bytes again: `pages`
is_clean              `open_page_map`, `written_pages`                     which pages of a private map were written to: `pages`
open                  `open_again`, `read_only`, `open_of`,                the same file for another purpose, or in another process
                      `may_open_of`
ask about a file      `is_memfd`, `is_in_memory`, `is_on_disk`,            where it lies, and who else has it
                      `is_exclusive`
memory                `PAGE`, `page_ceil`, `aligned`, `bytes_at`,          sizes, views and comparisons
                      `are_equal`, `attach_segment`, `unmap`
limits, locks, flags  `descriptors_limit`, `address_space_limit`,          what `posix` has: limits of this process, locks on files,
                      `file_size_limit`, `lock_file`, `status_flags` ...   flags of descriptors
names of files        `exchange`                                           exchange two names in one step
heap                  `glibc`                                              the C library whose heap can be configured
wait_many             `arrowpool.waiting.wait_readable`, `poll`            wait for several descriptors
watch_end             `watch_end`                                          a descriptor that is readable when a process has ended
die_with_parent       `tie`, `die_with_parent`                             a worker does not outlive its parent
interrupt             `os.kill` with SIGINT                                `WorkerHandle.interrupt`
====================  ===================================================  ========================================================

Each primitive says in its docstring how it fails where a facility is missing; `facilities` lists the substitutes.
"""

from __future__ import annotations

import sys

from arrowpool.memory import facilities
from arrowpool.memory.platform.files import close_file, create_unlinked, reserve, set_size
from arrowpool.memory.platform.posix import (
    UNLIMITED,
    address_space_limit,
    descriptors_limit,
    enlarge_pipe,
    file_size_limit,
    lock_file,
    page_faults,
    raise_descriptors_limit,
    signal_harmlessly,
    status_flags,
    unlock_file,
    user_ids,
)
from arrowpool.memory.platform.raw import PAGE, aligned, are_equal, bytes_at, page_ceil, unmap
from arrowpool.memory.platform.segments import attach_segment, create_segment

#: Whether this is Linux, and its module is not excluded.
IS_LINUX = sys.platform == "linux" and facilities.has("linux")

# Both systems' modules have the same names; the one list of them is `__all__`. mypy checks that they have the same types.
if sys.platform == "linux" and facilities.has("linux"):
    from arrowpool.memory.platform.linux import *
    from arrowpool.memory.platform.pagemap import *
    from arrowpool.memory.platform.processes import *
else:
    from arrowpool.memory.platform.darwin import *

__all__ = [
    "IS_LINUX",
    "PAGE",
    "UNLIMITED",
    "address_space_limit",
    "aligned",
    "are_equal",
    "attach_segment",
    "bytes_at",
    "close_file",
    "create_memory",
    "create_resizable",
    "create_segment",
    "create_unlinked",
    "descriptors_limit",
    "die_with_parent",
    "drop_pages",
    "enlarge_pipe",
    "exchange",
    "file_size_limit",
    "glibc",
    "is_exclusive",
    "is_in_memory",
    "is_memfd",
    "is_on_disk",
    "lock_file",
    "map_again",
    "map_page",
    "map_private",
    "map_shared",
    "may_open_of",
    "open_again",
    "open_of",
    "open_page_map",
    "page_ceil",
    "page_faults",
    "populate",
    "punch",
    "punch_mapped",
    "raise_descriptors_limit",
    "read_only",
    "reserve",
    "set_size",
    "signal_harmlessly",
    "status_flags",
    "tie",
    "unlock_file",
    "unmap",
    "user_ids",
    "watch_end",
    "written_pages",
]
