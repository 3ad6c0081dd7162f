"""A Dask cluster of programs that are started from the command line: a scheduler, and nodes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def wait_for(condition, seconds=30):
    """Wait until the condition holds; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    return value


def alive(pids):
    """Those of these processes that run."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


class Nodes:
    """A scheduler and its nodes. All end with the ``with`` block.

    Parameters
    ----------
    folder : Path
        For files.
    tls : tuple of str
        Options of scheduler and workers.
    """

    def __init__(self, folder, tls=()):
        self._folder = folder
        self._tls = tls
        self._programs = []
        self.scheduler = None

    def __enter__(self):
        self.scheduler = self._start(
            "scheduler", "--port=0", "--no-dashboard", *(("--protocol=tls",) if self._tls else ())
        )
        # Nodes give up when the scheduler is not there in time.
        wait_for(Path(self.scheduler_file).exists, 60)
        return self

    @property
    def scheduler_file(self):
        return str(self._folder / "scheduler.json")

    def add(self, *options):
        """Start a node; return its program, that of the nanny."""
        limits = "--nthreads=1", "--memory-limit=0", "--death-timeout=100"
        return self._start("worker", *limits, "--no-dashboard", f"--local-directory={self._folder}", *options)

    def _start(self, kind, *options):
        with open(self._folder / f"{kind}-{len(self._programs)}.log", "w") as log:
            program = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, *self._tls),
                    f"--scheduler-file={self.scheduler_file}",
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._programs.append(program)
        return program

    def __exit__(self, *_):
        children = []
        for program in reversed(self._programs):
            with contextlib.suppress(psutil.NoSuchProcess):
                children += psutil.Process(program.pid).children(recursive=True)
            program.kill()
            program.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, 10)
