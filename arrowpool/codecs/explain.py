"""Why an object was pickled and not shared, in words: for `pool.stats()`, never for a decision.

Looks for the causes that the codecs know, in what the object is made of; only at a sample of what is long.

Guarantees: nothing is raised, whatever the object is. No method of a container or of an object's own class is called: what
these are made of is asked of Python's types. Of the libraries' own subclasses that cannot be said; what they raise is caught.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from arrowpool.tuning import INLINE_LIMIT

_DEPTH = 4
_MEMBERS = 50
_SAMPLE = 200
_LONG = 200
_TEXT = frozenset({"str", "NoneType"})
#: How long they are, whatever a subclass says of that; and what is in them.
_TEXTS: tuple[tuple[type, Callable[[Any], int]], ...] = (
    (str, str.__len__),
    (bytes, bytes.__len__),
    (bytearray, bytearray.__len__),
)
_CONTAINERS: tuple[tuple[type, Callable[[Any], int], Callable[[Any], Iterable[Any]]], ...] = (
    (dict, dict.__len__, dict.values),
    (list, list.__len__, list.__iter__),
    (tuple, tuple.__len__, tuple.__iter__),
    (set, set.__len__, set.__iter__),
    (frozenset, frozenset.__len__, frozenset.__iter__),
)


def reasons(obj: Any) -> list[str]:
    """The causes that were found, each once; what the object is, if there was none."""
    try:
        found = list(dict.fromkeys(_look(obj, _DEPTH)))
        return found[:_MEMBERS] or [_nothing_in(obj)]
    except Exception:  # of a subclass, of a column's name; or another thread has changed it meanwhile
        return [f"{type(obj).__name__}: cannot be looked into"]


def is_small(why: str) -> bool:
    """Whether a reason says that nothing is wrong: small objects, and small parts, are not shared one by one."""
    return why.endswith(_IN_THE_STREAM)


def how_many(obj: Any) -> int:
    """The number of frames, tables and arrays in an object, by a sample of what is long; at least 1."""
    try:
        return max(1, round(_count(obj, _DEPTH)))
    except Exception:  # as in `reasons`
        return 1


def _count(obj: Any, depth: int) -> float:
    if _is_of_library(type(obj)):
        return 1
    for base, length, members in _CONTAINERS if depth else ():
        if issubclass(type(obj), base) and length(obj):
            sample = [_count(member, depth - 1) for member in islice(members(obj), _MEMBERS)]
            return sum(sample) / len(sample) * length(obj)
    return 0


def _look(obj: Any, depth: int) -> Iterator[str]:
    cls = type(obj)  # not `isinstance`, which asks proxies for the class of their target
    if depth == 0 or obj is None or issubclass(cls, (int, float, complex, type)):
        return
    for base, length in _TEXTS:
        if issubclass(cls, base):
            if length(obj) >= 1000:
                yield f"{cls.__name__}: pickle copies it"
            return
    for base, length, members in _CONTAINERS:
        if issubclass(cls, base):
            within = list(_look_at_members(members(obj), depth))
            if not within and length(obj) >= _LONG:
                within = [_nothing_in(obj)]
            yield from within
            return
    known = list(_of_library(obj))
    yield from known
    if not known and not _is_of_library(cls):
        yield from _look_at_members(_attributes(obj).values(), depth)


def _look_at_members(members: Iterable[Any], depth: int) -> Iterator[str]:
    for member in islice(members, _MEMBERS):
        yield from _look(member, depth - 1)


def _attributes(obj: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


_LIBRARIES = frozenset({"numpy", "pandas", "pyarrow", "polars"})
_IN_THE_STREAM = "travel in the stream"
_SMALL = f"small ones {_IN_THE_STREAM}"
_SMALL_PARTS = f"parts below {INLINE_LIMIT >> 10} kB {_IN_THE_STREAM}"


def _is_of_library(cls: type) -> bool:
    return str(cls.__module__).partition(".")[0] in _LIBRARIES


def _of_library(obj: Any) -> Iterator[str]:
    numpy, pandas, polars = (sys.modules.get(name) for name in ("numpy", "pandas", "polars"))
    cls = type(obj)
    if numpy is not None and issubclass(cls, numpy.ndarray):
        plain = numpy.ndarray.view(obj, numpy.ndarray)
        if plain.dtype.hasobject:
            yield f"array: {plain.dtype.name} dtype with {_kinds(list(islice(plain.flat, _SAMPLE)))}"
    elif pandas is not None and issubclass(cls, pandas.DataFrame):
        # A frame without such a block is the usual case, and `dtypes` takes as long as pickling a small frame.
        if any(_has_objects(block.dtype) for block in obj._mgr.blocks):
            objects = (number for number, dtype in enumerate(obj.dtypes) if _has_objects(dtype))
            for number in islice(objects, _MEMBERS):
                yield from _of_values(f"column {obj.columns[number]!r}", obj.iloc[:, number])
        yield from _of_values("index", obj.index)
    elif pandas is not None and issubclass(cls, pandas.Series):
        yield from _of_values(f"series {obj.name!r}", obj)
        yield from _of_values("index", obj.index)
    elif pandas is not None and issubclass(cls, pandas.Index):
        yield from _of_values("index", obj)
    elif polars is not None and issubclass(cls, polars.LazyFrame):
        yield "LazyFrame: a plan, not data; collect() it"
    elif polars is not None and issubclass(cls, polars.DataFrame):
        for column in islice(obj, _MEMBERS):
            yield from _of_polars(f"column {column.name!r}", column, polars)
    elif polars is not None and issubclass(cls, polars.Series):
        yield from _of_polars(f"series {obj.name!r}", obj, polars)


def _of_polars(what: str, column: Any, polars: Any) -> Iterator[str]:
    if column.dtype == polars.Object:
        yield f"{what}: polars Object dtype"
    elif column.dtype == polars.List and column.flags["FAST_EXPLODE"]:
        yield f"{what}: lists that polars has marked (FAST_EXPLODE), which only polars itself can write"


def _of_values(what: str, values: Any) -> Iterator[str]:
    """Of a column, a series or an index."""
    if _has_objects(values.dtype):
        kinds = _kinds(values[:_SAMPLE].tolist())
        yield f"{what}: object dtype with {kinds}"


def _has_objects(dtype: Any) -> bool:
    """Whether it is NumPy's dtype of objects. Comparing an extension dtype with `object` would parse that as a string."""
    return getattr(dtype, "hasobject", False) is True


def _kinds(sample: list[Any]) -> str:
    kinds = sorted({type(element).__name__ for element in sample})
    text = ", ".join(kinds[:5]) or "nothing"
    if _TEXT.issuperset(kinds) and "str" in kinds:
        return f"{text}, often the same; a string or categorical dtype would be shared"
    return text


def _nothing_in(obj: Any) -> str:
    found = list(_of_libraries_in(obj, _DEPTH))
    if found:
        # What is large and whole would have been shared.
        kinds = sorted({type(one).__name__ for one in found})
        return f"{', '.join(kinds[:5])}: {_SMALL_PARTS if max(map(_size, found)) >= INLINE_LIMIT else _SMALL}"
    what = type(obj).__name__
    for base, length, members in _CONTAINERS:
        if issubclass(type(obj), base) and length(obj):
            members = dict.__iter__ if base is dict else members
            kinds = sorted({type(member).__name__ for member in islice(members(obj), _SAMPLE)})
            what += f" of {', '.join(kinds[:5])}"
    return f"{what}: nothing in it offers its memory"


def _size(obj: Any) -> int:
    """Bytes of an object of a library, about; 0 if it does not say."""
    blocks = getattr(getattr(obj, "_mgr", None), "blocks", None)
    if blocks is not None:  # of a frame or series of pandas, whose own figure costs more
        return sum(int(block.values.nbytes) for block in blocks)
    nbytes = getattr(obj, "nbytes", None)
    if nbytes is None and hasattr(obj, "estimated_size"):  # a frame of polars
        nbytes = obj.estimated_size()
    return nbytes if isinstance(nbytes, int) else 0


def _of_libraries_in(obj: Any, depth: int) -> Iterator[Any]:
    if _is_of_library(type(obj)):
        yield obj
        return
    for base, _, members in _CONTAINERS if depth else ():
        if issubclass(type(obj), base):
            for member in islice(members(obj), _MEMBERS):
                yield from _of_libraries_in(member, depth - 1)
