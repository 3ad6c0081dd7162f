"""A script with every kind of class and function, whose state changes after its pool was made. Run with a method and a library.

Prints what its worker found, as JSON: by test_definitions, the same with the standard library.
"""

import abc
import collections
import contextlib
import dataclasses
import enum
import functools
import importlib
import json
import pickle
import sys
import threading
import types
import typing
import warnings

T = typing.TypeVar("T")


class Plain:
    def __init__(self, x=1):
        self.x = x


class Sub(Plain):
    pass


class Counted:
    count = 0

    def __init__(self):
        type(self).count += 1

    def run(self, _):
        Counted.count += 1
        return Counted.count


class Locked:
    lock = threading.Lock()


class Cache:
    found: typing.ClassVar[dict] = {}
    latest = None


class Registered:
    kinds: typing.ClassVar[list] = []

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        Registered.kinds.append(cls.__name__)


class One(Registered):
    pass


class Meta(type):
    made = 0

    def __call__(cls, *args):
        Meta.made += 1
        return super().__call__(*args)


class WithMeta(metaclass=Meta):
    pass


class Equal(type):
    """All its classes are equal, and have no hash."""

    def __eq__(cls, other):
        return True


class HasNoHash(metaclass=Equal):
    pass


class Proxy:
    """Its value is not available in this process."""

    @property
    def __class__(self):
        raise RuntimeError("touched")


proxy = Proxy()


class HasProxy:
    proxy = proxy
    number = 1 << 100_000
    grid: typing.ClassVar[list] = [[[0] * 50] * 50] * 50


with warnings.catch_warnings(action="ignore") if sys.version_info >= (3, 11) else contextlib.nullcontext():
    Odd = type("Odd", (), {1: 2, "x": 1, "__module__": __name__})


class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self): ...


class Concrete(Abstract):
    def method(self):
        return 1


@typing.runtime_checkable
class Shaped(typing.Protocol):
    x: int


class Shape(Shaped):
    x = 1


class Box(typing.Generic[T]):
    def __init__(self, item: T = None):
        self.item = item


class IntBox(Box[int]):
    pass


class Slotted:
    __slots__ = ("__hidden", "x")

    def __init__(self):
        self.x = self.__hidden = 1


@dataclasses.dataclass
class Record:
    x: int = 1
    more: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    x: int = 1


@dataclasses.dataclass(slots=True)
class SlottedRecord:
    x: int = 1


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


Functional = enum.Enum("Functional", "A B", module=__name__)
Point = collections.namedtuple("Point", "x y")


class Named(typing.NamedTuple):
    x: int = 1


class Typed(typing.TypedDict):
    x: int


class Ordered(dict):
    pass


class Failure(Exception):
    pass


class Described:
    @property
    def one(self):
        return 1

    @functools.cached_property
    def two(self):
        return 2

    @staticmethod
    def three():
        return 3

    @classmethod
    def four(cls):
        return 4

    @functools.singledispatchmethod
    def five(self, x):
        return 5

    @functools.lru_cache  # noqa: B019
    def six(self):
        return 6


class Outer:
    class Inner:
        class Innermost:
            pass

    @staticmethod
    def function():
        return 1


@functools.total_ordering
class Ranked:
    def __lt__(self, other):
        return False

    def __eq__(self, other):
        return isinstance(other, Ranked)

    __hash__ = None


def attributes(x=1):
    return attributes.count


attributes.count = 0


@functools.cache
def cached(x):
    return x + 1


@functools.lru_cache
def recursive(x):
    return x and recursive(x - 1)


def decorator(function):
    calls = []

    @functools.wraps(function)
    def wrapper(*args):
        calls.append(args)
        wrapper.calls = len(calls)
        return function(*args)

    return wrapper


@decorator
def decorated(x):
    return x


@functools.singledispatch
def dispatched(x):
    return "object"


@dispatched.register
def of_int(x: int):
    return "int"


@contextlib.contextmanager
def managed():
    yield 1


def generated():
    yield 1


async def awaited():
    return 1


def with_default(x=types.SimpleNamespace(a=1)):  # noqa: B008
    return x


shorthand = lambda x: x  # noqa: E731
shorthand.__qualname__ = "shorthand"

MAKE = {
    made.__name__: made
    for made in (
        *(
            Plain,
            Sub,
            Counted,
            Locked,
            Cache,
            One,
            WithMeta,
            HasProxy,
            Odd,
            Concrete,
            Shape,
            Box,
            IntBox,
            Slotted,
            Record,
            Frozen,
        ),
        *(SlottedRecord, Named, Ordered, Failure, Described, Outer, Ranked),
    )
} | {
    "Color": lambda: Color.RED,
    "Flags": lambda: Flags.A | Flags.B,
    "Functional": lambda: Functional.A,
    "Point": lambda: Point(1, 2),
    "Inner": lambda: Outer.Inner(),
    "Innermost": lambda: Outer.Inner.Innermost(),
    "generic": lambda: Box[int](),
}
DEFINITIONS = {
    **{name: made for name, made in MAKE.items() if isinstance(made, type)},
    **{kind.__name__: kind for kind in (Meta, Abstract, Shaped, Registered, Typed, Color, Flags, Functional, Point)},
    "Outer.Inner": Outer.Inner,
    "Outer.function": Outer.function,
    "method": Plain.__init__,
    **{
        function.__name__: function
        for function in (attributes, cached, recursive, decorated, dispatched, of_int, managed, generated, awaited)
    },
    "HasNoHash": HasNoHash,
    "T": T,
    "with_default": with_default,
    "shorthand": shorthand,
}
KEPT = {}


def initialize():
    """What the worker has of its own."""
    KEPT.update({name: make() for name, make in MAKE.items()})


def look(name, sent):
    kept, made = KEPT[name], MAKE[name]()
    return [
        type(sent) is type(kept),
        type(sent) is type(made),
        isinstance(kept, type(sent)),
        (sent == made) is (kept == made),
    ]


def is_own(name, sent):
    return sent is DEFINITIONS[name], sent


def echo(sent):
    return sent


def fail(_):
    raise Failure(1)


def state(_):
    """The state of the worker's own definitions, which only the worker changes."""
    Counted.count += 1
    attributes.count += 1
    cached(1)
    return [
        Counted.count,
        Cache.found,
        Cache.latest,
        Registered.kinds,
        attributes.count,
        cached.cache_info().misses,
        dispatched(1),
        dispatched(""),
        isinstance("", Abstract),
        with_default.__defaults__ is not None,
    ]


def touch():
    """All that a program, Python or a library does to classes and functions while a pool is open."""
    for name, make in MAKE.items():
        made = make()
        with contextlib.suppress(Exception):
            pickle.dumps(made)
        hash(name), repr(made), type(made).__annotations__, isinstance(made, (Shaped, Abstract))
    for definition in DEFINITIONS.values():
        with contextlib.suppress(TypeError):  # a type variable has none
            typing.get_type_hints(definition)
    for kind in (Plain, Sub, Record, SlottedRecord, Concrete, Outer.Inner):
        kind.attribute = object()
    Counted.count = 100
    Cache.found["x"] = [1]
    Cache.latest = Plain(2)
    type("Another", (Registered,), {})
    Abstract.register(str)
    Described.five.register(int, lambda self, x: 0)
    dispatched.register(str, len)
    attributes.count = 50
    for function in (cached, recursive, decorated):
        function(3)
    with managed():
        pass
    attributes.__wrapped__ = shorthand.note = cached


def main(method, library):
    context = importlib.import_module(library).get_context(method)
    found = {}
    with context.Pool(1, initialize) as pool:
        touch()
        for name, make in MAKE.items():
            sent = make()
            found[f"an instance of {name}"] = [
                *pool.apply(look, (name, sent)),
                type(pool.apply(echo, (sent,))) is type(sent),
            ]
        for name, definition in DEFINITIONS.items():
            same, back = pool.apply(is_own, (name, definition))
            found[name] = [same, back is definition]
        for name in ("decorated", "cached", "attributes"):
            found[f"called {name}"] = pool.map(DEFINITIONS[name], [1, 2, 1], 1)
        found["states"] = pool.map(state, range(3), 1)
        found["methods"] = pool.map(Counted().run, range(3), 1)
        try:
            pool.apply(fail, (1,))
        except Failure as failure:
            found["failure"] = list(failure.args)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
