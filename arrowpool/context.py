"""`get_context`: a multiprocessing context whose ``Pool`` is an `ArrowPool`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any

from arrowpool.pool import ArrowPool


class _Context:
    """A multiprocessing context: `Pool` is this class's, everything else the wrapped context's."""

    def __init__(self, context: Any):
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __repr__(self) -> str:
        return f"<arrowpool context over {self._context!r}>"

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **extras: Any,
    ) -> ArrowPool:
        """Return an `ArrowPool` whose workers are started by this context's method. `extras` are keywords of `ArrowPool`."""
        return ArrowPool(processes, initializer, initargs, maxtasksperchild, context=self._context, **extras)


def get_context(method: str | None = None) -> Any:
    """As `multiprocessing.get_context`; the context's ``Pool`` is an `ArrowPool`.

    Parameters
    ----------
    method : {"fork", "spawn", "forkserver"}, optional
        The start method of the workers. The default is that of `multiprocessing`.

    Raises
    ------
    ValueError
        When this platform does not have the method.

    Examples
    --------
    >>> import arrowpool
    >>> arrowpool.get_context("spawn")
    <arrowpool context over <multiprocessing.context.SpawnContext object at 0x...>>
    """
    return _Context(multiprocessing.get_context(method))
