"""A clock that runs at times: how long something has been the case."""

from __future__ import annotations

import time


class Clock:
    """Started and stopped by the acting thread (see `mailbox`), read by any thread."""

    def __init__(self) -> None:
        #: Seconds of earlier runs, and when this run began; None while it does not run. The acting thread writes, any thread
        #: reads. One object, so that no reader counts a run that has just ended twice.
        self._state: tuple[float, float | None] = (0.0, None)

    def __repr__(self) -> str:
        return f"<Clock {self.seconds():.3f} s{'' if self._state[1] is None else ', runs'}>"

    def start(self) -> None:
        """Run. Without effect while it runs."""
        total, since = self._state
        if since is None:
            self._state = (total, time.monotonic())

    def stop(self) -> None:
        """Stop. Without effect unless it runs."""
        total, since = self._state
        if since is not None:
            self._state = (total + time.monotonic() - since, None)

    def seconds(self) -> float:
        """Seconds of all runs so far."""
        total, since = self._state
        return total if since is None else total + time.monotonic() - since
