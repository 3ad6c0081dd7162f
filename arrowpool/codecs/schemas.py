"""Schemas of Arrow: which of them an IPC stream delivers exactly, and the bytes that stand for one in a message.

Called by the Arrow codec and the shelf. A small table is the bytes of its schema and a message of IPC for each batch. The bytes
are always the same object for equal schemas, so that pickle's memo writes them once a message; a receiver keeps what it has read
from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from arrowpool.codecs.recent import Recent

__all__ = ["Carried", "carried", "schema_of"]

_LIMIT = 128
#: Longer schemas are not remembered.
_LONGEST = 8192
#: In a field's metadata, this names an extension type: readers that know the type make it of the field.
_EXTENSION = b"ARROW:extension:name"
_DENSE_UNION, _DICTIONARY = pa.lib.Type_DENSE_UNION, pa.lib.Type_DICTIONARY


class Carried(NamedTuple):
    """What IPC does with a schema: whether it delivers types and values exactly; and the bytes of the schema.

    Without bytes, batches need a stream: the schema is long, or dictionaries lie next to the batches.
    """

    exactly: bool
    token: bytes | None


_NOT_AT_ALL = Carried(False, None)
#: By the bytes of the schema, which say all of it but extension types; those have an entry that is not carried.
_known: Recent[bytes, Carried] = Recent(_LIMIT)
_schemas: Recent[bytes, pa.Schema] = Recent(_LIMIT)


def carried(schema: pa.Schema) -> Carried:
    """What IPC does with this schema, in any process."""
    try:
        written = schema.serialize().to_pybytes()
    except pa.ArrowNotImplementedError:  # types that this version of Arrow has, but not in IPC
        return _NOT_AT_ALL
    if len(written) > _LONGEST:
        return _look_at(schema, written)._replace(token=None)
    found = _known.get(written)
    if found is None:
        found = _look_at(schema, written)
        _known.put(written, found)
    return found


def schema_of(token: bytes) -> pa.Schema:
    """The schema that these bytes stand for."""
    return _schemas.of(token, _read)


def _read(token: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(token))


def _look_at(schema: pa.Schema, written: bytes) -> Carried:
    types = schema.types
    if _EXTENSION in written or not _survive(types):
        return _NOT_AT_ALL
    return Carried(True, None if _have_dictionaries(types) else written)


def _survive(types: Iterable[pa.DataType]) -> bool:
    for type_ in types:
        # An extension type arrives as its storage in a process that has not registered it; in others, its field gets empty metadata
        # instead of none. The IPC writer rewrites the offsets of a dense union, and assumes that they only grow.
        if isinstance(type_, pa.BaseExtensionType) or type_.id == _DENSE_UNION:
            return False
        if type_.id == _DICTIONARY and not _survive([type_.value_type]):
            return False
        if type_.num_fields and not _survive(type_.field(i).type for i in range(type_.num_fields)):
            return False
    return True


def _have_dictionaries(types: Iterable[pa.DataType]) -> bool:
    return any(
        type_.id == _DICTIONARY or _have_dictionaries(type_.field(i).type for i in range(type_.num_fields))
        for type_ in types
    )
