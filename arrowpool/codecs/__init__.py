"""The registry: which function encodes which type.

One module per library, each with ``encoder_for(cls)``: encode beside decode. A library's module is imported only when
the library itself is already loaded, so nothing optional is ever imported from here.
"""

from __future__ import annotations

import importlib
import sys

from arrowpool.codecs.outbox import ByteArray, Encode, Outbox, Reduced

__all__ = ["ByteArray", "Encode", "Outbox", "Reduced", "encoder_for"]

#: Top-level name of a library -> the module here that knows its types.
_MODULES = {
    "numpy": "arrowpool.codecs.numpy",
    "pandas": "arrowpool.codecs.pandas",
    "pyarrow": "arrowpool.codecs.arrow",
    "polars": "arrowpool.codecs.polars",
}


def encoder_for(cls: type) -> Encode | None:
    """The encoder of `cls`, found through the libraries its bases come from; None when plain pickle shall do it."""
    for base in cls.__mro__:
        library = base.__module__.partition(".")[0]
        if library in _MODULES and library in sys.modules:
            encode: Encode | None = importlib.import_module(_MODULES[library]).encoder_for(cls)
            return encode
    return None
