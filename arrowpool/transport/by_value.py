"""Classes and cached functions that the receiver does not have, sent by value: with cloudpickle, and corrections to it.

Called by the reducer. A class that travels by value has a number, the same in all processes. A class that is received under a known
number becomes the known class. So instances that come one after another have one class, and instances that come back have the
sender's own class.
"""

from __future__ import annotations

import enum
import functools
import io
import operator
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as by_value

from arrowpool.transport.definitions import MAIN, fingerprint
from arrowpool.transport.resolution import look_up, main_names

#: `functools.lru_cache` sets these attributes again.
_OF_CACHED = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters"}
_DISPATCHED = functools.singledispatch(len).__code__  # type: ignore[attr-defined]
#: Of these types, cloudpickle sends something else: a copy of an open file's text, or bytes of another length.
_OTHERWISE = (io.TextIOWrapper, memoryview)


def reducers() -> dict[type, Any]:
    """cloudpickle's own reducers by type, without those after which something else arrives: that is an error, as with pickle."""
    return {cls: reduce for cls, reduce in cloudpickle.Pickler._dispatch_table.items() if cls not in _OTHERWISE}


def reduce_class(cls: type) -> tuple[Any, ...]:
    """Reduce a class for a process that does not have it."""
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
        # Without slots, instances in the receiver would have a dictionary, and could not be rebuilt here.
        members = {**members, "__slots__": slots if isinstance(slots, str) else tuple(slots)}
    return _make_class, (kind, name, bases, members, number, extra), (state, slotstate), *rest


def _make_class(kind: Any, name: str, bases: Any, members: Any, number: str, extra: Any) -> Any:
    known = by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(number)
    if known is not None:
        return known  # `__init_subclass__` would register a second class, even if that is dropped at once
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
    """Reduce a class that came by value. The receiver uses the class that it knows, unchanged, or makes one if it knows none."""
    number = by_value._get_or_create_tracker_id(cls)
    if look_up(_home(cls), cls.__qualname__) is cls:
        # This process is forked from one that has sent the class, so it has the class by name.
        return _find_named, (number, cls.__module__, cls.__qualname__)
    stream: Any
    try:
        stream = cloudpickle.dumps(cls)
    except Exception as error:
        # The class now contains an object that cannot be pickled. A receiver that knows the class does not need the stream.
        stream = str(error)
    return _find_class, (number, stream)


def _home(cls: type) -> Any:
    return sys.modules.get(cls.__module__)


def has_only_its_sender(function: Any) -> bool:
    """Whether a function of ``__main__`` came by value: only the process that has sent it has it under its name."""
    inner = vars(function).get("__wrapped__") if isinstance(function, functools._lru_cache_wrapper) else function
    if function.__module__ not in MAIN or not isinstance(inner, types.FunctionType):
        return False
    if inner.__globals__ is main_names():  # it was defined here
        return False
    return all(part.isidentifier() for part in function.__qualname__.split("."))  # nothing local, no lambda


def reduce_to_its_sender(function: Any) -> tuple[Any, ...]:
    """Reduce such a function: the process that has sent it uses its own."""
    return _find_function, (function.__module__, function.__qualname__, fingerprint(function))


def _find_function(module: str, qualname: str, print_: str) -> Any:
    found = look_up(sys.modules.get(module), qualname)
    if fingerprint(found) != print_:
        raise pickle.UnpicklingError(f"the function {qualname} of {module} is not the one that was sent")
    return found


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
    """Reduce a function of `functools.lru_cache`, without the content of its cache."""
    parameters = function.cache_parameters()
    state = {name: value for name, value in vars(function).items() if name not in _OF_CACHED}
    return _make_cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"]), state or None


def _make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def reduce_cached_property(found: functools.cached_property[Any]) -> tuple[Any, ...]:
    """Reduce a cached property of a class. The rebuilt one has a new lock, in versions of Python where it has one."""
    return _make_cached_property, (found.func, found.attrname)


def _make_cached_property(function: Callable[..., Any], name: str | None) -> Any:
    made: Any = functools.cached_property(function)
    if name is not None:
        made.__set_name__(None, name)
    return made


def is_dispatched(function: types.FunctionType) -> bool:
    """Whether a function was made by `functools.singledispatch`."""
    return function.__code__ is _DISPATCHED


def reduce_dispatched(function: Any) -> tuple[Any, ...]:
    """Reduce a function of `functools.singledispatch`, without its cache, which contains weak references."""
    return _make_dispatched, (function.__wrapped__,), list(function.registry.items()), None, None, _register


def _make_dispatched(function: Callable[..., Any]) -> Any:
    return functools.singledispatch(function)


def _register(function: Any, registry: list[tuple[type, Callable[..., Any]]]) -> None:
    for kind, implementation in registry:
        if implementation is not function.__wrapped__:
            function.register(kind, implementation)


def is_whole(function: Any) -> bool:
    """Whether a cached function has the attributes that are needed to make it again."""
    return "__wrapped__" in vars(function) and "cache_parameters" in vars(function)
