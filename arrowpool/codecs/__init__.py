"""The registry: which function encodes which type.

One module per library, each with ``encoder_for(cls)``: encode beside decode; and ``extents(obj)``, where slices of one
object share its memory. A library's module is imported only when
the library itself is already loaded, so nothing optional is ever imported from here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

from arrowpool.codecs.outbox import ByteArray, Encode, Extent, Outbox, Reduced

__all__ = ["ByteArray", "Encode", "Extent", "Outbox", "Reduced", "encoder_for", "extents", "library_of", "settle"]

#: Top-level name of a library -> the module here that knows its types.
_MODULES = {
    "numpy": "arrowpool.codecs.numpy",
    "pandas": "arrowpool.codecs.pandas",
    "pyarrow": "arrowpool.codecs.arrow",
    "polars": "arrowpool.codecs.polars",
}


def library_of(cls: type) -> str | None:
    """The library known here that `cls` comes from, itself or through a base; None when there is none."""
    for base in cls.__mro__:
        module = base.__module__
        # Proxies have a property of that name, or whatever their target has.
        library = module.partition(".")[0] if type(module) is str else ""
        if library in _MODULES and library in sys.modules:
            return library
    return None


def encoder_for(cls: type) -> Encode | None:
    """The encoder of `cls`, found through the library it comes from; None when plain pickle shall do it."""
    library = library_of(cls)
    if library is None:
        return None
    encode: Encode | None = importlib.import_module(_MODULES[library]).encoder_for(cls)
    return encode


def settle() -> None:
    """Free what other libraries have let go of meanwhile; costs nothing where there is nothing of this kind."""
    # Another thread may be about to import it: then it has nothing yet, and keeps nothing.
    settle_kept = getattr(sys.modules.get("arrowpool.codecs.kept"), "settle", None)
    if settle_kept is not None:
        settle_kept()


def extents(obj: object) -> Iterator[Extent]:
    """Where the large memory of an array, a frame or a table lies; nothing for what has none, or says nothing of it."""
    library = library_of(type(obj))
    if library is not None:
        find = getattr(importlib.import_module(_MODULES[library]), "extents", None)
        if find is not None:
            yield from find(obj)
