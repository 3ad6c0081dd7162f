"""A script that defines classes and functions while its pool is open, some again. Run with a method; prints what was as it should be."""

import dataclasses
import enum
import functools
import gc
import json
import pickle
import sys
import threading
import typing

import arrowpool


class Same:
    x = 1


class Changed:
    def method(self):
        return "old"


class Patched:
    def method(self):
        return "old"


class UnderPatched(Patched):
    pass


class Config:
    window = 20
    limits = {"low": 1}  # noqa: RUF012


class Color(enum.Enum):
    RED = 1


class Base:
    kinds = []  # noqa: RUF012

    def __init_subclass__(cls):
        Base.kinds.append(cls.__name__)


def decorator(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorator
def decorated(x):
    return "old"


@functools.lru_cache
def cached(x):
    return "old"


def function(x):
    return "old"


def by_default(x, y="old"):
    return y


def is_same(x):
    return isinstance(x, Same)


def call(x):
    return x.method()


def constants(kind):
    return kind.window, kind.limits["low"]


def value(color):
    return color.name, color.value


def describe(x):
    return type(x).__name__, getattr(x, "x", None), hasattr(x, "__dict__")


def echo(x):
    return x


def make_partial(function):
    return functools.partial(function, 1)


def kinds(_):
    return [*Base.kinds, len(Base.__subclasses__())]


def count_up(x):
    type(x).count += 1
    return x


if __name__ == "__main__":
    found = {}
    with arrowpool.get_context(sys.argv[1]).Pool(1) as pool:

        def patch(self):
            return "new"

        Patched.method = patch
        for kind in (Patched, UnderPatched):
            found[f"a method of {kind.__name__}"] = pool.apply(call, (kind(),)) == "new"
            found[f"{kind.__name__} back"] = type(pool.apply(echo, (kind(),))) is kind
        by_default.__defaults__ = ("new",)
        found["defaults"] = pool.apply(by_default, (1,)) == "new"

        class Same:
            x = 1

        found["the same to the letter"] = pool.apply(is_same, (Same(),)) is True

        class Changed:
            def method(self):
                return "new"

        found["a changed method"] = pool.apply(call, (Changed(),)) == "new"

        class Config:
            window = 20
            limits = {"low": 2}  # noqa: RUF012

        found["a changed container"] = pool.apply(constants, (Config,)) == (20, 2)

        class Color(enum.Enum):
            RED = 2

        found["a changed member"] = pool.apply(value, (Color.RED,)) == ("RED", 2)

        @decorator
        def decorated(x):
            return "new"

        @functools.lru_cache(maxsize=5)
        def cached(x):
            return "new"

        def function(x):
            return "new"

        for one in (decorated, cached, function):
            found[f"{one.__name__} again"] = pool.apply(one, (1,)) == "new"
            found[f"{one.__name__} back"] = pool.apply(echo, ([one],))[0] is one

        found["a partial back"] = pool.apply(make_partial, (function,)).func is function
        found["what the decorator hides"] = False
        try:
            pool.apply(echo, (decorated.__wrapped__,))
        except arrowpool.TransferError as error:
            found["what the decorator hides"] = "not the one that was sent" in str(error)

        @functools.lru_cache
        def recursive(n):
            return n and recursive(n - 1) + 1

        found["a recursive one with a cache"] = pool.apply(recursive, (5,)) == 5
        found["its cache"] = pool.apply(lambda: (recursive(5), recursive.cache_info().currsize)) == (5, 6)

        class Slotted:
            __slots__ = ("__hidden", "x")

            def __init__(self):
                self.x = self.__hidden = 1

        @dataclasses.dataclass(slots=True)
        class Record:
            x: int = 1

        @dataclasses.dataclass(frozen=True, slots=True)
        class Frozen:
            x: int = 1

        class OneSlot:
            __slots__ = "x"

            def __init__(self):
                self.x = 1

        for kind in (Slotted, Record, Frozen, OneSlot):
            found[f"{kind.__name__} there"] = pool.apply(describe, (kind(),)) == (kind.__name__, 1, False)
            back = pool.apply(echo, (kind(),))
            found[f"{kind.__name__} back"] = (type(back), back.x) == (kind, 1)

        class Named(typing.NamedTuple):
            x: int = 1

            def twice(self):
                return 2 * self.x

        found["a named tuple"] = pool.apply(lambda one: (one.twice(), one._replace(x=3), Named()), (Named(2),)) == (
            4,
            (3,),
            (1,),
        )
        found["a named tuple back"] = type(pool.apply(echo, (Named(),))) is Named

        class Cached:
            @functools.cached_property
            def x(self):
                return 1

        found["a cached property"] = pool.apply(describe, (Cached(),)) == ("Cached", 1, True)

        @functools.singledispatch
        def dispatched(x):
            return "object"

        @dispatched.register
        def of_int(x: int):
            return f"int {dispatched(str(x))}"

        found["dispatched"] = pool.map(dispatched, ["x", 1]) == ["object", "int object"]

        class Late(Base):
            pass

        for _ in range(3):
            pool.apply(echo, (Late(),))
        found["registered once"] = pool.apply(kinds, (1,)) == ["Late", 1]

        class Counted:
            count = 0

        counted = pool.apply(count_up, (Counted(),))
        found["the state stays there"] = (type(counted), Counted.count) == (Counted, 0)
        Counted.count = 7
        stream = pickle.dumps(counted)
        found["the class is whole"] = type(pickle.loads(stream)) is Counted

        # A worker that is forked after a class was sent by value has it as its own.
        Counted.lock = threading.Lock()
        with arrowpool.get_context("fork").Pool(1) as second:
            back = second.apply(count_up, (Counted(),))
            found["what another pool knows"] = (type(back), Counted.count) == (Counted, 7)

        def lose():
            class Gone:
                x = 1

            return pool.apply_async(lambda one, wait: (one, wait), (Gone(), 1))

        waiting = lose()
        gc.collect()
        found["a class that is gone"] = waiting.get()[0].x == 1
    print(json.dumps(found))
