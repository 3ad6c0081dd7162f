"""Exceptions that travel among values: each as a stream of its own, so one that cannot be rebuilt spoils no other value."""

from __future__ import annotations

from typing import Any, NamedTuple


class SentError(NamedTuple):
    """An exception in the place of a value, and its traceback as text: empty if it was not raised by a task."""

    stream: bytes
    text: str


class Outcomes(NamedTuple):
    """The values of a chunk, with a `SentError` in the place of each that is missing."""

    values: list[Any]
