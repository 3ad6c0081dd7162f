"""The registry of codecs: one module per library.

Each module has ``encoder_for(cls)``, with the functions that rebuild objects next to those that encode them; and ``extents(obj)``,
if slices of one object share its memory. A module is imported only when its library is already loaded, so this package never imports
an optional library.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator

from arrowpool.codecs.outbox import ByteArray, Encode, Extent, Outbox, Reduced

__all__ = [
    "ByteArray",
    "Encode",
    "Extent",
    "Outbox",
    "Reduced",
    "encoder_for",
    "extents",
    "library_of",
    "load",
    "settle",
]

#: Top-level name of a library -> the module here that knows its types.
_MODULES = {
    "numpy": "arrowpool.codecs.numpy",
    "pandas": "arrowpool.codecs.pandas",
    "pyarrow": "arrowpool.codecs.arrow",
    "polars": "arrowpool.codecs.polars",
}


def library_of(cls: type) -> str | None:
    """The library with a codec that defines `cls` or one of its bases; None when there is none."""
    for base in cls.__mro__:
        module = base.__module__
        # A proxy may have a property of that name, or any attribute of its target.
        library = module.partition(".")[0] if type(module) is str else ""
        if library in _MODULES and library in sys.modules:
            return library
    return None


def encoder_for(cls: type) -> Encode | None:
    """The encoder of `cls`, from the codec of its library; None for plain pickle."""
    library = library_of(cls)
    if library is None:
        return None
    encode: Encode | None = importlib.import_module(_MODULES[library]).encoder_for(cls)
    return encode


def load() -> None:
    """Import the codecs of all libraries that are loaded: before workers are forked, and before a worker's first task.

    Otherwise the first task of each process imports them while the others wait for it.
    """
    for library, module in _MODULES.items():
        spec = getattr(sys.modules.get(library), "__spec__", None)
        if spec is not None and not getattr(spec, "_initializing", False):
            # What is wrong with the library shows when an object of it is encoded.
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def settle() -> None:
    """Free memory that other libraries have released. Costs nothing when there is no such memory."""
    # Another thread may be importing the module now: then it keeps no memory.
    settle_kept = getattr(sys.modules.get("arrowpool.codecs.kept"), "settle", None)
    if settle_kept is not None:
        settle_kept()


def extents(obj: object) -> Iterator[Extent]:
    """The large memory of an array, a frame or a table. Empty for all other objects, and for small ones."""
    library = library_of(type(obj))
    if library is not None:
        find = getattr(importlib.import_module(_MODULES[library]), "extents", None)
        if find is not None:
            yield from find(obj)
