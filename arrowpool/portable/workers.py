"""How a worker begins where there is no shared memory: it ends with its parent, ignores Ctrl-C, and runs the user's initializer.

The standard library's executor leaves its workers behind when its process is killed. And Ctrl-C reaches every process of the
terminal: its workers would end with a traceback each, and with them the pool. Only the parent reacts to it here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from arrowpool.portable.parcels import Parcel

#: Exit code of a worker whose initializer has failed. No signal and no other program of this project uses it.
UNINITIALIZED = 114
_ORPHANED = 115


def begin(parcel: Parcel | None) -> None:
    """In a new worker. The parcel is of ``(initializer, initargs)``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="arrowpool-parent", daemon=True).start()
    if parcel is not None:
        function: Callable[..., Any]
        function, args = parcel.open()
        function(*args)


def begin_in_pool(parcel: Parcel | None) -> None:
    """As `begin`. The parent learns by the exit code that the initializer has failed."""
    try:
        begin(parcel)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        raise SystemExit(UNINITIALIZED) from None


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(_ORPHANED)
