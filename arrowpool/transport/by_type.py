"""The way in which objects of a type are reduced: by which codec or method, and what the reducer must watch for.

Called by the reducer, from any thread. Results are kept by type: an entry ends with its type, so that a class that is
defined again and again is not kept alive.
"""

from __future__ import annotations

import copyreg
import functools
import sys
import types
import typing
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

from arrowpool.codecs import Encode, encoder_for, library_of

#: How to reduce objects of a type: its codec, None for plain pickle; whether its objects may be shared as a whole; and
#: whether reducing them runs code that may give any memory, and write to it again for the next object.
Way: TypeAlias = "tuple[Encode | None, bool, bool]"

#: By the type's id. Written and read by all threads that reduce, and by finalizers. Safe, as each access is one operation of
#: a dict, and two threads that look at one type write equal entries.
ways: dict[int, Way] = {}
#: The types of the entries, by id. Written before the entry, so that an entry never outlives its type.
_types: dict[int, weakref.ref[type]] = {}
#: See `registered`. Replaced, never changed: threads that still have the old one go on with it.
_registered: dict[type, Any] = {}


def _reduce_function(function: Any, reducer: Any) -> Any:
    return reducer.reduce_function(function)


def _reduce_class(cls: Any, reducer: Any) -> Any:
    return reducer.reduce_class(cls)


def _reduce_cached(function: Any, reducer: Any) -> Any:
    return reducer.reduce_cached(function)


def _reduce_type_variable(variable: Any, reducer: Any) -> Any:
    return reducer.reduce_type_variable(variable)


#: Reductions in these libraries give memory that the object has, or new memory: none that is written to for the next object.
_GIVE_THEIR_OWN = sys.stdlib_module_names | {
    *(
        "arrowpool",
        "numpy",
        "pandas",
        "pyarrow",
        "polars",
        "scipy",
        "sklearn",
        "xarray",
        "torch",
        "geopandas",
        "shapely",
    ),
    *("attr", "attrs", "pydantic", "cloudpickle", "joblib", "dask", "sparse", "networkx", "xgboost", "lightgbm"),
}
_REDUCTIONS = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")


def _packs(cls: type) -> bool:
    """Whether reducing an object of this class runs Python code that may pack it into memory of any kind."""
    # Not `getattr`, which asks the class of the class.
    codes = [next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None) for name in _REDUCTIONS]
    codes += [copyreg.dispatch_table.get(cls), ForkingPickler._extra_reducers.get(cls)]  # type: ignore[attr-defined]
    return any(
        type(code) is types.FunctionType and str(code.__module__).partition(".")[0] not in _GIVE_THEIR_OWN
        for code in codes
    )


def way_of(cls: type) -> Way:
    encode: Encode | None
    if cls is types.FunctionType:
        encode = _reduce_function
    elif cls is not type and (cls in copyreg.dispatch_table or cls in ForkingPickler._extra_reducers):  # type: ignore[attr-defined]
        encode = None  # a registered reducer comes first, as with the standard library
    elif issubclass(cls, type):
        encode = _reduce_class
    elif cls is functools._lru_cache_wrapper:
        encode = _reduce_cached
    elif cls is typing.TypeVar:
        encode = _reduce_type_variable
    else:
        encode = encoder_for(cls)
    found: Way = encode, library_of(cls) is not None, _packs(cls)
    number = id(cls)
    # First what ends the entry, then the entry.
    _types[number] = weakref.ref(cls, functools.partial(_forget, number))
    ways[number] = found
    return found


def registered() -> dict[type, Any]:
    """Reducers registered with `copyreg` or `multiprocessing`; the same object until another one is registered."""
    global _registered
    now: dict[type, Any] = {**copyreg.dispatch_table, **ForkingPickler._extra_reducers}  # type: ignore[attr-defined]
    if now != _registered:
        _registered = now
        # Another reducer may now be the right one for a type.
        ways.clear()
        _types.clear()
    return _registered


def _forget(number: int, reference: weakref.ref[type]) -> None:
    """A type has gone. May run in a finalizer, when another type already has the id and an entry."""
    if _types.get(number) is reference:
        ways.pop(number, None)
        _types.pop(number, None)
