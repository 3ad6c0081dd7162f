"""One list of objects that are awkward to move between processes, for every suite that moves objects.

Each is made anew, by its factory, from about as many elements as it is asked for, so that small and large ones of
the same kind can be tried. What is missing on this machine (polars, scipy, xarray) is left out of the list.
"""

from __future__ import annotations

import datetime
import decimal
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3


@dataclass(frozen=True)
class Awkward:
    """An object to be made.

    Attributes
    ----------
    library : str
        Whose object it is.
    name : str
        What is awkward about it.
    make : callable
        Given the number of elements, the object.
    shared : bool
        Whether all its memory is expected outside the pickle stream once it is large.
    """

    library: str
    name: str
    make: Callable[[int], Any]
    shared: bool = True

    def __str__(self) -> str:
        return f"{self.library}-{self.name}"


AWKWARD: list[Awkward] = []


def _awkward(library: str, *, shared: bool = True) -> Callable[[Callable[[int], Any]], Callable[[int], Any]]:
    def register(make: Callable[[int], Any]) -> Callable[[int], Any]:
        AWKWARD.append(Awkward(library, make.__name__.strip("_"), make, shared))
        return make

    return register


def _each(library: str, makers: dict[str, Callable[[int], Any]], *, shared: bool = True) -> None:
    AWKWARD.extend(Awkward(library, name, make, shared) for name, make in makers.items())


# ---------------------------------------------------------------------------------------------------------- numpy


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _unaligned(n: int) -> np.ndarray:
    return np.frombuffer(b"x" * (8 * n + 1), dtype=np.uint8)[1:].view(np.float64)


class Tagged(np.ndarray):
    """A subclass that pickles as a plain array."""


class Annotated(np.ndarray):
    """A subclass that says itself how to pickle it."""

    note = "none"

    def __reduce__(self) -> Any:
        rebuild, args, state = super().__reduce__()
        return rebuild, args, (state, self.note)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.note = state[1]


def _annotated(n: int) -> np.ndarray:
    array = np.arange(float(n)).view(Annotated)
    array.note = "kept"
    return array


def _memmap(n: int) -> np.memmap:
    with tempfile.TemporaryFile() as file:  # the map keeps it
        array = np.memmap(file, dtype=np.int32, shape=(n,))
        array[:] = np.arange(n)
        return array


_RECORD = np.dtype([("f", "<f8"), ("i", "i1"), ("s", "U3")], align=True)


def _records(n: int) -> np.ndarray:
    array = np.zeros(n, _RECORD)
    array["f"], array["i"], array["s"] = np.arange(n), 7, "abc"
    return array


_each(
    "numpy",
    {
        **{
            f"of-{code}": lambda n, code=code: np.arange(n).astype(code)
            for code in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "g", "F", "D", "S7", "U5", "V3")
        },
        "datetimes": lambda n: np.arange(n).astype("M8[us]"),
        "datetimes-of-days": lambda n: np.where(
            np.arange(n) % 2, np.datetime64("NaT", "D"), np.datetime64("2020-01-01")
        ),
        "timedeltas": lambda n: np.arange(n).astype("m8[25s]"),
        "big-endian": lambda n: np.arange(n).astype(">f8"),
        "big-endian-datetimes": lambda n: np.arange(n).astype(">M8[ms]"),
        "big-endian-text": lambda n: np.arange(n).astype(">U6"),
        "nan-payloads": lambda n: np.arange(n, dtype="u8").__or__(np.uint64(0x7FF0_0000_0000_0001)).view("f8"),
        "read-only": lambda n: _read_only(np.arange(n)),
        "read-only-fortran": lambda n: _read_only(np.asfortranarray(np.arange(3.0 * n).reshape(n, 3))),
        "fortran": lambda n: np.asfortranarray(np.arange(3 * n).reshape(n, 3)),
        "fortran-big-endian": lambda n: np.asfortranarray(np.arange(3 * n).reshape(n, 3).astype(">i4")),
        "fortran-records": lambda n: np.asfortranarray(_records(3 * n).reshape(n, 3)),
        "transposed-3d": lambda n: np.arange(6 * n).reshape(n, 2, 3).transpose(1, 2, 0),
        "reversed": lambda n: np.arange(n)[::-1],
        "reversed-fortran": lambda n: np.asfortranarray(np.arange(3 * n).reshape(n, 3))[::-1],
        "strided": lambda n: np.arange(4 * n).reshape(-1, 2)[::2, 1],
        "strided-big-endian": lambda n: np.arange(2 * n).astype(">i8")[::2],
        "broadcast": lambda n: np.broadcast_to(np.arange(n), (3, n)),
        "broadcast-scalar": lambda n: np.broadcast_to(np.float32(2.5), (n,)),
        "row": lambda n: np.arange(n).reshape(1, n),
        "unaligned": _unaligned,
        "records": _records,
        "records-big-endian": lambda n: np.ones(n, [("a", ">f8"), ("b", "i1")]),
        "records-strided": lambda n: _records(2 * n)[::2],
        "records-nested": lambda n: np.ones(n, [("a", [("x", "f4"), ("y", "i2", (2, 2))]), ("b", "u1")]),
        "field-of-records": lambda n: _records(n)["f"],
        "fields-of-records": lambda n: _records(n)[["f", "s"]],
        "with-dtype-metadata": lambda n: np.arange(n).astype(np.dtype("f8", metadata={"unit": "m"})),
        "matrix": lambda n: np.arange(2 * n).reshape(n, 2).view(np.matrix),
        "matrix-transposed": lambda n: np.arange(2.0 * n).reshape(n, 2).view(np.matrix).T,
        "recarray": lambda n: _records(n).view(np.recarray),
        "memmap": _memmap,
        "subclass": lambda n: np.arange(n).view(Tagged),
        "masked": lambda n: np.ma.MaskedArray(np.arange(float(n)), np.arange(n) % 3 == 0, fill_value=7, hard_mask=True),
        "masked-nowhere": lambda n: np.ma.MaskedArray(np.arange(n)),
        "masked-fortran": lambda n: np.ma.MaskedArray(np.ones((n, 3), order="F"), np.eye(n, 3) > 0),
        "masked-records": lambda n: np.ma.array([(1, 2.0)] * n, mask=[(True, False)] * n, dtype="i4,f8"),
    },
)
_each(
    "numpy",
    {
        "subclass-with-own-pickling": _annotated,
        "zero-dimensional": lambda n: np.array(5.0),
        "zero-dimensional-big-endian": lambda n: np.array(5.0, dtype=">f8"),
        "empty": lambda n: np.empty((0, 3), dtype="i4"),
        "empty-fortran": lambda n: np.empty((3, 0), order="F"),
        "itemsize-zero": lambda n: np.empty(5, dtype="V0"),
        "scalar": lambda n: np.float32(1.5),
        "objects": lambda n: np.array([1, "x", None, (2, 3)] * (n // 4), dtype=object),
        "records-with-objects": lambda n: np.array([(1, "x")] * n, dtype=[("a", "i4"), ("b", "O")]),
        "few-texts": lambda n: np.array(["a", "b", None, "c"] * (n // 4), dtype=object),
        "texts-of-a-subclass": lambda n: np.array([np.str_(i) for i in range(n)], dtype=object),
        "texts-and-nan": lambda n: np.array([*map(str, range(n - 1)), float("nan")], dtype=object),
        "texts-and-bytes": lambda n: np.array([*map(str, range(n - 1)), b"x"], dtype=object),
        "lone-surrogates": lambda n: np.array([f"{i}\ud800" for i in range(n)], dtype=object),
    },
    shared=False,
)
_each(
    "numpy",
    {
        "texts": lambda n: np.array([f"text {i} \u00e9\0" for i in range(n - 1)] + [None], dtype=object),
        "texts-fortran": lambda n: np.asfortranarray(
            np.array([f"text {i}" for i in range(2 * n)], object).reshape(n, 2)
        ),
        "texts-strided": lambda n: np.array([f"text {i}" for i in range(2 * n)], dtype=object)[::2],
    },
    shared=False,
)
if hasattr(np.dtypes, "StringDType"):
    _each(
        "numpy", {"string-dtype": lambda n: np.array(["x" * 20, "y"] * n, dtype=np.dtypes.StringDType())}, shared=False
    )


# --------------------------------------------------------------------------------------------------------- pandas


class Measured(pd.DataFrame):
    """A subclass with metadata, as geopandas has it."""

    _metadata = ["unit"]  # noqa: RUF012

    @property
    def _constructor(self) -> type[Measured]:
        return Measured


class Sealed(pd.DataFrame):
    """A subclass with its own way of pickling."""

    @property
    def _constructor(self) -> type[Sealed]:
        return Sealed

    def __reduce__(self) -> Any:
        return _unseal, (pd.DataFrame(self), "sealed")


def _unseal(frame: pd.DataFrame, seal: str) -> Sealed:
    sealed = Sealed(frame)
    sealed.attrs["seal"] = seal
    return sealed


def _floats(n: int) -> pd.DataFrame:
    return pd.DataFrame({name: np.arange(float(n)) * i for i, name in enumerate("abcdef")})


def _hours(n: int) -> pd.DatetimeIndex:
    return pd.date_range("2020-04-01", periods=n, freq="s", name="when")


def _mixed(n: int) -> pd.DataFrame:
    times = _hours(n)
    numbers = np.arange(n)
    frame = pd.DataFrame(
        {
            "i": numbers,
            "j": numbers * 2,
            "f": numbers * 1.5,
            "f4": numbers.astype("f4"),
            "b": numbers % 2 == 0,
            "t": times,
            "u": times,
            "tz": times.tz_localize("Europe/Paris"),
            "td": pd.to_timedelta(numbers, "s"),
            "c": pd.Categorical.from_codes(numbers % 3, ["x", "y", "z"], ordered=True),
            "I": pd.array(numbers, "Int64"),
            "B": pd.array(numbers % 2 == 0, "boolean"),
            "F": pd.array(numbers, "Float64"),
            "p": pd.period_range("2020", periods=n, freq="s"),
            "iv": pd.arrays.IntervalArray.from_breaks(np.arange(n + 1)),
            "sp": pd.arrays.SparseArray((numbers % 3) * 1.0),
        }
    )
    frame.loc[n // 2, ["I", "F", "B", "t", "p"]] = None
    return frame


def _one_by_one(n: int) -> pd.DataFrame:
    frame = pd.DataFrame(index=range(n))
    for i in range(20):
        frame[f"c{i}"] = np.arange(n) * (1.5 if i % 2 else 1)
    frame["t"] = _hours(n)
    frame.insert(3, "s", pd.array(["x"] * n, "string[pyarrow]"))
    return frame


def _with_everything(n: int) -> pd.DataFrame:
    frame = _floats(n)
    frame.attrs = {"source": "test", "weights": np.arange(n)}
    frame.columns.name = "columns"
    frame.index.name = "rows"
    return frame.set_flags(allows_duplicate_labels=False)


def _measured(n: int) -> pd.DataFrame:
    frame = Measured(_floats(n))
    frame.unit = "cm"
    return frame


def _read_only_frame(n: int) -> pd.DataFrame:
    return pd.DataFrame(_read_only(np.arange(4.0 * n).reshape(n, 4)), copy=False)


_each(
    "pandas",
    {
        "floats": _floats,
        "transposed": lambda n: _floats(n // 10).T,
        "rows": lambda n: _floats(3 * n)[n : 2 * n],
        "every-other-row": lambda n: _floats(2 * n)[::2],
        "reversed": lambda n: _floats(n)[::-1],
        "over-a-c-array": lambda n: pd.DataFrame(np.arange(4.0 * n).reshape(n, 4), copy=False)[3:-3],
        "over-a-fortran-array": lambda n: pd.DataFrame(np.asfortranarray(np.ones((n, 4))), copy=False)[3:-3],
        "over-a-read-only-array": _read_only_frame,
        "over-a-broadcast-array": lambda n: pd.DataFrame(np.broadcast_to(np.arange(n), (4, n)).T, copy=False),
        "over-one-number": lambda n: pd.DataFrame(np.broadcast_to(2.5, (n, 4)), copy=False),
        "over-sliding-windows": lambda n: pd.DataFrame(sliding_window_view(np.arange(n + 3.0), 4), copy=False),
        "one-array-twice": lambda n: pd.DataFrame({"a": (one := pd.Series(np.arange(n))), "b": one}, copy=False),
        "columns": lambda n: _floats(n)[["e", "a"]],
        "column-range": lambda n: _floats(n).iloc[:, 1:5:2],
        "mixed": _mixed,
        "mixed-rows": lambda n: _mixed(2 * n)[n // 2 : n],
        "mixed-every-other-row": lambda n: _mixed(2 * n)[::2],
        "columns-added-one-by-one": _one_by_one,
        "columns-added-one-by-one-rows": lambda n: _one_by_one(2 * n)[::2],
        "duplicate-columns": lambda n: pd.DataFrame(np.ones((n, 3)), columns=["a", "a", 0]),
        "duplicate-index": lambda n: pd.DataFrame({"a": np.arange(n)}, index=np.zeros(n)),
        "attrs-names-flags": _with_everything,
        "multiindex": lambda n: _floats(n).set_index(["a", "b"]),
        "multiindex-rows": lambda n: _floats(2 * n).set_index(["a", "b"])[5:n],
        "multiindex-columns": lambda n: pd.DataFrame(
            np.ones((n, 4)), columns=pd.MultiIndex.from_product([[1, 2], list("ab")])
        ),
        "by-time": lambda n: pd.DataFrame({"a": np.arange(n)}, index=_hours(n)),
        "half-floats": lambda n: pd.DataFrame(np.ones((n, 3), "f2")),
        "big-endian": lambda n: pd.DataFrame(np.ones((n, 3), ">f8")),
        "complex": lambda n: pd.DataFrame(np.ones((n, 3), complex)),
        "datetime-units": lambda n: pd.DataFrame({u: np.arange(n).astype(f"M8[{u}]") for u in ("s", "ms", "us", "ns")}),
        "two-zoned-columns-rows": lambda n: pd.DataFrame({c: _hours(n).tz_localize("UTC") for c in "ab"})[5:-5],
        "subclass": _measured,
        "subclass-with-own-pickling": lambda n: Sealed(_floats(n)),
        "series": lambda n: pd.Series(np.arange(n), name=("a", 1)),
        "series-slice": lambda n: pd.Series(np.arange(2 * n))[n // 2 : n],
        "series-by-time": lambda n: pd.Series(np.arange(n), index=_hours(n)),
        "series-strided": lambda n: pd.Series(np.arange(2 * n))[::2],
        "series-of-a-frame": lambda n: _floats(n)["c"],
        "row-of-a-frame": lambda n: _floats(n // 2).T.iloc[3],
        "categorical": lambda n: pd.Series(pd.Categorical(np.arange(n) // 2)),
        "sparse": lambda n: pd.Series(pd.arrays.SparseArray(np.arange(n) % 5, fill_value=0)),
        "masked": lambda n: pd.Series(pd.array([1, None] * (n // 2), "Int16")),
        "masked-slice": lambda n: pd.Series(pd.array([1, None] * n, "boolean"))[3:n],
        "arrow-text": lambda n: pd.Series([f"t{i}" for i in range(n)], dtype="string[pyarrow]"),
        "arrow-text-slice": lambda n: pd.Series([f"t{i}" for i in range(2 * n)], dtype="string[pyarrow]")[9:n],
        "arrow-numbers": lambda n: pd.Series([1, None] * (n // 2), dtype=pd.ArrowDtype(pa.int32())),
        "arrow-lists": lambda n: pd.Series([[1, 2], None] * (n // 2), dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
        "arrow-decimals": lambda n: pd.Series(pa.array(range(n)).cast(pa.decimal128(20)).to_pandas()).astype(
            pd.ArrowDtype(pa.decimal128(20))
        ),
        "arrow-many-chunks": lambda n: pd.concat([pd.Series(range(n), dtype=pd.ArrowDtype(pa.int64()))] * 3),
        "index": lambda n: pd.Index(np.arange(n) * 2, name="i"),
        "index-of-floats": lambda n: pd.Index(np.arange(n) * 1.5),
        "index-slice": lambda n: pd.Index(np.arange(2 * n) * 3)[::2],
        "index-of-bools": lambda n: pd.Index(np.arange(n) % 2 == 0),
        "index-of-masked": lambda n: pd.Index(pd.array([1, None] * (n // 2), "Int64")),
        "index-of-times": _hours,
        "index-of-times-slice": lambda n: _hours(2 * n)[5::2],
        "index-of-zoned-times": lambda n: _hours(n).tz_localize("Europe/Paris"),
        "index-of-timedeltas": lambda n: pd.timedelta_range(0, periods=n, freq="s"),
        "index-of-periods": lambda n: pd.period_range("2020", periods=n, freq="D"),
        "index-of-intervals": lambda n: pd.interval_range(0, n, closed="left"),
        "index-of-categories": lambda n: pd.CategoricalIndex(np.arange(n) % 7, ordered=True),
        "index-of-many": lambda n: pd.MultiIndex.from_product([["a", "b"], range(n // 2)], names=["x", None]),
        "array-of-numpy": lambda n: pd.Series(pd.arrays.NumpyExtensionArray(np.arange(n))),
        "array-of-intervals": lambda n: pd.arrays.IntervalArray.from_breaks(range(n)),
        "array-masked": lambda n: pd.array([1.5, None] * (n // 2), "Float32"),
    },
)
_each(
    "pandas",
    {
        "sparse-blocks": lambda n: pd.Series(pd.arrays.SparseArray(np.arange(n) % 5, fill_value=0, kind="block")),
        "empty": lambda n: pd.DataFrame(),
        "empty-series": lambda n: pd.Series([], dtype="f4"),
        "no-rows": lambda n: _mixed(n)[:0],
        "no-columns": lambda n: _floats(n)[[]],
        "range-index": lambda n: pd.RangeIndex(3, n, 5, name="r"),
        "objects": lambda n: pd.DataFrame({"o": [1, "x", None, [1]] * (n // 4)}),
        "object-texts": lambda n: pd.DataFrame({"o": [f"text {i}" for i in range(n)], "p": "same"}, dtype=object),
        "object-texts-and-nan": lambda n: pd.Series([f"text {i}" for i in range(n)] + [np.nan], dtype=object),
        "python-text": lambda n: pd.Series([f"t{i}" for i in range(n - 1)] + [None], dtype="string[python]"),
        "default-text": lambda n: pd.DataFrame({"s": [f"t{i}" for i in range(n - 1)] + [None]}),
        "index-of-default-text": lambda n: pd.Index([f"t{i}" for i in range(n)]),
        "timestamp": lambda n: pd.Timestamp("2020-01-01", tz="Europe/Paris"),
        "groups": lambda n: {key: group for key, group in _floats(n).groupby(np.arange(n) // (n // 4))},  # noqa: C416
    },
    shared=False,
)
if PANDAS_3:
    _each(
        "pandas",
        {
            "str-in-arrow": lambda n: pd.Series(
                [f"t{i}" for i in range(n)], dtype=pd.StringDtype("pyarrow", na_value=np.nan)
            )
        },
    )
    _each(
        "pandas",
        {
            "str-in-python": lambda n: pd.Series(
                [f"t{i}" for i in range(n - 1)] + [None], dtype=pd.StringDtype("python", na_value=np.nan)
            )
        },
        shared=False,
    )


# ---------------------------------------------------------------------------------------------------------- arrow


class Kelvin(pa.ExtensionType):
    """An extension type that is not registered."""

    def __init__(self) -> None:
        super().__init__(pa.float64(), "tests.kelvin")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Kelvin:
        return cls()


def _alternating(type_: pa.DataType, *values: Any) -> Callable[[int], pa.Array]:
    return lambda n: pa.array((values * (n // len(values) + 1))[:n], type_)


def _half(n: int) -> pa.Array:
    return pa.array(np.arange(n // 2, dtype="i4"))


def _lists_of(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, 2, dtype="i4")), values)


ARROW_ARRAYS: dict[str, Callable[[int], pa.Array]] = {
    "int8": _alternating(pa.int8(), 1, None, 3),
    "int64": lambda n: pa.array(np.arange(n)),
    "bool": _alternating(pa.bool_(), True, None, False),
    "float16": lambda n: pa.array(np.ones(n, "f2")),
    "float-nan": _alternating(pa.float64(), 1.5, float("nan"), None),
    "string": _alternating(pa.string(), "a", None, "ccc"),
    "large-string": _alternating(pa.large_string(), "a", None, "ccc"),
    "string-view": _alternating(pa.string_view(), "a", None, "c" * 30),
    "binary-view": _alternating(pa.binary_view(), b"a", None, b"c" * 30),
    "binary": _alternating(pa.binary(), b"a", None, b""),
    "fixed-binary": _alternating(pa.binary(3), b"abc", None),
    "decimal128": _alternating(pa.decimal128(30, 2), decimal.Decimal("1.25"), None),
    "decimal256": _alternating(pa.decimal256(50, 2), decimal.Decimal("1.25"), None),
    "timestamp": _alternating(pa.timestamp("us", "Europe/Paris"), 1, None),
    "date32": _alternating(pa.date32(), datetime.date(2020, 1, 1), None),
    "duration": _alternating(pa.duration("s"), 1, None),
    "month-day-nano": _alternating(pa.month_day_nano_interval(), (1, 2, 3), None),
    "list": _alternating(pa.list_(pa.int64()), [1, 2], None, []),
    "list-named": _alternating(pa.list_(pa.field("x", pa.int8(), False, {"k": "v"})), [1, 2], None, []),
    "large-list": _alternating(pa.large_list(pa.int16()), [1, 2], None, []),
    "list-view": _alternating(pa.list_view(pa.int16()), [1, 2], None, []),
    "fixed-list": _alternating(pa.list_(pa.int8(), 2), [1, 2], None),
    "map": _alternating(pa.map_(pa.string(), pa.int32()), [("a", 1)], None),
    "struct": _alternating(pa.struct({"a": pa.int64(), "b": pa.string()}), {"a": 1, "b": "x"}, None),
    "deep": _alternating(pa.list_(pa.struct({"a": pa.list_(pa.string())})), [{"a": ["x", None]}], None, []),
    "dictionary": lambda n: _alternating(pa.string(), "a", "b", None)(n).dictionary_encode(),
    "dictionary-ordered": lambda n: pa.DictionaryArray.from_arrays(
        pa.array(np.arange(n, dtype="i1") % 2), ["x", "y"], ordered=True
    ),
    "dictionary-of-lists": lambda n: pa.DictionaryArray.from_arrays(
        pa.array(np.arange(n, dtype="i1") % 2), pa.array([[1], [2, 3]])
    ),
    "list-of-dictionary": lambda n: _lists_of(_alternating(pa.string(), "a", "b")(n // 2 * 2).dictionary_encode()),
    "run-ends": lambda n: pa.RunEndEncodedArray.from_arrays(
        np.arange(2, n + 2, 2, dtype="i4"), pa.array(np.arange((n + 1) // 2))
    ),
    "sparse-union": lambda n: pa.UnionArray.from_sparse(
        pa.array(np.arange(n, dtype="i1") % 2), [pa.array(np.arange(n)), _alternating(pa.string(), "a", "b")(n)]
    ),
    "dense-union": lambda n: pa.UnionArray.from_dense(
        pa.array(np.arange(n // 2 * 2) % 2, pa.int8()),
        pa.array(np.repeat(np.arange(n // 2), 2), pa.int32()),
        [_half(n), _half(n).cast(pa.string())],
    ),
    "tensor": lambda n: pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6.0 * n).reshape(n, 2, 3)),
    "unregistered": lambda n: pa.ExtensionArray.from_storage(Kelvin(), pa.array(np.arange(float(n)))),
    "list-of-unregistered": lambda n: _lists_of(
        pa.ExtensionArray.from_storage(Kelvin(), pa.array(np.arange(float(n // 2 * 2))))
    ),
}
if hasattr(pa, "bool8"):
    ARROW_ARRAYS |= {
        "bool8": lambda n: pa.ExtensionArray.from_storage(pa.bool8(), pa.array(np.arange(n) % 2, pa.int8())),
        "uuid": lambda n: pa.ExtensionArray.from_storage(pa.uuid(), _alternating(pa.binary(16), b"x" * 16, None)(n)),
    }


def _table(n: int) -> pa.Table:
    table = pa.table({"a": np.arange(n), "s": _alternating(pa.string(), "x", None)(n), "d": np.ones(n)})
    field = pa.field("a", pa.int64(), nullable=False, metadata={"unit": "m"})
    return table.cast(table.schema.set(0, field).with_metadata({"who": "tests", b"\xff": b"\0"}))


_each("arrow", {f"array-{name}": make for name, make in ARROW_ARRAYS.items()})
_each(
    "arrow",
    {f"slice-{name}": lambda n, make=make: make(2 * n).slice(n // 3 + 1, n) for name, make in ARROW_ARRAYS.items()},
)
_each(
    "arrow",
    {
        "table": _table,
        "table-slice": lambda n: _table(4 * n).slice(n + 1, n),
        "table-from-pandas": lambda n: pa.Table.from_pandas(_floats(n).set_index("a")),
        "table-many-chunks": lambda n: pa.concat_tables([_table(n), _table(n // 2)]),
        "table-ragged-chunks": lambda n: pa.table(
            {"a": pa.chunked_array([range(n), range(5)]), "b": pa.chunked_array([range(3), range(n + 2)])}
        ),
        "table-empty-chunks": lambda n: pa.table({"a": pa.chunked_array([range(n), [], range(n)])}),
        "table-duplicate-names": lambda n: pa.table([np.arange(n), np.ones(n)], names=["a", "a"]),
        "table-dictionaries-differ": lambda n: pa.concat_tables(
            [pa.table({"d": pa.array(words * n).dictionary_encode()}) for words in (["a", "b"], ["b", "c", "d"])]
        ),
        "table-of-awkward-columns": lambda n: pa.table(
            {name: make(n // 4 * 4) for name, make in ARROW_ARRAYS.items() if not name.startswith("list-of")}
        ),
        "batch": lambda n: _table(n).to_batches()[0],
        "batch-slice": lambda n: _table(3 * n).to_batches()[0].slice(7, n),
        "chunked": lambda n: pa.chunked_array([_half(n), _half(n).slice(3, 1), _half(n).slice(0, 0)]),
        "buffer": lambda n: pa.py_buffer(b"x" * n),
        "buffer-mutable": lambda n: pa.py_buffer(bytearray(b"x" * n)),
        "buffer-slice": lambda n: pa.py_buffer(b"xy" * n).slice(5, n),
        "list-of-buffers": lambda n: [pa.py_buffer(np.arange(n)), pa.array(np.arange(n)).buffers()[1]],
    },
)
_each(
    "arrow",
    {
        "nulls": lambda n: pa.nulls(n),
        "no-chunks": lambda n: pa.chunked_array([], pa.dictionary(pa.int8(), pa.string())),
        "no-columns": lambda n: _table(n).select([]),
        "no-rows": lambda n: _table(n).slice(3, 0),
        "no-rows-of-dictionary": lambda n: ARROW_ARRAYS["dictionary"](n).slice(3, 0),
        "table-without-chunks": lambda n: _table(n).schema.empty_table(),
        "batch-without-columns": lambda n: pa.record_batch({}),
        "schema": lambda n: _table(n).schema,
        "scalar": lambda n: pa.scalar([1, 2]),
    },
    shared=False,
)


# --------------------------------------------------------------------------------------------------------- others

if importlib.util.find_spec("polars"):
    import polars as pl

    _POLARS: dict[str, tuple[list[Any], Any]] = {
        "int": ([1, None], pl.Int32),
        "float": ([1.5, float("nan"), None], pl.Float32),
        "bool": ([True, None], pl.Boolean),
        "string": (["x" * 20, None, "b"], pl.String),
        "binary": ([b"x" * 20, None], pl.Binary),
        "categorical": (["a", None, "b"], pl.Categorical),
        "enum": (["x", None], pl.Enum(["x", "y"])),
        "decimal": ([decimal.Decimal("1.20"), None], pl.Decimal(20, 2)),
        "datetime": ([datetime.datetime(2020, 1, 1), None], pl.Datetime("ms", "Europe/Paris")),
        "date": ([datetime.date(2020, 1, 1)], pl.Date),
        "time": ([datetime.time(1, 2)], pl.Time),
        "duration": ([datetime.timedelta(1)], pl.Duration("us")),
        "list": ([[1, 2], None, []], pl.List(pl.Int16)),
        "array": ([[1, 2], None], pl.Array(pl.Int8, 2)),
        "struct": ([{"a": 1, "b": "x"}, None], pl.Struct({"a": pl.Int8, "b": pl.String})),
        "list-of-categorical": ([["a"], ["b", None]], pl.List(pl.Categorical)),
        "struct-of-enum": ([{"e": "x"}], pl.Struct({"e": pl.Enum(["x", "y"])})),
    }

    def _series(name: str, n: int) -> pl.Series:
        values, dtype = _POLARS[name]
        # One chunk and no knowledge of order, as in a column that was read from somewhere.
        return pl.Series(name, (values * n)[:n], dtype=dtype)

    # On arrival, polars makes new codes for categories and new validity for structs, and copies 16-byte numbers unless
    # they happen to be aligned.
    _COPIED = ["categorical", "enum", "list-of-categorical", "struct", "struct-of-enum", "decimal"]
    if int(pl.__version__.split(".")[0]) < 2:
        _COPIED.append("array")  # whose slices it exports wrongly: they go by pickle
    for _name in _POLARS:
        _shared = _name not in _COPIED
        _each("polars", {f"series-{_name}": lambda n, name=_name: _series(name, n)}, shared=_shared)
        _each("polars", {f"slice-{_name}": lambda n, name=_name: _series(name, 2 * n)[n // 2 + 1 : n]}, shared=_shared)
    _each(
        "polars",
        {
            "frame": lambda n: pl.DataFrame([_series(name, n) for name in _POLARS if name not in _COPIED]),
            "frame-slice": lambda n: pl.DataFrame([_series(name, n) for name in _POLARS if name not in _COPIED])[
                5 : n - 5
            ],
            "frame-of-chunks": lambda n: pl.concat([pl.DataFrame({"a": range(n)})] * 3, rechunk=False),
            "frame-sorted": lambda n: pl.DataFrame({"a": range(n), "b": range(n)}).sort("b", descending=True),
        },
    )
    _each(
        "polars",
        {
            "empty": lambda n: pl.DataFrame(),
            "no-rows": lambda n: pl.DataFrame([_series(name, n) for name in _POLARS])[:0],
            "nulls": lambda n: pl.Series("n", [None] * n),
            "lazy": lambda n: pl.LazyFrame({"a": range(n)}).filter(pl.col("a") > 3),
        },
        shared=False,
    )

    if hasattr(pl, "Int128"):
        _each("polars", {"int128": lambda n: pl.Series("i", [1, None] * n, dtype=pl.Int128)}, shared=False)

if importlib.util.find_spec("scipy"):
    import scipy.sparse

    def _sparse(kind: str, n: int) -> Any:
        rows = np.arange(3 * n) // 3
        columns = (rows + np.tile([0, n // 3, n // 2 + 1], n)) % n
        return scipy.sparse.coo_array((np.arange(3.0 * n), (rows, columns)), (n, n)).asformat(kind)

    _each("scipy", {kind: partial(_sparse, kind) for kind in ("csr", "csc", "coo", "bsr")})

if importlib.util.find_spec("xarray"):
    import xarray

    def _data_array(n: int) -> Any:
        return xarray.DataArray(
            np.arange(3.0 * n).reshape(n, 3),
            dims=("t", "x"),
            coords={"t": ("t", _hours(n))},
            attrs={"unit": "m"},
            name="q",
        )

    _each(
        "xarray", {"array": _data_array, "dataset": lambda n: _data_array(n).to_dataset().assign(k=("t", np.arange(n)))}
    )
