"""What an object consists of, as it is stored: the parts that pickle would go to, with words for the step to each.

Runs no code of the user's: containers are read by the methods of Python's own types.
"""

from __future__ import annotations

import functools
import itertools
import sys
import types
from collections import defaultdict, deque
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

import numpy as np

#: The step to a part, such as ``key 'db'``, and the part.
Part: TypeAlias = "tuple[str, Any]"

_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...)))
_SHOWN = 60
_ITERABLE = (list, set, frozenset, deque)
_TRANSPARENT = frozenset(
    (
        *_ITERABLE,
        dict,
        tuple,
        defaultdict,
        np.ndarray,
        functools.partial,
        types.FunctionType,
        types.MethodType,
        types.BuiltinMethodType,
    )
)
_PYTHONS = ("builtins", "_io", "_thread")
#: Methods with which a class says itself what is pickled.
_SAYS_ITSELF = ("__reduce__", "__reduce_ex__", "__getstate__")


def is_atom(obj: Any) -> bool:
    """Whether the object is a value of one of Python's types that pickle always takes."""
    return type(obj) in _ATOMS


def is_opaque(obj: Any) -> bool:
    """Whether the object's class decides what is pickled of it."""
    kind = type(obj)
    if kind in _TRANSPARENT or kind in _ATOMS or _is_frame(kind):
        return False
    if kind in ForkingPickler._extra_reducers:  # type: ignore[attr-defined]
        return True
    others = (one for one in kind.__mro__ if one not in _TRANSPARENT and not _is_pythons(one))
    return any(name in vars(one) for one in others for name in _SAYS_ITSELF)


def _is_pythons(kind: type) -> bool:
    """Whether a class is one of Python's own, whose members are not the user's data: of a generator, its frame is one."""
    return type.__dict__["__module__"].__get__(kind) in _PYTHONS


def _is_frame(kind: type) -> bool:
    pandas: Any = sys.modules.get("pandas")
    return pandas is not None and kind in (pandas.DataFrame, pandas.Series)


def parts(obj: Any) -> Iterator[Part]:
    """The parts of an object, in the order in which pickle comes to them."""
    if issubclass(type(obj), (*_ATOMS, type, types.ModuleType)):
        return iter(())
    return itertools.chain(_elements(obj), _attributes(obj))


def _elements(obj: Any) -> Iterator[Part]:
    kind = type(obj)  # not `isinstance`, which may run a property `__class__`
    if issubclass(kind, dict):
        for key, value in dict.items(obj):
            yield f"the key {shown(key)}", key
            yield f"key {shown(key)}", value
        if issubclass(kind, defaultdict):
            yield "the default_factory", vars(defaultdict)["default_factory"].__get__(obj)
    elif issubclass(kind, tuple):
        fields = vars(kind).get("_fields")
        names = fields if type(fields) is tuple and len(fields) == tuple.__len__(obj) else None
        for at, value in enumerate(tuple.__iter__(obj)):
            yield f"element {at:,}" if names is None else f"field {shown(names[at])}", value
    elif issubclass(kind, _ITERABLE):
        base = next(one for one in kind.__mro__ if one in _ITERABLE)
        for at, value in enumerate(base.__iter__(obj)):
            yield "an element" if base in (set, frozenset) else f"element {at:,}", value
    elif issubclass(kind, BaseException):
        for at, value in enumerate(vars(BaseException)["args"].__get__(obj)):
            yield f"argument {at} of the exception", value
    elif kind is functools.partial:
        yield "the function of the partial", obj.func
        for at, value in enumerate(obj.args):
            yield f"argument {at} of the partial", value
        for name, value in obj.keywords.items():
            yield f"argument {name!r} of the partial", value
    elif kind is types.MethodType or (kind is types.BuiltinMethodType and obj.__self__ is not None):
        yield "the object of the method", obj.__self__
    elif kind is types.FunctionType:
        yield from _captured(obj)
    elif kind is np.ndarray and obj.dtype.hasobject:
        for where, value in np.ndenumerate(obj):
            yield f"element {', '.join(map(str, where))}", value
    elif _is_frame(kind):
        yield from _columns(obj)


def _captured(function: types.FunctionType) -> Iterator[Part]:
    """What goes with a function that is sent by value: not with one that others can import."""
    module = sys.modules.get(function.__module__ or "")
    found: Any = module
    for name in function.__qualname__.split("."):
        found = vars(found).get(name) if isinstance(found, (type, types.ModuleType)) else None
    if found is function and function.__module__ != "__main__":
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"captured variable {name!r}", cell.cell_contents
        except ValueError:  # empty
            continue
    for at, value in enumerate(function.__defaults__ or ()):
        yield f"default value {at}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default value of {name!r}", value
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f"global variable {name!r}", function.__globals__[name]


def _columns(obj: Any) -> Iterator[Part]:
    """The attrs, and the values of columns of objects. Not the columns themselves: pandas copies the attrs for each of them."""
    yield "the attrs", obj.attrs
    if obj.ndim == 1:
        values = [("", obj.to_numpy())] if getattr(obj.dtype, "hasobject", False) else []
    else:
        places = [at for at, dtype in enumerate(obj.dtypes) if getattr(dtype, "hasobject", False)]
        values = [(f"column {shown(obj.columns[at])}, ", obj._mgr.iget_values(at)) for at in places]
    for column, objects in values:
        for at, value in enumerate(objects):
            yield f"{column}row {at:,}", value


def _attributes(obj: Any) -> Iterator[Part]:
    kind = type(obj)
    if kind in (types.FunctionType, types.MethodType) or _is_frame(kind):
        return
    for one in kind.__mro__:
        for name, member in vars(one).items():
            if name == "__dict__" and type(member) is types.GetSetDescriptorType:
                for attribute, value in dict.items(member.__get__(obj)):
                    yield f"attribute {shown(attribute)}", value
            elif type(member) is types.MemberDescriptorType and not _is_pythons(one):
                try:
                    yield f"attribute {name!r}", member.__get__(obj)
                except AttributeError:  # not set
                    continue


def shown(key: Any) -> str:
    """A key, if its `repr` is Python's own and short."""
    kind = type(key)
    if kind is tuple and len(key) <= 4:
        return f"({', '.join(map(shown, key))})"
    if kind not in _ATOMS:
        return f"<{kind.__name__}>"
    text = repr(key)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
