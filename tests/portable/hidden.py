"""Makes this process look as on a system without fcntl, poll and signals of POSIX, to what is imported from now on.

What comes before is what such a system has in another form: the standard library's own machinery, and libraries. Programs import this
first, so their workers do the same when they import the main module.
"""

from __future__ import annotations

import asyncio  # noqa: F401
import concurrent.futures.process  # noqa: F401
import ctypes
import multiprocessing.forkserver
import multiprocessing.managers
import multiprocessing.pool
import multiprocessing.popen_forkserver
import multiprocessing.popen_spawn_posix
import multiprocessing.shared_memory  # noqa: F401
import os
import select
import selectors  # noqa: F401
import signal
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401

import cloudpickle  # noqa: F401
import pandas as pd
import psutil  # noqa: F401
import pyarrow.parquet  # noqa: F401

pd.DataFrame({"key": [1], "value": [1.0]}).groupby("key").sum()  # imports what pandas imports late

MODULES = ("fcntl", "resource", "termios", "pwd", "grp")
OF_OS = (
    *(
        "fork",
        "forkpty",
        "register_at_fork",
        "sched_getaffinity",
        "sysconf",
        "getuid",
        "geteuid",
        "fchmod",
        "set_blocking",
    ),
    *(
        "preadv",
        "pread",
        "pwritev",
        "pwrite",
        "statvfs",
        "fstatvfs",
        "memfd_create",
        "pidfd_open",
        "posix_fallocate",
        "mkfifo",
    ),
)
OF_SIGNAL = ("SIGKILL", "SIGIO", "SIGURG", "SIGCHLD", "SIGHUP", "SIGUSR1", "SIGBUS", "sigtimedwait", "set_wakeup_fd")


def _no_library(*arguments, **_):
    raise OSError(f"no library: {arguments}")


for _name in MODULES:
    sys.modules[_name] = None
for _module, _names in ((os, OF_OS), (signal, OF_SIGNAL), (select, ("poll", "epoll"))):
    for _name in _names:
        if hasattr(_module, _name):
            delattr(_module, _name)
ctypes.CDLL = _no_library
if os.environ.get("HIDDEN_PLATFORM"):
    sys.platform = os.environ["HIDDEN_PLATFORM"]
