"""arrowpool on systems without its shared memory, such as Windows: the standard library's machinery with arrowpool's names.

`missing` says what this Python lacks. If it lacks something, `arrowpool/__init__` calls `stand_in` before anything else is imported, and
`arrowpool.pool`, `arrowpool.executor.executor` and `arrowpool.shelf` are the modules of this package. The other modules, such as
`context`, `patching` and `progress`, use these names and need nothing from the system. All modules here can be imported everywhere.

- `pool`: `multiprocessing.pool.Pool` with arrowpool's methods. Everything is pickled, and the first pool warns of it once. What pickle
  cannot send, such as a lambda or a function of a notebook, is sent by value. `relay` stands in for the engine, `tasks` for the worker's
  loop; `outcomes` and `parcels` have what travels between them.
- `executor`: `concurrent.futures.ProcessPoolExecutor`, in the same way.
- `shelf`: one file for each object, in a directory of this user.
- `commands`: what `doctor` and `top` can say here.

Arguments that need arrowpool's own workers or memory (`max_bytes`, `spill_dir`, `retries`, `task_timeout`) raise `UnsupportedError`.

Plan of a Windows port with shared memory
-----------------------------------------
It waits for a machine to run it on. What its primitives (see `memory.platform`) would be there:

- create: ``CreateFileMapping`` without a name and with SEC_RESERVE: a section that is reserved and not committed. Its handle goes to
  workers by ``DuplicateHandle``.
- reserve, populate: ``VirtualAlloc(MEM_COMMIT)`` on a part of the owner's view. It fails at once where the page file is full, so there
  is no later fault. Committed pages of a section cannot be decommitted: `punch` is ``OfferVirtualMemory``, or False.
- map_owner: ``MapViewOfFile(FILE_MAP_WRITE)``; children inherit no views.
- map_private: ``MapViewOfFile(FILE_MAP_COPY)``: copy on write. restore: unmap the view and map it at the same address again.
- wait_many, watch_end: ``WaitForMultipleObjects`` on process handles and overlapped pipes.
- die_with_parent: a job object with JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE. interrupt: an event that a thread of the worker waits for.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import select
import signal
import sys
from functools import cache

from arrowpool.memory import facilities

#: Names that arrowpool's own machinery uses, and that Windows and WebAssembly do not have.
_NEEDED = (
    *((os, name) for name in ("fork", "preadv", "register_at_fork", "set_blocking", "statvfs", "sysconf")),
    *((signal, name) for name in ("SIGKILL", "pthread_sigmask")),
    (select, "poll"),
)
#: Modules that take another's place, by the names that they are imported by.
_STANDING_IN = ("pool", "executor.executor", "shelf")


@cache
def missing() -> str | None:
    """What this Python lacks for shared memory, such as ``the module fcntl``; None when it lacks nothing."""
    for name in ("fcntl", "resource"):
        try:
            importlib.import_module(name)
        except ImportError:
            return f"the module {name}"
    for module, name in _NEEDED:
        if not hasattr(module, name):
            return f"{module.__name__}.{name}"
    try:
        ctypes.CDLL(None)
    except (OSError, TypeError):
        return "a C library that ctypes can open"
    return None


def why() -> str:
    """Why nothing is shared, for warnings and figures."""
    return f"no shared memory on this system: Python has no {(missing() or '').removeprefix('the ')} here"


def has_shelf() -> bool:
    """Whether processes can look at what other processes hold: on Linux. Elsewhere, the shelf has a file for each object."""
    return sys.platform == "linux" and facilities.has("linux")


def stand_in() -> None:
    """Make the modules of this package that are needed here the ones that are imported as `arrowpool.pool` and so on."""
    for name in _STANDING_IN if missing() is not None else ("shelf",):
        module = importlib.import_module(f"arrowpool.portable.{name.rpartition('.')[2]}")
        sys.modules[f"arrowpool.{name}"] = module
        if "." not in name:
            setattr(sys.modules["arrowpool"], name, module)
