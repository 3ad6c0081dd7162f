"""Output of the commands: a closed pipe ends a command quietly, and foreign text cannot control the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

#: The exit code that a shell reports for a program that ended by SIGPIPE.
_NOT_READ = 141


def until_not_read(command: Callable[[], int]) -> int:
    """Run a command, and end it without an error when its output is no longer read (``python -m arrowpool ls | head``).

    Returns
    -------
    int
        The command's exit code; 141 when its output is no longer read.
    """
    try:
        code = command()
        sys.stdout.flush()  # here, not at the exit of the interpreter
        return code
    except BrokenPipeError:
        from arrowpool.waiting import has_reader  # not on Windows, where a pipe fails in another way

        if has_reader(sys.stdout.fileno()):
            raise  # another pipe
        # The interpreter flushes the rest of the buffer when it exits: to the null device, without an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOT_READ


def printable(text: str) -> str:
    """Foreign text on one line, without control characters."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
