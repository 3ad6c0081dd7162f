"""Whether types are still pickled as they were: templates stand for pandas' own pickling, which another library may replace.

Called by `frame`, `index` and `arrays`, when an encoder is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Reductions"]

_METHODS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


class Reductions:
    """How each of some types is pickled at this moment.

    Parameters
    ----------
    types : iterable of type
        The types.
    """

    def __init__(self, types: Iterable[type]):
        self._known = {cls: _methods_of(cls) for cls in types}

    def are_unchanged(self, cls: type) -> bool:
        """Whether a type, one of these, is pickled as it was."""
        return _methods_of(cls) == self._known[cls]


def _methods_of(cls: type) -> list[Any]:
    return [getattr(cls, name, None) for name in _METHODS]
