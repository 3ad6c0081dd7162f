"""The context manager that `ArrowPool.share` returns: places an object for the calls in a ``with`` block."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import BuiltinFunctionType, FunctionType, NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arrowpool.engine.calls import Share

if TYPE_CHECKING:  # it needs shared memory, which not every system has
    from arrowpool.engine.engine import Engine

_T = TypeVar("_T")

#: Types whose objects pickle writes without calling the reducer.
_NOT_SHARED = frozenset(
    (
        *(NoneType, bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset),
        *(FunctionType, BuiltinFunctionType),
    )
)


class Sharing(AbstractContextManager[_T], Generic[_T]):
    """Shares an object from the beginning of the ``with`` block to its end. Can be entered once.

    Parameters
    ----------
    obj : object
        What to share.
    engine : Engine
        Places and releases it.
    shares : dict
        Objects that calls of the pool refer to. The block adds its own and removes it.
    check_running : callable
        Raises if the pool takes no calls.

    Raises
    ------
    TypeError
        For objects that a call could not recognize.
    """

    #: Whether the block has begun. Written by the thread that enters it, only to True; read by the finalizer, which has no other
    #: reference to this object to run with.
    _entered = True

    def __init__(self, obj: _T, engine: Engine, shares: dict[Share, None], check_running: Callable[[], Any]):
        if isinstance(obj, type) or type(obj) in _NOT_SHARED:
            raise TypeError(
                f"a {type(obj).__name__} cannot be shared: calls would not recognize it as the shared object. "
                "Share the frames, tables and arrays in it."
            )
        self._obj = obj
        self._engine = engine
        self._shares = shares
        self._check_running = check_running
        self._share: Share | None = None
        self._entered = False

    def __enter__(self) -> _T:
        if self._entered:
            raise RuntimeError("a block of pool.share() is entered once; call pool.share() again")
        self._entered = True
        self._check_running()
        self._share = share = Share(self._obj)
        self._engine.share(share)
        try:
            share.placed.result()
            self._shares[share] = None
        except BaseException:
            self._end()
            raise
        return self._obj

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        share, self._share = self._share, None
        del self._obj
        if share is not None:
            self._shares.pop(share, None)
            self._engine.unshare(share)

    def __del__(self) -> None:
        # Only says that something was forgotten: nothing was placed, so nothing needs a release.
        if not self._entered:
            warnings.warn(
                "pool.share(x) without a `with` block shares nothing: write `with pool.share(x): ...`",
                RuntimeWarning,
                stacklevel=2,
            )
