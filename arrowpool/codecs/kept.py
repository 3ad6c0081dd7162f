"""Memory that a library reads, and frees in threads of its own: kept here until the library has let go of it.

Called by the polars codec. Our memory can be freed only by who holds the interpreter's lock: that is how leases end. polars
frees in its own threads, and some of its calls (`extend`, `serialize`) wait for these threads with the lock held: the two
would wait for each other for ever.

So this module refers to the memory too, and the library's reference is never the last one. The table that the library gets has
one more column, the *witness*, over a buffer that Arrow itself has allocated and can free in any thread. A table goes to its
reader as one thing and is freed as one thing, its last column last. When the witness's memory pool is empty, all of the rest
has been let go of, and it is freed here, by a thread of Python's.

The pool is looked at when the frame over the table goes, which is mostly the end; and, for what was made of the frame
(`settle`), when another table is given away, between a worker's tasks, between the parent's messages, and whenever garbage is
collected.

This code assumes that Arrow C++ frees the columns of a batch in their order. Were it otherwise, memory would be freed in the
other library's thread, as without this module; never too early.
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
#: So many kept tables are looked at for each call of `settle`, on average.
_AT_A_TIME = 128


class _End:
    """Goes with the object that has it."""

    __slots__ = ("__weakref__",)


class Keeper:
    """Tables that were given away.

    Without a lock, since it runs in any thread, within finalizers and collections. An interrupt may come between any two of
    its lines; no pool may go before its witness, so none ever goes: they are used again.
    """

    def __init__(self) -> None:
        #: All there are, for good.
        self._pools: list[pa.MemoryPool] = []
        #: Those of them that are empty.
        self._empty: list[pa.MemoryPool] = []
        #: What was given away, by number: its witness's pool, and the memory to keep.
        self._kept: dict[int, tuple[pa.MemoryPool, Any]] = {}
        self._numbers = itertools.count()
        #: For how many tables there were calls of `settle` since all were looked at.
        self._due = 0

    def __len__(self) -> int:
        return len(self._kept)

    def give(self, table: pa.Table, read: Callable[[pa.Table], Any]) -> Any:
        """What `read` makes of the table with one column more, `WITNESS`, the last; its memory is kept for that long.

        `read` returns an object that takes attributes, over memory that is its own by then.
        """
        self.settle()
        pool = self._pool()
        rows = table.num_rows
        # Nobody reads these bits, so their pages never exist.
        bits = pa.allocate_buffer(-(-rows // 8) or 1, memory_pool=pool)
        number = next(self._numbers)
        self._kept[number] = pool, table
        made = read(table.append_column(WITNESS, pa.Array.from_buffers(pa.bool_(), rows, [None, bits], 0)))
        # The last of its attributes, so that when it goes this goes after the memory.
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
        """Free what has been let go of; if there are many, only when enough of these calls have come together."""
        kept = self._kept
        self._due += _AT_A_TIME
        if not everything and self._due < len(kept):
            return
        self._due = 0
        for number in list(kept):
            self._look_at(number)

    def on_collection(self, phase: str, info: dict[str, int]) -> None:
        """What `gc.callbacks` calls."""
        if phase == "stop" and self._kept:
            self.settle(everything=info["generation"] == 2)


_keeper: Keeper | None = None


def keeper() -> Keeper:
    """The one of this process."""
    global _keeper
    if _keeper is None:
        made = Keeper()
        # Witnesses may be freed when the interpreter has ended, and then still want their pools.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
        gc.callbacks.append(made.on_collection)
        _keeper = made
    return _keeper


def settle() -> None:
    """Free what other libraries have let go of."""
    if _keeper is not None and _keeper:
        _keeper.settle()
