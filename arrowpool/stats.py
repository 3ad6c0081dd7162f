"""Figures about a pool, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a pool has moved so far, arguments and results together.

    Attributes
    ----------
    tasks : int
        Tasks answered; a chunk of `map` is one task.
    piped_bytes : int
        Bytes that went through pickle streams and sockets.
    shared_bytes : int
        Bytes that were copied into shared memory, once, and read there.
    copies : int
        How many buffers that was.
    """

    tasks: int
    piped_bytes: int
    shared_bytes: int
    copies: int
