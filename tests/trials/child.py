"""A trial runs in a forked child, with its own pools: what happens to it, happens to it alone, and one that hangs says where."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from typing import Any


@dataclass
class Outcome:
    """How a child has ended: with a value, or with what went wrong as text; and all that it and its children said."""

    value: Any
    wrong: str | None
    said: str
    #: Type of what was raised, if something was.
    raised: type[BaseException] | None = None

    def get(self) -> Any:
        """The value. An assertion fails if the call raised."""
        assert self.wrong is None, f"{self.wrong}\n{self.said}"
        return self.value


def run(function, *args, limit=60.0):
    """Run ``function(*args)`` in a forked child, in a process group of its own that is killed at the end or after `limit` seconds."""
    with tempfile.TemporaryFile() as said:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _live(function, args, said, writer)
        os.close(writer)
        received = _receive(reader, child, limit)
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if received is None:
        return Outcome(None, f"nothing for {limit} seconds", _without_the_runner(text))
    if not received:
        return Outcome(None, f"ended with status {status}", text)
    value, wrong, raised = pickle.loads(received)
    return Outcome(value, wrong, text, raised)


def _without_the_runner(text):
    """Stacks without the test runner's own part of them."""
    outside = (
        "site-packages/_pytest",
        "site-packages/pluggy",
        "site-packages/pytest",
        "<frozen runpy>",
        "Extension modules",
    )
    return "\n".join(line for line in text.splitlines() if not any(part in line for part in outside))


def _live(function, args, said, writer):
    """The child's life."""
    with contextlib.suppress(BaseException):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for target in (1, 2):
            os.dup2(said.fileno(), target)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        faulthandler.enable(said.fileno())
        try:
            answer = function(*args), None, None
        except BaseException as error:
            answer = None, traceback.format_exc(), type(error) if type(error).__module__ == "builtins" else Exception
        message = memoryview(pickle.dumps(answer))
        while message:
            message = message[os.write(writer, message) :]
    os._exit(0)


def _receive(reader, child, limit):
    """What the child sends before it ends, or None after too long; it says then where its threads are."""
    deadline = time.monotonic() + limit
    received = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(reader, 1 << 20)
        if not piece:
            return received
        received += piece
        with contextlib.suppress(Exception):  # whole, though a worker may still hold the other end
            pickle.loads(received)
            return received
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGABRT)  # faulthandler's
        poll.poll(2000)
    return None
