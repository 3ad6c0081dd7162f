"""Processes that put and read objects in the tests of the shelf, and what they do there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal

import numpy as np

import arrowpool
import arrowpool.shelf

fork = multiprocessing.get_context("fork")

#: Lengths of arrays of 8-byte numbers: one is copied by readers, one has a file of its own.
SMALL, LARGE = 1_000, 50_000


class Elsewhere:
    """A forked process that runs functions, one after another."""

    def __init__(self):
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=self._work, args=(theirs, self.pipe))
        self.process.start()
        theirs.close()

    def _work(self, pipe, parents):
        parents.close()
        while True:
            try:
                work = pipe.recv()
            except EOFError:
                return
            function, arguments = work
            try:
                pipe.send(function(*arguments))
            except Exception as error:
                pipe.send(error)

    def start(self, function, *arguments):
        self.pipe.send((function, arguments))

    def finish(self):
        return self.pipe.recv()

    def do(self, function, *arguments):
        self.start(function, *arguments)
        return self.finish()

    def stop(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # it has stopped

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self):
        if self.process.is_alive():
            self.go_on()
        self.pipe.close()
        self.process.join()
        self.process.close()


def put_full(number, count=SMALL):
    return arrowpool.put(np.full(count, number))


def sum_of(key):
    return float(arrowpool.get(key).sum())


_filled = []


def fill_the_table():
    with contextlib.suppress(OSError):
        while True:
            _filled.append(os.dup(0))


def empty_the_table():
    for fd in _filled:
        os.close(fd)


def limit_and_put(limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return put_full(3)


def held():
    """Descriptors of this process that are memory of the shelf, and the bytes behind them."""
    files = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd:arrowpool-shelf" in os.readlink(f"/proc/self/fd/{name}"):
                files[name] = 512 * os.stat(f"/proc/self/fd/{name}").st_blocks
    return len(files), sum(files.values())


def links():
    return [link(name) for name in os.listdir("/proc/self/fd")]


def link(name):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{name}")
    return ""
