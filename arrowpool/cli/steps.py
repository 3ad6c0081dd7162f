"""A line that says what a command does while a person waits, how far it is, and how long the rest will take about."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO


class Steps:
    """Draws one line in place at each step, and removes it at the end of the ``with`` block. Only on a terminal.

    Parameters
    ----------
    total : int, optional
        Number of steps, if it is known.
    deadline : float, optional
        When the last step ends about, by `time.monotonic`. By default that is estimated from the steps that are done.
    screen : file, optional
        Where to draw. By default standard error, so that the output can be piped.
    """

    def __init__(self, total: int | None = None, deadline: float | None = None, screen: TextIO | None = None):
        self._screen = sys.stderr if screen is None else screen
        self._draws = self._screen is not None and self._screen.isatty()
        self._total = total
        self._deadline = deadline
        self._begun = 0
        self._since = time.monotonic()
        #: Length of the line that is drawn.
        self._length = 0

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw("")

    def begin(self, what: str) -> None:
        """Say what begins now."""
        self._begun += 1
        of = "" if self._total is None else f"/{self._total}"
        left = self._seconds_left()
        about = "" if left is None else f", about {left:.0f} s left"
        self._draw(f"[{self._begun}{of}] {what}; {time.monotonic() - self._since:.0f} s{about}")

    def _seconds_left(self) -> float | None:
        done, now = self._begun - 1, time.monotonic()
        if self._deadline is not None:
            return max(0.0, self._deadline - now)
        return (now - self._since) / done * (self._total - done) if done and self._total is not None else None

    def _draw(self, words: str) -> None:
        if not self._draws:
            return
        words = words[: shutil.get_terminal_size().columns - 1]
        # The spaces overwrite what is left of the last line.
        self._screen.write(f"\r{words}{' ' * (self._length - len(words))}\r{words}")
        self._screen.flush()
        self._length = len(words)
