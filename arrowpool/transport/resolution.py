"""The decision whether a function or class goes by name or by value.

Called by the reducer for every function and class that it meets. A name is right only if the worker resolves it to *the same
definition*: in a notebook a function may be newer than the workers, a script's ``if __name__ == "__main__":`` block does not run in
a spawned worker, and a module may have been reloaded. The parent decides from its state when the workers were made: it does not ask
a busy worker.

The rule for ``__main__``:

- A function or class that existed when the pool was made goes by name, even if its attributes have changed since. Each worker has
  its own state of it, as with the standard library. Spawned workers must have it with the same code: they report their names.
- A new function or class goes by value. So does one that was defined again, unless the definition is exactly the same.
- A class that has got other methods since (``MyClass.method = function``, with a function of ``__main__``) counts as defined
  again, as do its subclasses. So does a function whose code or defaults were replaced.
- A function or class that goes by value is a different object in the worker from the one that has its name there.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle

from arrowpool.transport.definitions import (
    ATOMS,
    MAIN,
    fingerprint,
    fingerprints,
    full_fingerprint,
    is_atom,
    is_definition,
    name_of,
    outline,
)

_MISSING = object()
#: In place of a fingerprint, for a value that the initializer of a worker has set.
_PUT_THERE = ""


class Reach:
    """The names that workers of one pool can resolve. Made before the first worker is started.

    Parameters
    ----------
    forks : bool
        Whether workers are forked from this process: then they have all its objects, imported or not.
    """

    def __init__(self, *, forks: bool):
        self._forks = forks
        self._specs = {name: vars(module).get("__spec__") for name, module in _modules().items()}
        main = vars(sys.modules["__main__"])
        # Only objects that are compared later, and functions by weak references: a pool must not keep the user's frames alive, nor
        # old definitions of a notebook's cell that is run again.
        self._main_values = {name: value for name, value in list(main.items()) if is_atom(value)}
        self._main_objects = {
            name: (weakref.ref(value), outline(value)) for name, value in list(main.items()) if is_definition(value)
        }
        self._main_prints = fingerprints(main)
        self._main_contents = fingerprints(main, data=True)
        #: The fingerprints in workers. Until the first spawned worker reports, a script is assumed to be the same there; a notebook
        #: is not.
        self._worker_prints: Mapping[str, str] = self._main_prints if forks or "__file__" in main else {}
        self._told = forks
        self._worker_names: frozenset[str] = frozenset(main) if forks else frozenset()
        #: What returns the globals that workers got with an initializer by value. Any thread writes; each step is one operation.
        self._initialized: dict[str, Callable[[], Any]] = {}
        #: By id of a function or class: a weak reference, which removes the entry with the object, the outline, and the answer.
        self._answers: dict[int, tuple[weakref.ref[Any], tuple[Any, ...], bool]] = {}

    def worker_has(self, names: Mapping[str, str | None]) -> None:
        """Note the names that a spawned worker has in its ``__main__``; see `tell_names`."""
        if not self._told:
            self._told = True
            self._worker_prints = {name: print_ for name, print_ in names.items() if print_ is not None}
            self._worker_names = frozenset(names)
            # A new dictionary: an answer that another thread is computing goes to the old one.
            self._answers = {}

    def goes_with_initializer(self, values: Mapping[str, Any]) -> None:
        """Note that these globals go into workers' ``__main__``, with an initializer by value that may change them there."""
        for name, value in values.items():
            try:
                self._initialized[name] = weakref.ref(value)
            except TypeError:  # plain values and containers
                self._initialized[name] = functools.partial(_it, value)

    def went_with_initializer(self, name: str, value: Any) -> bool:
        """Whether workers have this global, as their initializer has left it."""
        went = self._initialized.get(name)
        if went is None or (value is None and type(went) is weakref.ref):  # which returns None for what is gone
            return False
        return went() is value

    def is_guess(self, obj: Any) -> bool:
        """Whether `resolves` is uncertain for this function or class until a worker has reported its names."""
        return not self._told and getattr(obj, "__module__", None) in MAIN

    def resolves(self, obj: Any) -> bool:
        """Whether a worker that imports ``obj.__module__`` and looks up ``obj.__qualname__`` gets the same definition."""
        module_name = getattr(obj, "__module__", None)
        qualname = name_of(obj)
        if not isinstance(module_name, str) or not isinstance(qualname, str) or module_name in _by_value_modules():
            return False
        module = sys.modules.get(module_name)
        if module is None or look_up(module, qualname) is not obj:
            return False
        if module_name in MAIN:
            return self._main_resolves(qualname.partition(".")[0])
        spec = vars(module).get("__spec__")
        if module_name in self._specs:
            # A reloaded module has a new spec. Workers still have the old one, or import a newer one.
            return self._specs[module_name] is spec and (spec is not None or self._forks)
        return spec is not None

    def _main_resolves(self, root: str) -> bool:
        current = vars(sys.modules["__main__"]).get(root)
        now = outline(current)
        if now is None:
            return False
        answers = self._answers
        known = answers.get(id(current))
        if known is not None and known[0]() is current and known[1] == now:
            return known[2]
        # The same as when the workers were made, and the same as spawned workers have reported.
        answer = self._is_as_before(root, current, now) and (
            self._forks or self._worker_prints.get(root) == fingerprint(current)
        )
        ends = weakref.ref(current, functools.partial(_forget, answers, id(current)))
        answers[id(current)] = ends, now, answer
        return answer

    def _is_as_before(self, name: str, current: Any, now: tuple[Any, ...]) -> bool:
        reference, before = self._main_objects.get(name, (_gone, None))
        was = reference()
        if was is current and before == now:
            return True
        if was is current and isinstance(current, type):
            return self._main_prints.get(name) == fingerprint(current)
        return self._main_contents.get(name) == full_fingerprint(current) and _same_defaults(was, current)

    def has_global(self, name: str, value: Any) -> bool:
        """Whether a worker's ``__main__`` has this plain value under `name`, or a value that its initializer has set."""
        return (
            is_atom(value)
            and name in self._worker_names
            and self._main_values.get(name, self) is value
            # A script's main guard, which a spawned worker does not run, may have set another value.
            and (self._forks or self._worker_prints.get(name) in (_PUT_THERE, _print_of_value(value)))
        )


def tell_names(before: Mapping[str, Any]) -> dict[str, str | None]:
    """The names in a worker's ``__main__``, after its initializer. `before` is the namespace before the initializer ran.

    Each name has the fingerprint of its function, class or plain value, or a mark if the initializer has set the plain value.
    """
    told = {}
    for name, value in list(main_names().items()):
        if not is_atom(value):
            told[name] = fingerprint(value)
        elif before.get(name, _MISSING) is not value:
            told[name] = _PUT_THERE
        else:
            told[name] = _print_of_value(value)
    return told


def _print_of_value(value: Any) -> str | None:
    kind = type(value)
    if kind not in ATOMS:
        return None  # a subclass may be anything
    # Python refuses to convert long numbers to decimal, and a string may contain surrogates.
    content = (
        value if kind is bytes else (hex(value) if kind is int else repr(value)).encode("utf-8", "backslashreplace")
    )
    return f"{kind.__name__} {hashlib.blake2b(content, digest_size=16).hexdigest()}"


def _it(value: Any) -> Any:
    return value


def _gone() -> None:
    """Takes the place of a weak reference whose object is gone."""


def _same_defaults(before: Any, now: Any) -> bool:
    """Whether defaults that a fingerprint cannot compare, such as a frame, are the same objects."""
    if before is now or not isinstance(now, types.FunctionType):
        return True
    return _identical(getattr(before, "__defaults__", None), now.__defaults__) and _identical(
        tuple((getattr(before, "__kwdefaults__", None) or {}).values()),
        tuple((now.__kwdefaults__ or {}).values()),
    )


def _identical(before: tuple[Any, ...] | None, now: tuple[Any, ...] | None) -> bool:
    pairs = itertools.zip_longest(before or (), now or (), fillvalue=_MISSING)
    return all(a is b or is_atom(b) for a, b in pairs)


def _forget(answers: dict[int, Any], number: int, reference: weakref.ref[Any]) -> None:
    """Remove the entry of an object that is gone. Another object may have its id by now, and its own entry."""
    known = answers.get(number)
    if known is not None and known[0] is reference:
        del answers[number]


def look_up(module: types.ModuleType | None, qualname: str) -> Any:
    """What a module has under a qualified name; None if it has nothing."""
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _modules() -> dict[str, types.ModuleType]:
    return {name: module for name, module in list(sys.modules.items()) if isinstance(module, types.ModuleType)}


def _by_value_modules() -> set[str]:
    names: set[str] = cloudpickle.list_registry_pickle_by_value()
    return names


def is_stateless(function: Callable[..., Any]) -> bool:
    """Whether a function carries no data. A worker may then keep it for all tasks of a call.

    All other objects of a task, captured data included, are private to the task, and are rebuilt for every task.
    """
    if isinstance(function, types.FunctionType):
        return not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__)
    if isinstance(function, types.BuiltinFunctionType):
        return function.__self__ is None or isinstance(function.__self__, types.ModuleType)
    return type(function) is type


def constants_of(function: Callable[..., Any]) -> tuple[Any, ...] | None:
    """All data that a callable carries, if none of it can change. While these are the same objects, the callable does the same.

    None if some of it can change. Functions count by their names, as in any pickle.
    """
    parts: tuple[Any, ...]
    if type(function) is functools.partial:
        parts = (function.func, *function.args, *function.keywords, *function.keywords.values())
        if function.__dict__:
            return None
    elif type(function) is types.FunctionType:
        try:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # an empty one
            return None
        defaults = function.__kwdefaults__ or {}
        parts = (*cells, *(function.__defaults__ or ()), *defaults, *defaults.values())
        if function.__dict__:
            return None
    else:
        return () if is_stateless(function) else None
    return parts if all(type(part) in ATOMS or (callable(part) and is_stateless(part)) for part in parts) else None


def is_fixed(function: Callable[..., Any]) -> bool:
    """Whether the data of a callable can never change. (The cells of a closure can get other constants.)"""
    return is_stateless(function) or (type(function) is functools.partial and constants_of(function) is not None)


def main_globals(live: bool) -> dict[str, Any]:
    """The globals of ``__main__`` for a function that came by value.

    For a task: a copy of the worker's names. Values that an initializer has set are visible. Names that were sent with the function
    replace them in the copy, and do not reach ``__main__``. For an initializer (`live`): the module's own dictionary, since
    initializers set globals.
    """
    names = main_names()
    return names if live else dict(names)


def main_names() -> dict[str, Any]:
    """The globals of ``__main__``, as its own functions see them.

    In a spawned worker the script has run in another dictionary, of which the module's is a copy (`runpy.run_path`).
    """
    names = vars(sys.modules["__main__"])
    if names.get("__name__") == "__mp_main__":
        for value in list(names.values()):
            for function in _functions_in(value):
                if function.__globals__.get("__name__") == "__mp_main__":
                    return function.__globals__
    return names


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    """A function and the functions that it wraps, or those of a class: one of them was defined where `value` was."""
    members = vars(value).values() if isinstance(value, type) else (value,)
    for member in list(members):
        while isinstance(member, types.FunctionType):
            # A decorator's wrapper has the name of the script and the globals of the decorator's module.
            yield member
            member = vars(member).get("__wrapped__")
