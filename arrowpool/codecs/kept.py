"""Memory that a library reads, and releases in its own threads: kept here until the library has released it.

Called by the polars codec. Freeing leased memory needs the interpreter's lock, since that ends the lease. polars frees memory in its
own threads, and some of its calls (`extend`, `serialize`) wait for these threads with the interpreter's lock held: a deadlock.

So this module refers to the memory too, and the library's reference is never the last one. The table that the library gets has
one more column, the *witness*, over a buffer that Arrow itself has allocated and can free in any thread. The table is given away as
a whole and freed as a whole, its last column last. When the witness's memory pool is empty, all other columns have been released,
and a Python thread frees them here.

The pool is checked when the frame over the table is gone, which is usually the end. Objects that were made of the frame may still
use the memory then. For these, `settle` checks again: when another table is given away, between a worker's tasks, between the
parent's messages, and after garbage collections.

This code assumes that Arrow C++ frees the columns of a batch in their order. If it did not, memory would be freed in the other
library's thread, as without this module, but never too early.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pyarrow as pa

#: A column name that no user has.
WITNESS = "\1arrowpool witness\1"
#: Number of kept tables that are checked for each call of `settle`, on average.
_AT_A_TIME = 128


class _End:
    """An attribute of an object, for a finalizer that runs when the object is gone."""

    __slots__ = ("__weakref__",)


class Keeper:
    """The tables that were given away, and their memory pools.

    It has no lock, since it runs in any thread, in finalizers and garbage collections. An interrupt may come between any two lines.
    A pool must not be freed before its witness, so pools are never freed: they are reused.
    """

    def __init__(self) -> None:
        #: All pools, until the end of the process. Any thread appends.
        self._pools: list[pa.MemoryPool] = []
        #: The empty pools. Any thread appends and pops; both are atomic.
        self._empty: list[pa.MemoryPool] = []
        #: By number, the pool of a witness, and the table to keep. Any thread adds and pops, with atomic operations.
        self._kept: dict[int, tuple[pa.MemoryPool, Any]] = {}
        self._numbers = itertools.count()
        #: `_AT_A_TIME` for each call of `settle` since all tables were checked.
        self._due = 0

    def __len__(self) -> int:
        return len(self._kept)

    def give(self, table: pa.Table, read: Callable[[pa.Table], Any]) -> Any:
        """Call `read` with the table and a last column `WITNESS`; return its result. Keep the table's memory while it is in use.

        The result of `read` must accept attributes.
        """
        self.settle()
        pool = self._pool()
        rows = table.num_rows
        # No code reads these bits, so their pages are never allocated.
        bits = pa.allocate_buffer(-(-rows // 8) or 1, memory_pool=pool)
        number = next(self._numbers)
        self._kept[number] = pool, table
        made = read(table.append_column(WITNESS, pa.Array.from_buffers(pa.bool_(), rows, [None, bits], 0)))
        # The last attribute of the object, so it is freed after the object's memory.
        made._arrowpool = end = _End()
        weakref.finalize(end, self._look_at, number).atexit = False
        return made

    def _look_at(self, number: int) -> None:
        one = self._kept.get(number)
        if one is not None and not one[0].bytes_allocated() and self._kept.pop(number, None) is not None:
            self._empty.append(one[0])

    def _pool(self) -> pa.MemoryPool:
        try:
            return self._empty.pop()
        except IndexError:
            pool = pa.proxy_memory_pool(pa.system_memory_pool())
            self._pools.append(pool)
            return pool

    def settle(self, everything: bool = False) -> None:
        """Free released tables. With many tables, they are checked only after a number of these calls."""
        kept = self._kept
        self._due += _AT_A_TIME
        if not everything and self._due < len(kept):
            return
        self._due = 0
        for number in list(kept):
            self._look_at(number)

    def on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Called by `gc.callbacks`."""
        if phase == "stop" and self._kept:
            self.settle(everything=info["generation"] == 2)


_keeper: Keeper | None = None


def keeper() -> Keeper:
    """The keeper of this process."""
    global _keeper
    if _keeper is None:
        made = Keeper()
        # Witnesses may be freed after the end of the interpreter, and need their pools then: never free the keeper.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
        gc.callbacks.append(made.on_collection)
        _keeper = made
    return _keeper


def settle() -> None:
    """Free memory that other libraries have released."""
    if _keeper is not None and _keeper:
        _keeper.settle()
