"""``python -m arrowpool top`` on a terminal: the pools, drawn in place with rich, until ``q`` or Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from arrowpool.cli import top

_QUITS = b"qQ"


def show(interval: float) -> int:
    """Draw the pools every `interval` seconds; return the exit code."""
    console = Console()
    try:
        with _ended_by_sigterm(), _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(interval, keys is not None), refresh=True)
                if _quits(keys, interval):
                    return 0
    except KeyboardInterrupt:
        return 130


def _screen(interval: float, has_keys: bool) -> Group:
    now = time.strftime("%H:%M:%S")
    head = Text(
        f"arrowpool top  {now}  every {interval:g} s  {'q or ' if has_keys else ''}Ctrl-C ends it", style="bold"
    )
    pools = top.pools()
    parts: list[Text | Table] = [head, Text()]
    if not pools:
        parts.append(Text(top.NO_POOLS))
    for pool in pools:
        parts += [Text(pool.title), Text(pool.arguments), _table(pool), Text()]
    parts.append(Text(top.explanation(), style="dim"))
    return Group(*parts)


def _table(pool: top.PoolUse) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(top.COLUMNS):
        table.add_column(name, justify="left" if number < top.WORDS else "right", no_wrap=True, overflow="ellipsis")
    for row in pool.rows:
        # Text, since a function's name may look like rich's markup.
        table.add_row(*(Text(cell, no_wrap=True) for cell in row), style="dim" if row[1] == "-" else "")
    return table


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor of the keyboard, which gives each key at once in the block. None without a keyboard."""
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (AttributeError, OSError, ValueError, termios.error):  # there is no stdin, or it is no terminal
        yield None
        return
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _quits(keys: int | None, interval: float) -> bool:
    """Wait for the interval; return whether the user ends it."""
    until = time.monotonic() + interval
    while (left := until - time.monotonic()) > 0:
        if keys is None:
            time.sleep(left)
        elif select.select([keys], [], [], left)[0]:
            pressed = os.read(keys, 1)
            if not pressed or pressed in _QUITS:  # or the terminal is gone
                return True
    return False


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End by an exception on SIGTERM, so that the terminal is as it was."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
