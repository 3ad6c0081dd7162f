"""The state of a pool at one moment: what `Pool.health()` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a pool takes calls, and what it does now. Taken without waiting, also while the pool is busy or broken.

    Attributes
    ----------
    state : str
        ``new`` (an executor before its first call), ``running``, ``closed`` or ``terminated``.
    broken : str or None
        Why the pool can run no task, so that all calls raise; None if it can.
    size : int
        Number of workers that the pool keeps.
    alive : int
        Worker processes that have started and not ended. Fewer than `size` for a moment after one was lost.
    calls : int
        Calls whose results are not complete.
    running : int
        Tasks that run now.
    waiting : int
        Tasks that are known and have not begun: those of an iterable without a length are not.
    longest : float
        Seconds for which the longest of the running tasks has run so far; 0.0 without one.
    """

    state: str
    broken: str | None = None
    size: int = 0
    alive: int = 0
    calls: int = 0
    running: int = 0
    waiting: int = 0
    longest: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the pool takes calls and can run them."""
        return self.state in ("new", "running") and self.broken is None
