"""A program that uses `multiprocessing.Pool`, unmodified, on a cluster: the class that stands in for it.

``python -m arrowpool run --scheduler ADDRESS`` replaces the standard library's name with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing import pool as stdlib
from typing import Any

from distributed import Client

from arrowpool.integrations.dask.pool import DaskPool

_Pool = stdlib.Pool


class _Standing(type):
    """Metaclass of `ClusterPool`: every instance and subclass of `multiprocessing.pool.Pool` is also one of these."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Pool)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _Pool)


def pool_class(client: Client, made: Callable[[], None]) -> type[stdlib.Pool]:
    """A class in place of `multiprocessing.pool.Pool`, with its arguments, whose pools are on a cluster.

    Each node has as many processes as its Dask worker has threads: a number that fits one machine says nothing of a cluster.

    Parameters
    ----------
    client : Client
        Dask's client.
    made : callable
        Called for each pool that is made.
    """

    class ClusterPool(DaskPool, metaclass=_Standing):
        def __init__(
            self,
            processes: int | None = None,
            initializer: Callable[..., Any] | None = None,
            initargs: Iterable[Any] = (),
            maxtasksperchild: int | None = None,
            context: Any = None,
        ):
            if DaskPool in type(self).__mro__:
                DaskPool.__init__(self, client, None, initializer, initargs, maxtasksperchild)
                made()
            else:  # `ThreadPool` calls this constructor by the replaced name
                _Pool.__init__(self, processes, initializer, initargs, maxtasksperchild, context)

    return ClusterPool
