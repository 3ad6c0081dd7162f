"""What the oracle's programs are made of: values, ways to change them, functions for workers, and what can be told of it all.

Workers import this module. Everything is deterministic: the same kind, size and seed is the same value in both worlds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import types
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa

from tests.codecs.sameness import facts

#: Floats in a value. A message of less than 32 kB stays in the pickle stream, an object of 256 kB has a segment of its own.
SIZES = {"tiny": 8, "small": 600, "medium": 6_000, "large": 40_000}
_ATOMS = (type(None), bool, int, float, str, bytes, type, np.generic)


class Holder:
    """State with methods, as a user's model has."""

    def __init__(self, state):
        self.state = state

    def look(self, *args):
        return look(self.state, *args)

    def give(self, *args):
        return give(self.state, *args)

    def scribble(self, *args):
        return scribble_all(self.state, *args)

    def __call__(self, *args):
        return look(self.state, *args)


@dataclass
class Record:
    """A dataclass with arrays in it."""

    name: str
    values: Any


class Named(list):
    """A list of the user's own, with an attribute."""

    name = ""


class Cloud:
    """A closure for a pool that sends none: by value, in the state it has when it is pickled."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)

    def __reduce__(self):
        return cloudpickle.loads, (cloudpickle.dumps(self.function, 4),)


def closure_over(function, state):
    """A function that only cloudpickle can send."""
    return lambda *args: (function(state), function(*args))


# Values


def _floats(n, seed):
    return np.arange(n, dtype=float) + seed


def _overlapping(n, seed):
    return np.lib.stride_tricks.sliding_window_view(_floats(n // 4 + 4, seed), 5, writeable=True)


def _mixed(n, seed):
    rows = n // 4
    return pd.DataFrame(
        {
            "price": _floats(rows, seed),
            "count": np.arange(rows) * (seed + 1),
            "name": [f"n{(i * 7 + seed) % 13}" for i in range(rows)],
            "when": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "kind": pd.Categorical.from_codes(np.arange(rows) % 3, ["a", "b", "c"]),
        }
    )


def _table(n, seed):
    return pa.table({"x": _floats(n // 2, seed), "y": np.arange(n // 2)})


def _holder(n, seed):
    return Holder({"seed": seed, "weights": _floats(n, seed), "history": [seed]})


def _named(n, seed):
    named = Named([_floats(n // 2, seed), seed])
    named.name = f"list {seed}"
    return named


def _object_array(n, seed):
    array = np.empty(3, dtype=object)
    array[:] = [_floats(n // 2, seed), "text", [seed]]
    return array


KINDS = {
    "floats": _floats,
    "integers": lambda n, seed: np.arange(n) * (seed + 1),
    "square": lambda n, seed: _floats(n // 8 * 8, seed).reshape(8, -1),
    "columns": lambda n, seed: np.asfortranarray(_floats(n // 8 * 8, seed).reshape(8, -1)),
    "every second": lambda n, seed: _floats(2 * n, seed)[::2],
    "read only": lambda n, seed: pd.Series(_floats(n, seed)).to_numpy(),
    "objects": _object_array,
    "list": lambda n, seed: [_floats(n // 2, seed), seed, "text"],
    "the same twice": lambda n, seed: [array := _floats(n, seed), array, {"again": array}],
    "a whole and its half": lambda n, seed: [array := _floats(n, seed), array[: n // 2]],
    "dict": lambda n, seed: {"a": _floats(n // 2, seed), "b": seed},
    "bytes": lambda n, seed: bytes([seed % 251]) * (8 * n),
    "bytearray": lambda n, seed: bytearray([seed % 251]) * (8 * n),
    "record": lambda n, seed: Record(f"record {seed}", _floats(n, seed)),
    "holder": _holder,
    "named": _named,
    "frame": lambda n, seed: pd.DataFrame(_floats(n // 4 * 4, seed).reshape(-1, 4), columns=list("abcd")),
    "mixed frame": _mixed,
    "rows of a frame": lambda n, seed: pd.DataFrame(_floats(n // 2 * 4, seed).reshape(-1, 4)).iloc[n // 8 : n // 4],
    "frame by the hour": lambda n, seed: pd.DataFrame(
        {"a": _floats(n // 2, seed), "b": _floats(n // 2, -seed)},
        index=pd.date_range("2024-01-01", periods=n // 2, freq="h", name="when"),
    ),
    "series": lambda n, seed: pd.Series(_floats(n, seed), name=f"s{seed}"),
    "index": lambda n, seed: pd.Index(_floats(n, seed), name="i"),
    "table": _table,
    "rows of a table": lambda n, seed: _table(2 * n, seed).slice(n // 4, n // 2),
    "arrow array": lambda n, seed: pa.array(_floats(n, seed)),
    "overlapping windows": _overlapping,
    "frame over overlapping windows": lambda n, seed: pd.DataFrame(_overlapping(n, seed), copy=False),
}
if int(pd.__version__.split(".")[0]) >= 3:  # before, such a frame is read-only, with the standard library too
    KINDS["frame over one row"] = lambda n, seed: pd.DataFrame(
        np.broadcast_to(_floats(4, seed), (n // 4, 4)), copy=False
    )


def make(kind, size, seed):
    """A value of that kind."""
    return KINDS[kind](SIZES[size], seed)


def derive(obj, how):
    """Something over the same memory, as users slice it; the object itself where it has nothing of that."""
    if isinstance(obj, np.ndarray) and obj.ndim and obj.dtype != object:
        return {"rows": obj[1 : len(obj) // 2 + 1], "backwards": obj[::-1], "whole": obj[:], "turned": obj.T}[how]
    if isinstance(obj, pd.DataFrame):
        column = obj.iloc[:, 0]
        return {"rows": obj.iloc[1 : len(obj) // 2], "backwards": obj.iloc[::-1], "whole": obj[:], "turned": column}[
            how
        ]
    if isinstance(obj, pd.Series):
        return {"rows": obj.iloc[1 : len(obj) // 2], "backwards": obj[::-1], "whole": obj[:], "turned": obj.index}[how]
    if isinstance(obj, (pa.Table, pa.Array)):
        return obj.slice(1, len(obj) // 2)
    return obj


HOWS = ("rows", "backwards", "whole", "turned")
PLACES = ("first", "last", "all")


def change(obj, place, value):
    """Write to an object in place, as its holder may."""
    if isinstance(obj, np.ndarray):
        if not obj.size or not obj.flags.writeable:
            return
        if obj.dtype == object:
            for item in obj.flat:
                change(item, place, value)
        elif place == "all" and not _overlaps(obj):
            obj[...] = value
        else:
            obj.flat[0 if place == "first" else -1] = value
    elif isinstance(obj, pd.DataFrame):
        if obj.shape[0] and obj.shape[1]:
            rows = {"first": 0, "last": -1, "all": slice(None)}[place]
            with contextlib.suppress(TypeError, ValueError):  # over memory that is read-only
                obj.iloc[rows, 0] = float(value)
    elif isinstance(obj, pd.Series):
        if len(obj) and obj.dtype.kind in "fi":
            with contextlib.suppress(TypeError, ValueError):
                obj.iloc[{"first": 0, "last": -1, "all": slice(None)}[place]] = float(value)
    elif isinstance(obj, bytearray):
        if obj:
            obj[0 if place == "first" else -1] = value % 251
    elif isinstance(obj, dict):
        for item in obj.values():
            change(item, place, value)
        obj["changed"] = value
    elif isinstance(obj, list):
        for item in obj:
            change(item, place, value)
        obj.append(value)
    elif isinstance(obj, tuple):
        for item in obj:
            change(item, place, value)
    elif isinstance(obj, (Holder, Record)):
        for item in vars(obj).values():
            change(item, place, value)


def _overlaps(array):
    """Whether it is certain that a cell of it is another cell, too."""
    reach = sum(abs(stride) * (count - 1) for stride, count in zip(array.strides, array.shape, strict=True))
    return reach + array.itemsize < array.nbytes


def overwrite(obj):
    """Write to every piece of memory of an object, past what pandas would see of it."""
    if isinstance(obj, np.ndarray):
        change(obj, "first", -7)
    elif isinstance(obj, (pd.DataFrame, pd.Series)):
        for block in obj._mgr.blocks:
            if isinstance(block.values, np.ndarray) and block.values.dtype.kind in "fi":
                change(block.values, "first", -7)
    elif isinstance(obj, dict):
        for item in obj.values():
            overwrite(item)
    elif isinstance(obj, (list, tuple)):
        for item in obj:
            overwrite(item)
    elif isinstance(obj, (Holder, Record)):
        overwrite(vars(obj))


# What can be told of them


def portrait(obj, seen=None):
    """All that a user can see of an object, with what is the same object as what, in values that compare."""
    if isinstance(obj, _ATOMS):
        return repr(obj) if not isinstance(obj, (bytes, str)) or len(obj) < 100 else _digest(obj)
    seen = {} if seen is None else seen
    if id(obj) in seen:
        return f"the same as {seen[id(obj)][0]}"
    if not isinstance(obj, tuple) or obj:
        seen[id(obj)] = (len(seen), obj)
    name = type(obj).__name__
    if isinstance(obj, (list, tuple)):
        inside = [portrait(item, seen) for item in obj]
        return (name, inside, portrait(vars(obj), seen)) if isinstance(obj, Named) else (name, inside)
    if isinstance(obj, dict):
        return name, [(portrait(key, seen), portrait(value, seen)) for key, value in obj.items()]
    if isinstance(obj, (Holder, Record)):
        return name, portrait(vars(obj), seen)
    if isinstance(obj, functools.partial):
        return name, portrait(obj.func, seen), portrait(obj.args, seen)
    if isinstance(obj, types.MethodType):
        return name, obj.__name__, portrait(obj.__self__, seen)
    if isinstance(obj, (types.FunctionType, Cloud)):
        return "function"
    if isinstance(obj, bytearray):
        return name, len(obj), _digest(bytes(obj))
    if isinstance(obj, np.ndarray) and obj.dtype == object:
        return name, obj.shape, [portrait(item, seen) for item in obj.flat]
    if isinstance(obj, np.ndarray):
        return name, obj.shape, obj.ravel()[:3].tolist(), _digest(facts(obj))
    if isinstance(obj, (pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray)):
        return name, len(obj), _digest(_facts_of_arrow(obj))
    if isinstance(obj, BaseException):
        return name, portrait(obj.args, seen)
    return name, getattr(obj, "shape", None), _digest(facts(obj))


def _facts_of_arrow(obj):
    """Quicker than `facts`, for types without nulls: by the bytes that IPC would write."""
    if isinstance(obj, pa.Array):
        return pa.record_batch([obj], ["x"]).serialize().to_pybytes()
    if isinstance(obj, pa.ChunkedArray):
        return [_facts_of_arrow(chunk) for chunk in obj.chunks]
    return str(obj.schema), [_facts_of_arrow(pa.chunked_array(column)) for column in obj.columns]


def _digest(value):
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


# What workers run

#: What tasks have kept, with what could be told of it then.
_kept: list[tuple[Any, Any]] = []


def give(*args):
    return args[0] if len(args) == 1 else args


def look(*args):
    return portrait(args)


def scribble_first(*args):
    change(args, "first", -1)
    return portrait(args), args


def scribble_last(*args):
    change(args, "last", -2)
    return portrait(args), args


def scribble_all(*args):
    change(args, "all", -3)
    return portrait(args), args


def scribble_below(*args):
    """Past pandas."""
    overwrite(args)
    return portrait(args), args


def scribble_one(*args):
    """Only to the first: nothing of the others may change."""
    change(args[0], "all", -4)
    return portrait(args)


def keep(*args):
    del _kept[:-6]
    _kept.append((args, portrait(args)))
    return portrait(args)


def keep_half(*args):
    del _kept[:-6]
    halves = [derive(arg, "rows") for arg in args]
    _kept.append((halves, portrait(halves)))


def check(*_args):
    """How many of what this worker has kept has changed since."""
    return sum(portrait(kept) != then for kept, then in _kept)


def half(*args):
    return [derive(arg, "rows") for arg in args]


def twice(*args):
    return [args, list(args), {"again": args}]


def fail(*args):
    raise ValueError("on purpose", *args)


JOBS = {
    job.__name__: job
    for job in (
        give,
        look,
        scribble_first,
        scribble_last,
        scribble_all,
        scribble_below,
        scribble_one,
        keep,
        keep_half,
        check,
        half,
        twice,
        fail,
    )
}
