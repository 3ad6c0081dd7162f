"""Whether types are still pickled as they were: templates stand for pandas' own pickling, which another library may replace.

Called by `frame`, `index` and `arrays`, when an encoder is looked for.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from multiprocessing.reduction import ForkingPickler
from typing import Any

__all__ = ["Reductions"]

_OWN = ("builtins", "pandas")
_METHODS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


class Reductions:
    """How each of some types is pickled at this moment.

    Parameters
    ----------
    types : iterable of type
        The types.
    """

    def __init__(self, types: Iterable[type]):
        #: None for a type that has been given another way of pickling before this module was imported.
        self._known = {cls: found if _are_own(found := _reductions_of(cls)) else None for cls in types}

    def are_unchanged(self, cls: type | None = None) -> bool:
        """Whether a type, one of these, is pickled as it was; by default, whether all are."""
        if cls is None:
            return all(map(self.are_unchanged, self._known))
        return _reductions_of(cls) == self._known[cls]


def _are_own(reductions: list[Any]) -> bool:
    """Whether these are of pandas itself, or of Python."""
    modules = (getattr(method, "__module__", None) or "builtins" for method in reductions if method is not None)
    return all(str(module).partition(".")[0] in _OWN for module in modules)


def _reductions_of(cls: type) -> list[Any]:
    registered = copyreg.dispatch_table.get(cls), ForkingPickler._extra_reducers.get(cls)  # type: ignore[attr-defined]
    return [*(getattr(cls, name, None) for name in _METHODS), *registered]
