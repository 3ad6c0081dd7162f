"""Where streams and templates meet: the bytes of templates, and the two functions that make objects of them.

Called by `frame`, `index` and `arrays`. All of them refer to the same two functions in the stream: pickle looks each function up
by its name, once a message, on both sides.

A template is the pickle of its *key*: a tuple of plain values that begins with the kind of the object. Receivers remember the
*plan* of each template: a function that makes objects by it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from arrowpool.codecs.recent import Recent, template_of
from arrowpool.tuning import MIB

__all__ = ["TEMPLATES", "fill", "plans", "rebuild", "template"]

#: How many templates each process remembers, on either side: twice that at most.
TEMPLATES = 1024
#: And how many bytes of them, likewise: that of a frame says where each column lies. A process holds some four times as much.
TEMPLATE_BYTES = 4 * MIB

#: Makes an object of what the message says beside the template; for `fill`, of the object itself and that.
Plan = Callable[..., Any]

#: By the kind: what makes a plan of the rest of a key. Filled while this package is imported, then only read.
_planners: dict[str, Callable[..., Plan]] = {}
#: By the key: the bytes of the template.
_templates: Recent[tuple[Any, ...], bytes] = Recent(TEMPLATES, TEMPLATE_BYTES, lambda _, made: len(made))
#: By the template.
_plans: Recent[bytes, Plan] = Recent(TEMPLATES, TEMPLATE_BYTES, lambda of_template, _: len(of_template))


def plans(kind: str) -> Callable[[Callable[..., Plan]], Callable[..., Plan]]:
    """Decorate what makes the plans of templates of this kind."""

    def decorate(planner: Callable[..., Plan]) -> Callable[..., Plan]:
        _planners[kind] = planner
        return planner

    return decorate


def template(key: tuple[Any, ...]) -> bytes:
    """The bytes of the template with this key; the same object as the last time, so that a message has them once."""
    return _templates.of(key, template_of)


def _plan(of_template: bytes) -> Plan:
    kind, *rest = pickle.loads(of_template)
    return _planners[kind](*rest)


def rebuild(of_template: bytes, *state: Any) -> Any:
    """Make an object by its template."""
    return _plans.of(of_template, _plan)(*state)


def fill(obj: Any, state: tuple[Any, ...]) -> None:
    """Give an object its state, which begins with its template: for objects that their own state may refer to."""
    _plans.of(state[0], _plan)(obj, *state[1:])
