"""Where the object is that cannot be pickled: "argument 0, key 'db'".

Called only after pickling has failed. Looks at containers and attributes as they are stored: runs no code of the user's, and pickles
nothing again. What was looked for is recognized by the traceback (the object whose `__reduce__` raised) or by the message (its type, its
address or its name). A guess that fits nothing is not made: then there is no note.
"""

from __future__ import annotations

import contextlib
import functools
import re
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from arrowpool.errors import add_note, said, trace_of
from arrowpool.frames.work import ApplyToPart, ApplyToRun, Run
from arrowpool.transport.contents import Part, is_atom, is_opaque, parts
from arrowpool.transport.protocol import SOME_ITEM, Star

#: An object with the steps that lead to it, newest first: ``(step, rest)``.
_Path: TypeAlias = "tuple[str, _Path] | None"
_Matches: TypeAlias = Callable[[Any], bool]

#: So many objects are looked at, all in all: a fraction of a second.
_MOST_STEPS = 100_000
#: Of a longer path, so many steps at each end are shown.
_SHOWN_STEPS = 10
#: So many of the functions that raised are looked at: of a recursion, there are thousands.
_MOST_SUSPECTS = 5
_ARGUMENTS = "the arguments"
_GROUPS = "the groups"
_OURS = re.compile(r"(arrowpool|pickle|cloudpickle|copyreg|multiprocessing\.reduction)(\.|$)")
_OF_PICKLE = frozenset(("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"))


def explain(
    error: BaseException, roots: Iterable[Part], returned: bool = False, noted_in: BaseException | None = None
) -> int | None:
    """Note in an error of pickling where the object is that cannot be pickled, and what to do. Never fails.

    Parameters
    ----------
    error : BaseException
        The error, with its traceback.
    roots : iterable of (str, object)
        What was pickled, with names such as ``argument 0``.
    returned : bool
        Whether a task returned it.
    noted_in : BaseException, optional
        The error that gets the note. By default the same.

    Returns
    -------
    int or None
        Which of the roots has the object; None if it was not found.
    """
    try:
        given = list(roots)
        steps_left = iter(range(_MOST_STEPS))
        for matches in _signs(error, [root for _, root in given]):
            for through_opaque in (False, True):
                try:
                    found = _find(given, matches, through_opaque, steps_left)
                except (
                    Exception
                ):  # what one sign leads to may change meanwhile, or refuse to be looked at; others may not
                    continue
                if found is not None:
                    number, steps, culprit = found
                    if steps[:1] == [_ARGUMENTS]:
                        steps[:2] = [steps[1].replace("element", "argument")] if steps[1:] else steps[:1]
                    elif steps[:1] == [_GROUPS] and steps[1:]:
                        steps[:2] = ["the frame" if steps[1] == "field 'rows'" else "the keys"]
                    add_note(noted_in or error, f"{', '.join(filter(None, steps))}: {_advice(culprit, returned)}")
                    return number
    except Exception:  # a container has changed in the meantime, or a library's object refuses to be looked at
        return None
    return None


@contextlib.contextmanager
def explained(roots: Iterable[Part]) -> Iterator[None]:
    """Explain the errors of pickling in the ``with`` block: see `explain`."""
    try:
        yield
    except Exception as error:
        explain(error, roots)
        raise


def in_task(star: int, payload: Any) -> list[Part]:
    """The parts of a task's payload, as arguments of its function: see `Star`. For several items, one root for each."""
    if star == Star.CALL:
        args, kwds = payload
        positions = [(_step(value, f"argument {at}"), value) for at, value in enumerate(args)]
        return positions + [(f"argument {name!r}", value) for name, value in dict(kwds).items()]
    step = "argument 0" if star in (Star.MAP, Star.MAP_ALL) else _ARGUMENTS
    return [(_step(item, step), item) for item in payload]


def _step(item: Any, step: str) -> str:
    return _GROUPS if type(item) is Run else step


def one_of(payload: Any, found: int | None) -> int:
    """Which of several items has the object, by what `explain` returns; `SOME_ITEM` if that is not known, or not which of its groups."""
    return SOME_ITEM if found is None or type(payload[found]) is Run else found


def in_function(function: Any) -> list[Part]:
    """The user's function, by its name."""
    while type(function) in (ApplyToRun, ApplyToPart):
        function = function.func
    return [(f"the function {said(function, _name)}", function)]


def in_initializer(function: Any, args: Iterable[Any]) -> list[Part]:
    """A pool's initializer and its arguments."""
    return [*((f"argument {at} of the initializer", one) for at, one in enumerate(args)), ("the initializer", function)]


def _name(function: Any) -> str:
    while type(function) is functools.partial:
        function = function.func
    if type(function) is types.MethodType:
        function = function.__func__
    has_name = issubclass(type(function), (type, types.FunctionType, types.BuiltinFunctionType))
    return str((function if has_name else type(function)).__qualname__)


def _find(
    roots: list[Part], matches: _Matches, through_opaque: bool, steps_left: Iterator[int]
) -> tuple[int, list[str], Any] | None:
    """Which root has the object, the steps to it, and the object. Depth first, in the order in which pickle goes."""
    #: By id. With the objects: some are made by looking, and another could get the id of one.
    seen: dict[int, Any] = {}
    for number, root in enumerate(roots):
        stack: list[tuple[_Path, Iterator[Part]]] = [(None, iter([root]))]
        while stack:
            path, rest = stack[-1]
            part = next(rest, None)
            if part is None:
                stack.pop()
                continue
            step, obj = part
            if next(steps_left, None) is None:
                return None
            if is_atom(obj) or id(obj) in seen:
                continue
            seen[id(obj)] = obj
            here = (step, path)
            if matches(obj):
                return number, _steps(here), obj
            if through_opaque or not is_opaque(obj):
                stack.append((here, parts(obj)))
    return None


def _steps(path: _Path) -> list[str]:
    steps = []
    while path is not None:
        step, path = path
        steps.append(step)
    steps.reverse()
    if len(steps) > 2 * _SHOWN_STEPS:
        steps[_SHOWN_STEPS:-_SHOWN_STEPS] = [f"{len(steps) - 2 * _SHOWN_STEPS:,} more steps"]
    return steps


def _signs(error: BaseException, roots: list[Any]) -> Iterator[_Matches]:
    """Ways to recognize the object, the surest first."""
    for suspect in _suspects(error, roots):
        yield functools.partial(_is, suspect)
    text = str(error) if type(type(error).__str__) is types.WrapperDescriptorType else ""
    if address := re.search(r"object at (0x[0-9a-fA-F]+)|at (0x[0-9a-fA-F]+)>", text):
        yield functools.partial(_has_address, int(address[1] or address[2], 16))
    if name := re.search(r"cannot pickle '?([\w.]+)'? (?:object|instances)", text):
        yield functools.partial(_is_of_type, name[1])
    if name := re.search(r"<class '([^']+)'>", text):
        yield functools.partial(_is_class_or_instance, name[1])
    if name := re.search(r"local object '([^']+)'", text):
        yield functools.partial(_has_name, name[1])


def _suspects(error: BaseException, roots: list[Any]) -> list[Any]:
    """The objects whose methods or reducers raised, the last one first. Of other functions, an argument may be a root, too."""
    found = []
    trace = trace_of(error)
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        code, module = frame.f_code, frame.f_globals.get("__name__")
        if not code.co_argcount or (type(module) is str and _OURS.match(module)):
            continue
        suspect = frame.f_locals.get(code.co_varnames[0])
        if type(suspect) not in _TOO_COMMON and (
            code.co_name in _OF_PICKLE or not any(suspect is root for root in roots)
        ):
            found.append(suspect)
    return found[: -_MOST_SUSPECTS - 1 : -1]


#: Values of which there may be several that are the same object.
_TOO_COMMON = frozenset((type(None), bool, int, float, str, bytes, type, tuple))


def _is(suspect: Any, obj: Any) -> bool:
    return obj is suspect


def _has_address(address: int, obj: Any) -> bool:
    return id(obj) == address


def _is_of_type(name: str, obj: Any) -> bool:
    kind = type(obj)
    return name in (f"{kind.__module__}.{kind.__qualname__}", kind.__qualname__, kind.__name__)


def _is_class_or_instance(name: str, obj: Any) -> bool:
    kind = obj if issubclass(type(obj), type) else type(obj)
    return name == f"{kind.__module__}.{kind.__qualname__}"


def _has_name(name: str, obj: Any) -> bool:
    named = obj if issubclass(type(obj), (type, types.FunctionType)) else type(obj)
    return bool(named.__qualname__ == name)


def _advice(culprit: Any, returned: bool) -> str:
    kind = type(culprit)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if issubclass(kind, type):
        name = f"the class {culprit.__qualname__}"
    elif kind is types.FunctionType:
        name = f"the function {culprit.__qualname__}"
    else:
        name = f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"
    remedy = "Make it in the task, or once in each worker with Pool(initializer=...)."
    if issubclass(kind, (types.GeneratorType, map, filter, zip)):
        remedy = "Make a list of it."
    elif issubclass(kind, types.ModuleType):
        remedy = "Import it in the task."
    elif returned:
        remedy = "Return its data instead."
    return f"{name}, which cannot be pickled. {remedy}"
