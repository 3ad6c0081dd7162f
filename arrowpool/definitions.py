"""Whether two functions or classes of ``__main__`` are the same definition, maybe in two processes.

Called by `functions`. A definition is code: what stands in the ``def`` or ``class`` statement and was written by the user. What
happens to a function or class later is its state, and no part of it: counters, registries, caches, and whatever Python
itself stores in a class (``__slotnames__`` at the first pickling, ``__annotations__`` when read, a protocol's ``__init__``).

Assumes that the code of other modules is the same wherever they are imported.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
import types
from collections.abc import Iterable
from typing import Any

MAIN = ("__main__", "__mp_main__")
ATOMS = (type(None), bool, int, float, complex, str, bytes)
#: Python, or a library, makes these from the rest, or they say where the source was.
_DERIVED = {
    *("__abstractmethods__", "__annotations__", "__annotations_cache__", "__dict__", "__doc__", "__firstlineno__"),
    *("__module__", "__parameters__", "__slotnames__", "__static_attributes__", "__weakref__", "_abc_impl"),
}
#: Data that belong to the definition all the same: names of what instances have.
_NAMES = ("__slots__", "_fields", "_member_names_")
_CACHED = functools._lru_cache_wrapper
_DEPTH = 4
#: Larger containers in a class are data, and not looked at.
_SMALL = 100
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FIELD = ("name", "type", "default", "default_factory", "init", "repr", "hash", "compare", "kw_only")


def is_definition(obj: Any) -> bool:
    """Whether this is a function or a class of ``__main__``."""
    return isinstance(obj, (types.FunctionType, type, _CACHED)) and getattr(obj, "__module__", None) in MAIN


def fingerprint(obj: Any) -> str | None:
    """A function's or class's code, as a digest equal in every process; None if `obj` is not a definition of ``__main__``."""
    return _digest(obj, data=False)


def full_fingerprint(obj: Any) -> str | None:
    """The same for the code and the values with it: defaults, attributes of a class.

    A notebook's cell that is run again may have changed only these.
    """
    return _digest(obj, data=True)


def _digest(obj: Any, data: bool) -> str | None:
    if not is_definition(obj):
        return None
    return hashlib.blake2b(repr(_key(obj, data, 0)).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def outline(obj: Any, depth: int = 0) -> tuple[Any, ...] | None:
    """The code objects of a function or a class; None if `obj` is not a definition of ``__main__``.

    Cheap to make. As long as it stays equal for the same object, so does the fingerprint without data.
    """
    if not is_definition(obj):
        return None
    if isinstance(obj, types.FunctionType):
        if obj.__defaults__ is None and obj.__kwdefaults__ is None:
            return (obj.__code__,)
        kwdefaults = obj.__kwdefaults__ or {}
        return obj.__code__, _plain(obj.__defaults__ or ()), tuple(kwdefaults), _plain(kwdefaults.values())
    if isinstance(obj, _CACHED):
        return (getattr(getattr(obj, "__wrapped__", None), "__code__", None),)
    found: list[Any] = [outline(base, depth + 1) for base in obj.__bases__ if base is not object and depth < _DEPTH]
    for member in list(vars(obj).values()):
        kind = type(member)
        if kind is types.FunctionType:
            found.append(member.__code__)
        elif kind is staticmethod or kind is classmethod:
            found.append(getattr(member.__func__, "__code__", None))
        elif kind is property:
            found += [getattr(part, "__code__", None) for part in (member.fget, member.fset, member.fdel)]
        elif depth < _DEPTH and isinstance(member, type) and _is_nested(member, obj):
            found.append(outline(member, depth + 1))
    return tuple(found)


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    # Nothing that would keep a frame alive.
    return tuple((type(value).__name__, value if isinstance(value, ATOMS) else None) for value in values)


def _key(value: Any, data: bool, depth: int) -> Any:
    """A nested tuple of plain values that stands for `value`, without addresses or paths; None for what is no code, unless `data`."""
    if depth > _DEPTH:
        return None
    if isinstance(value, types.FunctionType):
        return _function(value, data, depth)
    if isinstance(value, type):
        return _class(value, data, depth)
    parts = _parts(value)
    if parts is not None:
        keys = [_key(part, data, depth + 1) for part in parts]
        return (type(value).__name__, *keys) if data or any(keys) else None
    return _data(value, depth) if data else None


def _parts(value: Any) -> tuple[Any, ...] | None:
    """What a descriptor or a wrapper is made of, if it is one that Python itself has."""
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    if isinstance(value, (functools.cached_property, functools.singledispatchmethod)):
        return (value.func,)
    if isinstance(value, (functools.partial, functools.partialmethod)):
        return (value.func, value.args, value.keywords)
    if isinstance(value, _CACHED):
        return (getattr(value, "__wrapped__", None),)
    return None


def _function(function: types.FunctionType, data: bool, depth: int) -> Any:
    closure = tuple(_key(_contents(cell), data, depth + 1) for cell in function.__closure__ or ())
    if function.__module__ not in MAIN:
        if not data and not any(closure):
            return None
        return "function", function.__module__, function.__qualname__, closure
    code = _code(function.__code__)
    if not data:
        return "function", code, closure
    kwdefaults = sorted((function.__kwdefaults__ or {}).items())
    return "function", code, closure, _data(function.__defaults__, depth + 1), _data(tuple(kwdefaults), depth + 1)


def _class(cls: type, data: bool, depth: int) -> Any:
    name = ("class", _module(cls), cls.__qualname__)
    if cls.__module__ not in MAIN or depth == _DEPTH:
        return name
    members = []
    for member_name, member in sorted(vars(cls).items()):
        if member_name in _DERIVED or _is_taken_over(member_name, member, cls):
            continue
        if not data and isinstance(member, type) and not _is_nested(member, cls):
            continue
        key = _key(member, data, depth + 1)
        if key is not None:
            members.append((member_name, key))
    bases = tuple(_key(base, data, depth + 1) for base in cls.__bases__)
    names = tuple(repr(vars(cls).get(attribute)) for attribute in _NAMES if _is_names(vars(cls).get(attribute)))
    kind = type(cls)
    return (*name, _module(kind), kind.__qualname__, bases, names, _annotations(cls), members)


def _annotations(cls: type) -> tuple[Any, ...]:
    annotations = vars(cls).get("__annotations__")
    if not isinstance(annotations, dict):
        return ()
    return tuple((name, _annotation(kind)) for name, kind in annotations.items())


def _annotation(kind: Any) -> Any:
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        return _module(kind), kind.__qualname__
    # Not what an `Annotated` carries: that may look otherwise in another process.
    return kind if isinstance(kind, str) else type(kind).__name__


def _data(value: Any, depth: int) -> Any:
    """The same for values; what cannot be compared counts as its type."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return kind.__qualname__, value._name_, _data(value._value_, depth + 1)
    if isinstance(value, ATOMS):
        return value
    if depth > _DEPTH:
        return kind.__qualname__
    if isinstance(value, (types.FunctionType, type)) or _parts(value) is not None:
        return _key(value, True, depth)
    if kind in (tuple, list, dict, set, frozenset):
        if len(value) > _SMALL:
            return kind.__name__, len(value)
        if kind is dict:
            return kind.__name__, [(_data(key, depth + 1), _data(item, depth + 1)) for key, item in list(value.items())]
        items = [_data(item, depth + 1) for item in list(value)]
        # The order of a set of strings differs between processes.
        return kind.__name__, sorted(map(repr, items)) if kind in (set, frozenset) else items
    if isinstance(value, dataclasses.Field):
        return kind.__qualname__, [_data(getattr(value, slot, None), depth + 1) for slot in _FIELD]
    if isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
        return kind.__qualname__, value.__name__
    if isinstance(value, (types.GenericAlias, types.UnionType)) or kind.__module__ == "typing":
        return _ADDRESS.sub("", repr(value))
    return kind.__qualname__


def _code(value: Any) -> Any:
    """A code object, or a constant in one."""
    if isinstance(value, types.CodeType):
        return (
            value.co_name,
            value.co_code,
            value.co_names,
            value.co_varnames,
            value.co_freevars,
            value.co_flags,
            value.co_argcount,
            value.co_posonlyargcount,
            value.co_kwonlyargcount,
            tuple(_code(constant) for constant in value.co_consts),
        )
    if isinstance(value, tuple):
        return tuple(_code(item) for item in value)
    if isinstance(value, frozenset):
        return tuple(sorted(repr(_code(item)) for item in value))
    return value if isinstance(value, ATOMS) else type(value).__qualname__


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty one
        return None


def _module(cls: type) -> str:
    """Where a class is from; a script is the same in spawned workers."""
    module = str(cls.__module__)
    return MAIN[0] if module in MAIN else module


def _is_nested(member: type, cls: type) -> bool:
    return member.__module__ in MAIN and member.__qualname__.startswith(f"{cls.__qualname__}.")


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (tuple, list)) and all(isinstance(one, str) for one in value))


def _is_taken_over(name: str, member: Any, cls: type) -> bool:
    """Whether a function was put into the class from a base, or will be replaced by one of a base, as protocols do."""
    if not isinstance(member, types.FunctionType):
        return False
    return member.__module__ == "typing" or any(vars(base).get(name) is member for base in cls.__mro__[1:])
