"""How classes and cached functions travel that the receiver does not have: as cloudpickle does, mended where that falls short.

Called by the reducer. A class that travels by value has a number, the same in all processes: whatever is received under a
number that is known here becomes the class that is known, so that instances which come one after another are of one class,
and those which come back are of the sender's own.
"""

from __future__ import annotations

import enum
import functools
import operator
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as by_value

#: `functools.lru_cache` makes these anew.
_OF_CACHED = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters"}
_DISPATCHED = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


def reduce_class(cls: type) -> tuple[Any, ...]:
    """A class to a process that does not have it."""
    reduced: tuple[Any, ...] = by_value._dynamic_class_reduce(cls)
    if issubclass(cls, enum.Enum):
        return reduced
    _, (kind, name, bases, members, number, extra), (state, slotstate), *rest = reduced
    if issubclass(cls, tuple) and "_fields" in vars(cls):
        # Its metaclass would make another named tuple of it.
        bases = cls.__bases__
        members = {**members, **{name: state[name] for name in ("__orig_bases__",) if name in state}}
    slots = state.pop("__slots__", None)
    if slots is not None:
        # Without them, instances there would have a dictionary, and one here could not be made from theirs.
        members = {**members, "__slots__": slots if isinstance(slots, str) else tuple(slots)}
    return _make_class, (kind, name, bases, members, number, extra), (state, slotstate), *rest


def _make_class(kind: Any, name: str, bases: Any, members: Any, number: str, extra: Any) -> Any:
    known = by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(number)
    if known is not None:
        return known  # another one, thrown away at once, would still be registered by an `__init_subclass__`
    return by_value._make_skeleton_class(kind, name, bases, members, number, extra)


def came_by_value(cls: type) -> bool:
    """Whether a class was received by value, or sent."""
    try:
        number = by_value._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(cls)
    except TypeError:  # its metaclass has no hash
        return False
    # The metaclass may say that another class is equal.
    return number is not None and by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(number) is cls


def reduce_known_class(cls: type) -> tuple[Any, ...]:
    """A class that came by value on its way back: the receiver takes its own, as it is; or makes one, if it has none."""
    number = by_value._get_or_create_tracker_id(cls)
    if functools.reduce(lambda found, name: getattr(found, name, None), cls.__qualname__.split("."), _home(cls)) is cls:
        # It was sent from the process that this one is forked from, and has been here all the time.
        return _find_named, (number, cls.__module__, cls.__qualname__)
    stream: Any
    try:
        stream = cloudpickle.dumps(cls)
    except (
        Exception
    ) as error:  # something is in the class now that cannot be pickled: that matters to none who has the class
        stream = str(error)
    return _find_class, (number, stream)


def _home(cls: type) -> Any:
    return sys.modules.get(cls.__module__)


def _find_named(number: str, module: str, qualname: str) -> Any:
    known = by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(number)
    return known if known is not None else operator.attrgetter(qualname)(sys.modules[module])


def _find_class(number: str, stream: Any) -> Any:
    known = by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(number)
    if known is not None:
        return known
    if isinstance(stream, str):
        raise pickle.UnpicklingError(stream)
    return pickle.loads(stream)


def reduce_cached(function: Any) -> tuple[Any, ...]:
    """What `functools.lru_cache` has made: without what it has in its cache."""
    parameters = function.cache_parameters()
    state = {name: value for name, value in vars(function).items() if name not in _OF_CACHED}
    return _make_cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"]), state or None


def _make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def reduce_cached_property(found: functools.cached_property[Any]) -> tuple[Any, ...]:
    """One that a class has: with a lock of its own, in Pythons where it has one."""
    return _make_cached_property, (found.func, found.attrname)


def _make_cached_property(function: Callable[..., Any], name: str | None) -> Any:
    made: Any = functools.cached_property(function)
    if name is not None:
        made.__set_name__(None, name)
    return made


def is_dispatched(function: types.FunctionType) -> bool:
    """Whether `functools.singledispatch` has made this."""
    return function.__code__ is _DISPATCHED


def reduce_dispatched(function: Any) -> tuple[Any, ...]:
    """What `functools.singledispatch` has made: without its cache, which has weak references."""
    return _make_dispatched, (function.__wrapped__,), list(function.registry.items()), None, None, _register


def _make_dispatched(function: Callable[..., Any]) -> Any:
    return functools.singledispatch(function)


def _register(function: Any, registry: list[tuple[type, Callable[..., Any]]]) -> None:
    for kind, implementation in registry:
        if implementation is not function.__wrapped__:
            function.register(kind, implementation)


def is_whole(function: Any) -> bool:
    """Whether a cached function says all that it takes to make it again."""
    return "__wrapped__" in vars(function) and "cache_parameters" in vars(function)
