"""Which library an object belongs to. No library is imported: an object of one that is not loaded cannot exist."""

from __future__ import annotations

import sys
from typing import Any


def is_of(obj: Any, library: str, *names: str) -> bool:
    """Whether an object is an instance of one of the classes `names` of a library."""
    module = sys.modules.get(library)
    return module is not None and isinstance(obj, tuple(getattr(module, name) for name in names))


def kind_of(obj: Any) -> str:
    """ "pandas", "polars", "arrow" or "numpy" for a frame, series, table or array of it; "" for other objects."""
    if is_of(obj, "pandas", "DataFrame", "Series", "Index"):
        return "pandas"
    if is_of(obj, "polars", "DataFrame", "Series"):
        return "polars"
    if is_of(obj, "pyarrow", "Table", "RecordBatch", "Array", "ChunkedArray"):
        return "arrow"
    if is_of(obj, "numpy", "ndarray"):
        return "numpy"
    return ""
