"""Every way in which a task can go wrong, at every point of its way, in a module that every start method can import."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys


def raise_error():
    raise RuntimeError("on purpose")


def leave():
    sys.exit(3)


def interrupt():
    raise KeyboardInterrupt


def die():
    os._exit(7)


def segfault():
    faulthandler.disable()  # its report would only clutter the tests' output
    os.kill(os.getpid(), signal.SIGSEGV)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class AtPickle:
    """Goes wrong when it is pickled."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        self.how()
        return str, ("unreachable",)


class AtUnpickle:
    """Goes wrong when it is rebuilt in another process than it was made in."""

    def __init__(self, how, size=0):
        self.how = how
        self.payload = b"x" * size

    def __reduce__(self):
        return _rebuild, (self.how, self.payload)


def _rebuild(how, payload):
    how()
    return payload


class AtSetState:
    def __init__(self, how):
        self.how = how

    def __setstate__(self, state):
        state["how"]()


class AtDelete:
    """Goes wrong when it is let go of; Python reports that and goes on."""

    def __init__(self, how):
        self.how = how

    def __del__(self):
        self.how()


class Unbuildable(Exception):
    """Its constructor goes wrong when it is rebuilt."""

    def __init__(self, how):
        super().__init__(how)
        self.how = how
        self.made_in = os.getpid()

    def __reduce__(self):
        return _rebuild, (self.how, b"")


def identity(x):
    return x


def do(how):
    how()


def give(kind, how):
    return kind(how)


def throw(how):
    raise Unbuildable(how)


def throw_at_pickle(how):
    error = RuntimeError("carries what cannot be pickled")
    error.args = (AtPickle(how),)
    raise error
