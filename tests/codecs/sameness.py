"""The facts about an object that was moved: two objects are the same if `facts` returns the same for both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

#: Where extension arrays of pandas keep what they are made of.
_PARTS = ("_ndarray", "_data", "_mask", "_left", "_right", "_sparse_values", "_sparse_index", "categories")


def facts(obj: Any) -> Any:
    """All that users can see of an object, in values that compare: types, layout, flags, names and every bit."""
    library = type(obj).__module__.partition(".")[0]
    if isinstance(obj, np.ma.MaskedArray):
        state = {name: repr(value) for name, value in vars(obj).items() if name != "_mask"}
        return type(obj), state, facts(obj.data), facts(np.ma.getmaskarray(obj))
    if isinstance(obj, np.ndarray):
        return _facts_of_ndarray(obj)
    if isinstance(obj, (pd.DataFrame, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        return _facts_of_pandas(obj)
    if library == "pyarrow":
        return _facts_of_arrow(obj)
    if library == "polars":
        return _facts_of_polars(obj)
    if library == "scipy":
        return type(obj), obj.shape, [facts(part) for part in _parts_of_sparse(obj)]
    if library == "xarray":
        variables = obj.variables if hasattr(obj, "variables") else {"": obj.variable, **obj.coords}
        seen = {str(name): (v.dims, facts(v.values), v.attrs) for name, v in variables.items()}
        return type(obj), getattr(obj, "name", None), seen, dict(obj.sizes), obj.attrs
    if isinstance(obj, dict):
        return type(obj), [(facts(key), facts(value)) for key, value in obj.items()]
    if isinstance(obj, (list, tuple)):
        return type(obj), [facts(item) for item in obj]
    return type(obj), repr(obj)


def _facts_of_ndarray(array: np.ndarray) -> Any:
    flags = array.flags
    layout = flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    plain = array.view(np.ndarray)
    content = [facts(item) for item in plain.ravel().tolist()] if plain.dtype.hasobject else plain.tobytes("A")
    if type(array).__name__ == "Annotated":
        content = (content, array.note)
    return type(array), array.dtype, array.dtype.type, array.dtype.metadata, array.shape, layout, content


def _facts_of_pandas(obj: Any) -> Any:
    if isinstance(obj, (pd.DataFrame, pd.Series)):
        blocks = [(type(b), b.mgr_locs.as_array.tolist(), b.ndim, facts(b.values)) for b in obj._mgr.blocks]
        extra = {name: getattr(obj, name, None) for name in obj._metadata}
        axes = [facts(axis) for axis in obj._mgr.axes]
        return type(obj), blocks, axes, facts(obj.attrs), obj.flags.allows_duplicate_labels, extra
    if isinstance(obj, pd.MultiIndex):
        return type(obj), obj.names, [facts(level) for level in obj.levels], [facts(np.asarray(c)) for c in obj.codes]
    if isinstance(obj, pd.RangeIndex):
        return type(obj), obj.name, obj.start, obj.stop, obj.step
    if isinstance(obj, pd.Index):
        return type(obj), obj.name, repr(getattr(obj, "freq", None)), facts(obj._data)
    return type(obj), obj.dtype, getattr(obj, "_readonly", False), [facts(part) for part in _parts_of_extension(obj)]


def _parts_of_extension(array: Any) -> list[Any]:
    if hasattr(array, "_pa_array"):
        return [array._pa_array]
    parts = [getattr(array, name) for name in _PARTS if hasattr(array, name)]
    return [_indices(part) if type(part).__module__.startswith("pandas._libs") else part for part in parts]


def _indices(sparse_index: Any) -> list[np.ndarray]:
    names = ("indices", "blocs", "blengths")
    return [getattr(sparse_index, name) for name in names if hasattr(sparse_index, name)]


def _facts_of_arrow(obj: Any) -> Any:
    if isinstance(obj, (pa.Table, pa.RecordBatch)):
        return type(obj), obj.shape, facts(obj.schema), [facts(column) for column in obj.columns]
    if isinstance(obj, pa.ChunkedArray):
        return type(obj), facts(obj.type), [facts(chunk) for chunk in obj.chunks]
    if isinstance(obj, pa.Array):
        obj.validate(full=True)
        dictionary = facts(obj.dictionary) if isinstance(obj, pa.DictionaryArray) else None
        values = repr(getattr(obj, "storage", obj).to_pylist())
        return type(obj), facts(obj.type), len(obj), obj.null_count, values, dictionary
    if isinstance(obj, pa.Schema):
        return type(obj), [facts(field) for field in obj], obj.metadata
    if isinstance(obj, pa.Field):
        return type(obj), obj.name, obj.nullable, obj.metadata, facts(obj.type)
    if isinstance(obj, pa.DataType):
        inner = [facts(obj.field(i)) for i in range(obj.num_fields)]
        return type(obj), str(obj), getattr(obj, "ordered", None), inner
    if isinstance(obj, pa.Buffer):
        return pa.Buffer, obj.to_pybytes(), obj.is_mutable
    return type(obj), repr(obj)


def _facts_of_polars(obj: Any) -> Any:
    pl = sys.modules["polars"]
    if isinstance(obj, pl.LazyFrame):
        return type(obj), obj.explain()
    if isinstance(obj, pl.DataFrame):
        return type(obj), obj.shape, [facts(column) for column in obj]
    return type(obj), obj.name, obj.dtype, obj.n_chunks(), obj.flags, repr(obj.to_list())


def _parts_of_sparse(matrix: Any) -> list[np.ndarray]:
    # Older versions of scipy have no coords; newer ones have rows and columns as well.
    names = ("coords",) if hasattr(matrix, "coords") else ("row", "col")
    parts = [getattr(matrix, name) for name in (*names, "data", "indices", "indptr") if hasattr(matrix, name)]
    return [array for part in parts for array in (part if isinstance(part, tuple) else [part])]


def memory_of(obj: Any) -> Iterator[np.ndarray]:
    """Every piece of memory that an object is made of, as arrays; lists and dicts of objects included."""
    library = type(obj).__module__.partition(".")[0]
    parts: Any = ()
    if isinstance(obj, np.ma.MaskedArray):
        parts = obj.data, obj._mask
    elif isinstance(obj, np.ndarray):
        yield obj.view(np.ndarray)
    elif isinstance(obj, (pd.DataFrame, pd.Series)):
        parts = [*(block.values for block in obj._mgr.blocks), *obj._mgr.axes, obj.attrs]
    elif isinstance(obj, pd.MultiIndex):
        parts = [*obj.levels, *map(np.asarray, obj.codes)]
    elif isinstance(obj, pd.Index):
        parts = [] if isinstance(obj, pd.RangeIndex) else [obj._data]
    elif isinstance(obj, pd.api.extensions.ExtensionArray):
        parts = _parts_of_extension(obj)
    elif isinstance(obj, (pa.Table, pa.RecordBatch)):
        parts = obj.columns
    elif isinstance(obj, pa.ChunkedArray):
        parts = obj.chunks
    elif isinstance(obj, pa.Array):
        parts = [buffer for buffer in getattr(obj, "storage", obj).buffers() if buffer]
        parts += [obj.dictionary] if isinstance(obj, pa.DictionaryArray) else []
    elif isinstance(obj, pa.Buffer):
        yield np.frombuffer(obj, np.uint8)
    elif library == "polars":
        parts = [obj.to_arrow(compat_level=sys.modules["polars"].CompatLevel.newest())]
    elif library == "scipy":
        parts = _parts_of_sparse(obj)
    elif library == "xarray":
        parts = [v.values for v in (obj.variables.values() if hasattr(obj, "variables") else [obj.variable])]
    elif isinstance(obj, dict):
        parts = obj.values()
    elif isinstance(obj, (list, tuple)):
        parts = obj
    for part in parts:
        yield from memory_of(part)
