"""Why an object was pickled and not shared, in words: for `pool.stats()`, never for a decision.

Looks for the causes that the codecs know, in what the object is made of; only at a sample of what is long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

_DEPTH = 4
_MEMBERS = 50
_SAMPLE = 200
_LONG = 200
_TEXT = frozenset({"str", "NoneType"})


def reasons(obj: Any) -> list[str]:
    """The causes that were found, each once; what the object is, if there was none."""
    found = list(dict.fromkeys(_look(obj, _DEPTH)))
    return found[:_MEMBERS] or [_nothing_in(obj)]


def _look(obj: Any, depth: int) -> Iterator[str]:
    if depth == 0 or obj is None or isinstance(obj, (int, float, complex, type)):
        return
    if isinstance(obj, (str, bytes, bytearray)):
        if len(obj) >= 1000:
            yield f"{type(obj).__name__}: pickle copies it"
        return
    if isinstance(obj, (dict, list, tuple, set, frozenset)):
        within = list(_look_at_members(obj.values() if isinstance(obj, dict) else obj, depth))
        if not within and len(obj) >= _LONG:
            within = [_nothing_in(obj)]
        yield from within
    else:
        known = list(_of_library(obj))
        yield from known
        if not known and type(obj).__module__.partition(".")[0] not in _LIBRARIES:
            yield from _look_at_members(getattr(obj, "__dict__", {}).values(), depth)


def _look_at_members(members: Iterable[Any], depth: int) -> Iterator[str]:
    for member in islice(members, _MEMBERS):
        yield from _look(member, depth - 1)


_LIBRARIES = frozenset({"numpy", "pandas", "pyarrow", "polars"})


def _of_library(obj: Any) -> Iterator[str]:
    numpy, pandas, polars = (sys.modules.get(name) for name in ("numpy", "pandas", "polars"))
    if numpy is not None and isinstance(obj, numpy.ndarray):
        if obj.dtype.hasobject:
            yield f"array: {obj.dtype.name} dtype with {_kinds(obj.ravel()[:_SAMPLE].tolist())}"
    elif pandas is not None and isinstance(obj, pandas.DataFrame):
        for number, name in enumerate(obj.columns):
            yield from _of_values(f"column {name!r}", obj.iloc[:, number])
        yield from _of_values("index", obj.index)
    elif pandas is not None and isinstance(obj, pandas.Series):
        yield from _of_values(f"series {obj.name!r}", obj)
        yield from _of_values("index", obj.index)
    elif pandas is not None and isinstance(obj, pandas.Index):
        yield from _of_values("index", obj)
    elif polars is not None and isinstance(obj, polars.LazyFrame):
        yield "LazyFrame: a plan, not data; collect() it"
    elif polars is not None and isinstance(obj, polars.DataFrame):
        for name, dtype in obj.schema.items():
            if dtype == polars.Object:
                yield f"column {name!r}: polars Object dtype"


def _of_values(what: str, values: Any) -> Iterator[str]:
    """Of a column, a series or an index."""
    if values.dtype == object:
        kinds = _kinds(values[:_SAMPLE].tolist())
        yield f"{what}: object dtype with {kinds}"


def _kinds(sample: list[Any]) -> str:
    kinds = sorted({type(element).__name__ for element in sample})
    text = ", ".join(kinds[:5]) or "nothing"
    if _TEXT.issuperset(kinds) and "str" in kinds:
        return f"{text}, often the same; a string or categorical dtype would be shared"
    return text


def _nothing_in(obj: Any) -> str:
    what = type(obj).__name__
    if isinstance(obj, (dict, list, tuple, set, frozenset)) and obj:
        kinds = sorted({type(member).__name__ for member in islice(obj, _SAMPLE)})
        what += f" of {', '.join(kinds[:5])}"
    return f"{what}: nothing in it offers its memory"
