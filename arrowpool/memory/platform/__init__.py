"""What the package asks of the operating system: one list of primitives, and a module for each system that has them.

Callers import this package alone, and use its names as attributes. `raw`, `files` and `segments` need POSIX only. `linux`, `pagemap`
and `processes` are Linux's. Another system needs modules with the names of these three, chosen here by ``sys.platform``.

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
wait_many             `arrowpool.waiting.wait_readable`                    wait for several descriptors
watch_end             `watch_end`                                          a descriptor that is readable when a process has ended
die_with_parent       `tie`, `die_with_parent`                             a worker does not outlive its parent
interrupt             `os.kill` with SIGINT                                `WorkerHandle.interrupt`
====================  ===================================================  ========================================================

Each primitive says in its docstring how it fails where a facility is missing; `facilities` lists the substitutes.
"""

from __future__ import annotations

from arrowpool.memory.platform.files import create_unlinked, reserve, set_size
from arrowpool.memory.platform.linux import (
    create_memory,
    create_resizable,
    drop_pages,
    is_exclusive,
    is_in_memory,
    is_memfd,
    is_on_disk,
    map_again,
    map_page,
    map_private,
    map_shared,
    may_open_of,
    open_again,
    open_of,
    populate,
    punch,
    punch_mapped,
    read_only,
)
from arrowpool.memory.platform.pagemap import open_page_map, written_pages
from arrowpool.memory.platform.processes import die_with_parent, tie, watch_end
from arrowpool.memory.platform.raw import PAGE, aligned, are_equal, bytes_at, page_ceil, unmap
from arrowpool.memory.platform.segments import attach_segment, create_segment

__all__ = [
    "PAGE",
    "aligned",
    "are_equal",
    "attach_segment",
    "bytes_at",
    "create_memory",
    "create_resizable",
    "create_segment",
    "create_unlinked",
    "die_with_parent",
    "drop_pages",
    "is_exclusive",
    "is_in_memory",
    "is_memfd",
    "is_on_disk",
    "map_again",
    "map_page",
    "map_private",
    "map_shared",
    "may_open_of",
    "open_again",
    "open_of",
    "open_page_map",
    "page_ceil",
    "populate",
    "punch",
    "punch_mapped",
    "read_only",
    "reserve",
    "set_size",
    "tie",
    "unmap",
    "watch_end",
    "written_pages",
]
