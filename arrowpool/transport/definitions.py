"""Fingerprints of functions and classes of ``__main__``: equal for the same definition, also in two processes.

Called by `resolution`. A definition is code: the content of the ``def`` or ``class`` statement that the user has written. Later
changes to a function or class are state, not definition: counters, registries, caches, and the attributes that Python itself stores
in a class (``__slotnames__`` at the first pickling, ``__annotations__`` when read, a protocol's ``__init__``).

Assumes that the code of other modules is the same wherever they are imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import re
import types
import typing
from collections.abc import Iterable, Mapping
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
_DEFINITIONS = (types.FunctionType, type, _CACHED, typing.TypeVar)
_DEPTH = 4
#: Larger containers in a class are data, and not looked at.
_SMALL = 100
#: Of more values than this there are only the types.
_MANY = 1000
_BITS = 1000
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FIELD = ("name", "type", "default", "default_factory", "init", "repr", "hash", "compare", "kw_only")


def is_atom(value: Any) -> bool:
    """Whether this is a plain value. Asks for its type alone: a proxy would look for what it stands for."""
    return issubclass(type(value), ATOMS)


def is_definition(obj: Any) -> bool:
    """Whether this is a function, a class or a type variable of ``__main__``."""
    return issubclass(type(obj), _DEFINITIONS) and getattr(obj, "__module__", None) in MAIN


def name_of(obj: Any) -> Any:
    """The name under which its module has a function, a class or a type variable."""
    return obj.__name__ if type(obj) is typing.TypeVar else getattr(obj, "__qualname__", None)


def fingerprint(obj: Any) -> str | None:
    """A function's or class's code, as a digest equal in every process; None if `obj` is not a definition of ``__main__``."""
    return _digest(obj, data=False, bases={}) if is_definition(obj) else None


def full_fingerprint(obj: Any) -> str | None:
    """The same for the code and the values with it: defaults, attributes of a class.

    A notebook's cell that is run again may have changed only these.
    """
    return _digest(obj, data=True, bases={}) if is_definition(obj) else None


def fingerprints(namespace: Mapping[str, Any], *, data: bool = False) -> dict[str, str]:
    """Name -> fingerprint, a full one with `data`, of all that was defined in this ``__main__`` namespace."""
    bases: dict[int, str] = {}
    return {name: _digest(value, data, bases) for name, value in list(namespace.items()) if is_definition(value)}


def _digest(obj: Any, data: bool, bases: dict[int, str]) -> str:
    key = _Reader(data, bases).key(obj, 0)
    return hashlib.blake2b(repr(key).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def outline(obj: Any, depth: int = 0) -> tuple[Any, ...] | None:
    """The code objects of a function or a class; None if `obj` is not a definition of ``__main__``.

    Cheap to make. As long as it stays equal for the same object, so does the fingerprint without data.
    """
    if not is_definition(obj):
        return None
    kind = type(obj)
    if kind is types.FunctionType:
        if obj.__defaults__ is None and obj.__kwdefaults__ is None:
            return (obj.__code__,)
        kwdefaults = obj.__kwdefaults__ or {}
        return obj.__code__, _plain(obj.__defaults__ or ()), tuple(kwdefaults), _plain(kwdefaults.values())
    if kind is _CACHED:
        return (getattr(getattr(obj, "__wrapped__", None), "__code__", None),)
    if kind is typing.TypeVar:
        return ()
    found: list[Any] = [outline(base, depth + 1) for base in obj.__bases__ if base is not object and depth < _DEPTH]
    for member in list(vars(obj).values()):
        kind = type(member)
        if kind is obj:  # a member of an enum, of which there may be many
            continue
        if kind is types.FunctionType:
            found.append(member.__code__)
        elif kind is staticmethod or kind is classmethod:
            found.append(getattr(member.__func__, "__code__", None))
        elif kind is property:
            found += [getattr(part, "__code__", None) for part in (member.fget, member.fset, member.fdel)]
        elif depth < _DEPTH and issubclass(kind, type) and _is_nested(member, obj):
            found.append(outline(member, depth + 1))
    return tuple(found)


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    # Nothing that would keep a frame alive.
    return tuple((type(value).__name__, value if is_atom(value) else None) for value in values)


class _Reader:
    """Makes nested tuples of plain values that stand for what they are made of, without addresses or paths.

    Parameters
    ----------
    data : bool
        Whether values count too, and not only code.
    bases : dict
        By id, digests of classes that others are derived from; to be filled.
    """

    def __init__(self, data: bool, bases: dict[int, str]):
        self._data = data
        self._bases = bases
        #: Ids of functions and classes that were met before.
        self._met: set[int] = set()
        self._read = 0

    def key(self, value: Any, depth: int) -> Any:
        """What stands for `value`; None for what does not count."""
        if depth > _DEPTH:
            return None
        kind = type(value)
        if kind is types.FunctionType or issubclass(kind, type):
            if id(value) in self._met:
                return "again", value.__qualname__
            self._met.add(id(value))
            return self._function(value, depth) if kind is types.FunctionType else self._class(value, depth)
        parts = _parts(value)
        if parts is not None:
            keys = [self.key(part, depth + 1) for part in parts]
            return (kind.__name__, *keys) if self._data or any(keys) else None
        if kind is typing.TypeVar:
            return "type variable", value.__name__, _annotation(value.__bound__), len(value.__constraints__)
        return self._value(value, depth) if self._data else None

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        closure = tuple(self.key(_contents(cell), depth + 1) for cell in function.__closure__ or ())
        if function.__module__ not in MAIN:
            if not self._data and not any(closure):
                return None
            return "function", function.__module__, function.__qualname__, closure
        code = _code(function.__code__)
        if not self._data:
            return "function", code, closure
        kwdefaults = tuple(sorted((function.__kwdefaults__ or {}).items()))
        defaults = self._value(function.__defaults__, depth + 1), self._value(kwdefaults, depth + 1)
        return "function", code, closure, defaults

    def _class(self, cls: type, depth: int) -> Any:
        name = _named(cls)
        if cls.__module__ not in MAIN or depth == _DEPTH:
            return name
        members = []
        for member_name, member in sorted(vars(cls).items(), key=lambda item: str(item[0])):
            if member_name in _DERIVED or _is_taken_over(member_name, member, cls):
                continue
            if issubclass(type(member), type) and not _is_nested(member, cls):
                key = _named(member) if self._data else None
            else:
                key = self.key(member, depth + 1)
            if key is not None:
                members.append((str(member_name), key))
        bases = [self._base(base) for base in cls.__bases__]
        names = [repr(vars(cls).get(attribute)) for attribute in _NAMES if _is_names(vars(cls).get(attribute))]
        return (*name, _named(type(cls)), bases, names, _annotations(cls), members)

    def _base(self, base: type) -> Any:
        if base.__module__ not in MAIN:
            return _named(base)
        if id(base) not in self._bases:
            self._bases[id(base)] = _digest(base, self._data, self._bases)
        return self._bases[id(base)]

    def _value(self, value: Any, depth: int) -> Any:
        """A value; what cannot be compared counts as its type."""
        kind = type(value)
        self._read += 1
        if self._read > _MANY:
            return kind.__qualname__
        if kind in ATOMS:
            return _atom(value)
        if issubclass(kind, enum.Enum):
            return kind.__qualname__, value._name_, self._value(value._value_, depth + 1)
        if issubclass(kind, ATOMS):
            return kind.__qualname__, _atom(value)
        if depth > _DEPTH:
            return kind.__qualname__
        if issubclass(kind, type):
            return _named(value)
        if kind is types.FunctionType or _parts(value) is not None:
            return self.key(value, depth)
        if kind in (tuple, list, dict, set, frozenset):
            return kind.__name__, len(value), self._items(value, depth + 1) if len(value) <= _SMALL else ()
        if kind is dataclasses.Field:
            return kind.__qualname__, [self._value(getattr(value, slot, None), depth + 1) for slot in _FIELD]
        if kind is types.BuiltinFunctionType:
            return kind.__qualname__, value.__name__
        if kind in (types.GenericAlias, types.UnionType) or kind.__module__ == "typing":
            with contextlib.suppress(Exception):  # it may carry anything
                return _ADDRESS.sub("", repr(value))
        return kind.__qualname__

    def _items(self, values: Any, depth: int) -> list[Any]:
        if type(values) is dict:
            return [(self._value(key, depth), self._value(value, depth)) for key, value in list(values.items())]
        items = [self._value(value, depth) for value in list(values)]
        # The order of a set of strings differs between processes.
        return sorted(map(repr, items)) if isinstance(values, (set, frozenset)) else items


def _parts(value: Any) -> tuple[Any, ...] | None:
    """What a descriptor or a wrapper is made of, if it is one that Python itself has."""
    kind = type(value)
    if issubclass(kind, (staticmethod, classmethod)):
        return (value.__func__,)
    if issubclass(kind, property):
        return value.fget, value.fset, value.fdel
    if issubclass(kind, (functools.cached_property, functools.singledispatchmethod)):
        return (value.func,)
    if issubclass(kind, (functools.partial, functools.partialmethod)):
        return (value.func, value.args, value.keywords)
    if kind is _CACHED:
        return (getattr(value, "__wrapped__", None),)
    return None


def _named(cls: type) -> tuple[str, str, str]:
    """A class by its name; a script is the same in spawned workers."""
    return "class", MAIN[0] if cls.__module__ in MAIN else str(cls.__module__), cls.__qualname__


def _annotations(cls: type) -> list[Any]:
    annotations = vars(cls).get("__annotations__")
    if type(annotations) is not dict:
        return []
    return [(name, _annotation(kind)) for name, kind in list(annotations.items())]


def _annotation(kind: Any) -> Any:
    if issubclass(type(kind), type):
        return _named(kind)
    # Not what an `Annotated` carries: that may look otherwise in another process.
    return kind if type(kind) is str else type(kind).__name__


def _code(value: Any) -> Any:
    """A code object, or a constant in one."""
    if type(value) is types.CodeType:
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
    return _atom(value) if type(value) in ATOMS else type(value).__qualname__


def _atom(value: Any) -> Any:
    # A subclass may say anything. And Python refuses to write down long numbers in decimal.
    if issubclass(type(value), int):
        number = int.__index__(value)
        return (type(value).__name__, hex(number)) if number.bit_length() > _BITS else (type(value).__name__, number)
    if type(value) in ATOMS:
        return value
    plain: Any = next(kind for kind in type(value).__mro__ if kind in ATOMS)
    return plain.__repr__(value)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty one
        return None


def _is_nested(member: type, cls: type) -> bool:
    return member.__module__ in MAIN and member.__qualname__.startswith(f"{cls.__qualname__}.")


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (tuple, list)) and all(isinstance(one, str) for one in value))


def _is_taken_over(name: str, member: Any, cls: type) -> bool:
    """Whether a function was put into the class from a base, or will be replaced by one of a base, as protocols do."""
    if type(member) is not types.FunctionType:
        return False
    return member.__module__ == "typing" or any(vars(base).get(name) is member for base in cls.__mro__[1:])
