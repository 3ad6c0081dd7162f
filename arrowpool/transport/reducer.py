"""The reducer: one object in, a pickle stream and the large memory it refers to out.

Called by `wire`, which decides where that memory goes. Guarantees: what `loads` returns equals what plain pickle
would have delivered; the stream holds no payload of `inline_limit` bytes or more that a codec could take out of it.
Functions and classes go by reference where `functions` says that the worker finds the same, else by value.
"""

from __future__ import annotations

import copyreg
import functools
import heapq
import io
import pickle
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, cast

import cloudpickle
import numpy as np
from cloudpickle import cloudpickle as by_value

from arrowpool.codecs import ByteArray, Encode, encoder_for, extents, library_of
from arrowpool.codecs.numpy import bounds
from arrowpool.memory import platform
from arrowpool.memory.mapping import Lease, lease_under
from arrowpool.transport.by_value import (
    came_by_value,
    is_dispatched,
    is_whole,
    reduce_cached,
    reduce_cached_property,
    reduce_class,
    reduce_dispatched,
    reduce_known_class,
)
from arrowpool.transport.resolution import Reach, main_globals
from arrowpool.tuning import OWN_SEGMENT

_dump = pickle.Pickler.dump
_UNKNOWN = (None, None)
_EMPTY: Any = np.empty(0, dtype=np.uint8)
_NOWHERE = io.BytesIO()
#: By the type's id: its codec, None for "plain pickle"; whether its objects may be shared as a whole; and whether reducing them
#: runs code that may give any memory, and write to it again for the next object. An entry ends with
#: its type, of which `_types` knows by weak references: a class that is defined again and again is not kept alive.
_encoders: dict[int, tuple[Encode | None, bool, bool]] = {}
_types: dict[int, weakref.ref[type]] = {}
#: See `_registered_by_now`.
_registered: dict[type, Any] = {}


class Window(NamedTuple):
    """A part of a shared object that is plain memory: where in it, and which of this message's private copies of it."""

    offset: int
    nbytes: int
    copy: int


class Unit:
    """One thing that leaves the stream: memory, with its size and how to write it into its place; or the number of an
    object that is shared as a whole and was placed before, or a window of that. The memory may lie in a `lease` of ours."""

    __slots__ = ("_source", "_write", "is_own", "lease", "nbytes", "shared_object", "window")

    def __init__(
        self,
        nbytes: int,
        source: Any = None,
        write: Callable[[ByteArray], None] | None = None,
        shared_object: int | None = None,
        window: Window | None = None,
        lease: Lease | None = None,
        is_own: bool = False,
    ):
        #: Whether its memory is a copy that nobody else has.
        self.is_own = is_own
        self.nbytes = nbytes
        self.lease = lease
        self.shared_object = shared_object
        self.window = window
        self._source = source
        self._write = write

    def is_as(self, placed: Unit, room: ByteArray | None) -> bool:
        """Whether this is what `placed` was when it was copied into `room`, or left where it lay if that is None."""
        if (self.nbytes, self.shared_object, self.window) != (placed.nbytes, placed.shared_object, placed.window):
            return False
        if self.shared_object is not None:
            return True
        if self.lease is not None or placed.lease is not None:
            return self.lease is placed.lease and self.offset == placed.offset
        assert room is not None
        # Also where nobody is to change it in place: Arrow memory may be that of a NumPy array.
        return self._is_in(room)

    def _is_in(self, room: ByteArray) -> bool:
        """Whether its bytes are those of `room`."""
        source = self._source
        if self._write is not None:
            source = np.empty(self.nbytes, dtype=np.uint8)
            self._write(source)
        if source.flags.c_contiguous:
            return platform.are_equal(source.ctypes.data, room.ctypes.data, self.nbytes)
        target = room.view(source.dtype).reshape(source.shape)
        step = max(1, len(source) * _COMPARED // self.nbytes)
        for at in range(0, len(source), step):
            piece = np.ascontiguousarray(source[at : at + step])
            if not platform.are_equal(piece.ctypes.data, target[at : at + step].ctypes.data, piece.nbytes):
                return False
        return True

    @property
    def offset(self) -> int:
        """Where in the lease it begins."""
        assert self.lease is not None
        offset: int = self._source.ctypes.data - self.lease.address
        return offset

    def copy_to(self, room: ByteArray) -> None:
        """Write this unit into `room`, a writable uint8 array of exactly `nbytes`."""
        for copy in self.copies_to(room, self.nbytes):
            copy()

    def copies_to(self, room: ByteArray, piece: int) -> list[Callable[[], Any]]:
        """The same, as independent pieces of about `piece` bytes where the memory can be divided."""
        if self._write is not None:
            return [functools.partial(self._write, room)]
        source = self._source
        target = room.view(source.dtype).reshape(source.shape)
        if self.nbytes <= piece or source.ndim == 0 or len(source) < 2:
            return [functools.partial(np.copyto, target, source)]
        step = max(1, len(source) * piece // self.nbytes)
        return [
            functools.partial(np.copyto, target[at : at + step], source[at : at + step])
            for at in range(0, len(source), step)
        ]


#: Strided memory is compared in pieces of this many bytes.
_COMPARED = 1 << 20
_DISPATCH_TABLE = cast(types.MemberDescriptorType, pickle.Pickler.__dict__["dispatch_table"])


class _MainGlobals:
    """Stands for the globals of a function from ``__main__``; becomes the worker's own."""

    def __init__(self, live: bool):
        self._live = live

    def __reduce__(self) -> tuple[Any, tuple[bool]]:
        return main_globals, (self._live,)


class Seen:
    """The objects that went into a stream, which it keeps alive: so that no other object can have one of their ids."""

    __slots__ = ("_pickler", "globals_ref")

    def __init__(self, reducer: Reducer):
        # A pickler's memo is a table in C, and quickly copied, but only from one pickler to another.
        self._pickler = pickle.Pickler(_NOWHERE)
        self._pickler.memo = reducer.memo
        self.globals_ref = reducer.globals_ref

    @property
    def memo(self) -> Any:
        return self._pickler.memo


class Reducer(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that puts large memory aside, as units in the order in which `loads` will ask for them.

    Used again and again: one per sending thread.

    Parameters
    ----------
    inline_limit : int
        Payloads of fewer bytes stay in the stream.
    reach : Reach, optional
        What the receiver can resolve by name; the rest goes by value. Without it, functions and classes go by
        reference or not at all, as with the standard library.
    for_initializer : bool
        Whether functions that go by value shall write their globals into the receiver's ``__main__``.
    """

    def __init__(self, *, inline_limit: int, reach: Reach | None = None, for_initializer: bool = False):
        self._for_initializer = for_initializer
        self.globals_ref: dict[int, Any]
        self._stream = io.BytesIO()
        super().__init__(self._stream, protocol=5, buffer_callback=self._take_buffer)
        self.inline_limit = inline_limit
        self._reach = reach
        self._units: list[Unit] = []
        #: By id; with the token, since a codec may have thrown it away and must not get its unit mixed up with another's.
        self._placed: dict[int, tuple[pickle.PickleBuffer, Unit]] = {}
        #: Whether memory is copied when it is met, since it may be that which a reduction uses again for the next object; and
        #: what the objects had before they were reduced, by id, which is no such memory. None as long as there is no need.
        self._known: dict[int, Any] | None = None
        self._latest: list[Any] = []
        self._known_extents: list[tuple[int, int]] | None = None
        self._copies = False
        #: Given an object that a codec knows: the number under which it is shared as a whole, or None. See `encoder`.
        self.shared_number: Callable[[Any], int | None] | None = None
        #: By id, of whatever type and size: the numbers of objects that users have shared.
        self.pinned: Mapping[int, int] = {}
        #: Given an address and a size: the number of the shared object that this memory is part of, and where in it it begins.
        self.find_window: Callable[[int, int], tuple[int, int] | None] | None = None
        #: Whether what lies in somebody else's memory may be left there.
        self.lends = False
        #: Whether something goes in a way that may be wrong, since no worker has told yet what it has; whoever asks resets it.
        self.guessed = False
        #: By number: up to where the writable windows of each copy reach, the first to end first. See `place_window`.
        self._reach_of_copies: dict[int, list[tuple[int, int]]] = {}
        #: What others have registered for pickling, when it was last looked at.
        self._registered: dict[type, Any] | None = None
        self.refresh()

    def refresh(self) -> None:
        """See reducers that were registered since the last time, with `copyreg` or by `multiprocessing`."""
        registered = _registered_by_now()
        if registered is self._registered:
            return
        self._registered = registered
        table: dict[type, Any] = {}
        if self._reach is not None:
            table |= cloudpickle.Pickler._dispatch_table
            # By value, an open file would become a copy of its text: that is an error, as with the standard library.
            table.pop(io.TextIOWrapper, None)
            table[functools.cached_property] = reduce_cached_property
        # Past cloudpickle's class attribute of that name, which would only be hidden from Python, not from pickle's C code.
        _DISPATCH_TABLE.__set__(self, table | registered)

    def reduce(self, obj: Any, after: Seen | None = None) -> tuple[bytes, list[Unit]]:
        """The stream and the units of one object.

        Parameters
        ----------
        obj : object
            What to take apart.
        after : Seen, optional
            What the receiver will have loaded just before, with the same unpickler: see `loads_in_turn`. What occurs in
            both is the same object there.
        """
        stream, units, _ = self._reduce(obj, after, note=False)
        return stream, units

    def reduce_and_note(self, obj: Any) -> tuple[bytes, list[Unit], Seen]:
        """The same, and what there is in it."""
        return self._reduce(obj, None, note=True)

    def _reduce(self, obj: Any, after: Seen | None, note: bool) -> tuple[bytes, list[Unit], Any]:
        stream = self._stream
        try:
            if after is not None:
                self.memo = after.memo
                self.globals_ref = {**after.globals_ref}
            # Past cloudpickle's own `dump`, which only rewords a RecursionError.
            _dump(self, obj)
            return stream.getvalue(), self._units, Seen(self) if note else None
        finally:
            stream.seek(0)
            stream.truncate()
            self.clear_memo()
            self._units = []  # another one, as this may have been returned
            if self._placed:
                self._placed = {}
            if self._known is not None:
                self._known, self._known_extents, self._copies, self._latest = None, None, False, []
            if self._reach_of_copies:
                self._reach_of_copies = {}
            if self.globals_ref:
                self.globals_ref = {}

    def place(self, array: np.ndarray[Any, Any]) -> pickle.PickleBuffer:
        if self._copies and not self._is_known(array):
            return self._token(Unit(array.nbytes, array.copy(), is_own=True))
        lease = lease_under(array) if self.lends and array.nbytes >= OWN_SEGMENT and array.flags.c_contiguous else None
        return self._token(Unit(array.nbytes, array, lease=lease))

    def _is_known(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether this is memory of what the object that was met last had before it was reduced: of its arrays and frames."""
        start, stop = bounds(array)
        if self._known_extents is None:
            found = (extent for value in self._latest for extent in extents(value))
            self._known_extents = [(extent.start, extent.stop) for extent in found]
        return any(first <= start and stop <= end for first, end in self._known_extents)

    def place_with(self, nbytes: int, write: Callable[[ByteArray], None]) -> pickle.PickleBuffer:
        if self._copies:
            copy = np.empty(nbytes, dtype=np.uint8)
            write(copy)
            return self._token(Unit(nbytes, copy, is_own=True))
        return self._token(Unit(nbytes, write=write))

    def place_window(self, address: int, nbytes: int, writable: bool = True) -> pickle.PickleBuffer | None:
        found = self.find_window(address, nbytes) if self.find_window is not None else None
        if found is None:
            return None
        number, offset = found
        copy = 0
        if writable:
            # What the receiver writes to one must not show in another: those that overlap are of different copies.
            ends = self._reach_of_copies.setdefault(number, [])
            copy = heapq.heappop(ends)[1] if ends and ends[0][0] <= offset else len(ends) + 1
            heapq.heappush(ends, (offset + nbytes, copy))
        return self._token(Unit(0, shared_object=number, window=Window(offset, nbytes, copy)))

    def _token(self, unit: Unit) -> pickle.PickleBuffer:
        token = pickle.PickleBuffer(_EMPTY)
        self._placed[id(token)] = (token, unit)
        return token

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        _, unit = self._placed.pop(id(buffer), _UNKNOWN)
        if unit is None:
            # Memory that some type offers by itself (PEP 574).
            raw = buffer.raw()
            if raw.nbytes < self.inline_limit:
                return True
            source = np.frombuffer(raw, dtype=np.uint8)
            # A view that is read-only may be one of memory that is not; that of bytes never changes.
            copied = self._known is not None and type(raw.obj) is not bytes
            unit = Unit(raw.nbytes, source.copy() if copied else source, is_own=copied)
        self._units.append(unit)
        return False

    def reducer_override(self, obj: Any) -> Any:
        # Called for all but objects of pickle's own types: some 70 times a frame.
        try:
            encode, whole, packs = _encoders[id(type(obj))]
        except KeyError:
            encode, whole, packs = _find(type(obj))
        if packs:
            known = self._known = self._known or {}
            self._latest = list(_attributes(obj))
            known.update((id(value), value) for value in self._latest)
            self._known_extents = None
        if self._known is not None:
            self._copies = id(obj) not in self._known
        if self.pinned or (whole and self.shared_number is not None):
            number = self._number_of(obj, whole)
            if number is not None:
                return _itself, (self._token(Unit(0, shared_object=number)),)
        return NotImplemented if encode is None else encode(obj, self)

    def _number_of(self, obj: Any, whole: bool) -> int | None:
        """The number under which an object goes that is shared as a whole; None for all others."""
        number = self.pinned.get(id(obj))
        if number is not None or not whole or self.shared_number is None:
            return number
        # Small arrays are many, and cheaper to send than to look up.
        return None if type(obj) is np.ndarray and obj.nbytes < self.inline_limit else self.shared_number(obj)

    def reduce_function(self, function: types.FunctionType) -> Any:
        """By reference, or as cloudpickle does."""
        if self._reach is None:
            return NotImplemented
        self.guessed = self.guessed or self._reach.is_guess(function)
        if self._reach.resolves(function):
            return NotImplemented
        if is_dispatched(function):
            return reduce_dispatched(function)
        return self._dynamic_function_reduce(function)

    def reduce_class(self, cls: type) -> Any:
        """By reference, or as cloudpickle does; a class that came by value goes back as the class it was."""
        if self._reach is None:
            return reduce_known_class(cls) if came_by_value(cls) else NotImplemented
        if cls.__module__ == "builtins":
            return by_value._class_reduce(cls)
        self.guessed = self.guessed or self._reach.is_guess(cls)
        return NotImplemented if self._reach.resolves(cls) else reduce_class(cls)

    def reduce_cached(self, function: Any) -> Any:
        """By reference, or anew around the function by value."""
        if self._reach is None or not is_whole(function):
            return NotImplemented
        self.guessed = self.guessed or self._reach.is_guess(function)
        return NotImplemented if self._reach.resolves(function) else reduce_cached(function)

    def reduce_type_variable(self, variable: Any) -> Any:
        """By reference, or as cloudpickle does."""
        if self._reach is None:
            return NotImplemented
        self.guessed = self.guessed or self._reach.is_guess(variable)
        return variable.__name__ if self._reach.resolves(variable) else NotImplemented

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        if self._reach is not None and func.__globals__ is vars(sys.modules["__main__"]):
            sent = reduced[2][1]["__globals__"]
            for name in [name for name, value in sent.items() if self._reach.has_global(name, value)]:
                del sent[name]
        return reduced

    def _function_getnewargs(self, func: types.FunctionType) -> Any:
        if func.__globals__ is vars(sys.modules["__main__"]):
            self.globals_ref.setdefault(id(func.__globals__), _MainGlobals(self._for_initializer))
        return super()._function_getnewargs(func)


def _itself(obj: Any) -> Any:
    """What the receiver puts in the place of a shared object's token is the object."""
    return obj


def _reduce_function(function: Any, reducer: Any) -> Any:
    return reducer.reduce_function(function)


def _reduce_class(cls: Any, reducer: Any) -> Any:
    return reducer.reduce_class(cls)


def _reduce_cached(function: Any, reducer: Any) -> Any:
    return reducer.reduce_cached(function)


def _reduce_type_variable(variable: Any, reducer: Any) -> Any:
    return reducer.reduce_type_variable(variable)


#: Their reductions give the memory that an object has, or new one: none that is written to for the next object.
_GIVE_THEIR_OWN = sys.stdlib_module_names | {
    *(
        "arrowpool",
        "numpy",
        "pandas",
        "pyarrow",
        "polars",
        "scipy",
        "sklearn",
        "xarray",
        "torch",
        "geopandas",
        "shapely",
    ),
    *("attr", "attrs", "pydantic", "cloudpickle", "joblib", "dask", "sparse", "networkx", "xgboost", "lightgbm"),
}
_REDUCTIONS = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")


def _packs(cls: type) -> bool:
    """Whether reducing an object of this class runs Python code that may pack it into memory of its own choice."""
    # Not `getattr`, which asks the class of the class.
    codes = [next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None) for name in _REDUCTIONS]
    codes += [copyreg.dispatch_table.get(cls), ForkingPickler._extra_reducers.get(cls)]  # type: ignore[attr-defined]
    return any(
        type(code) is types.FunctionType and str(code.__module__).partition(".")[0] not in _GIVE_THEIR_OWN
        for code in codes
    )


def _attributes(obj: Any) -> Iterable[Any]:
    try:
        found = object.__getattribute__(obj, "__dict__")
    except Exception:  # a property of that name may raise anything
        return ()
    return dict.values(found) if isinstance(found, dict) else ()


def _find(cls: type) -> tuple[Encode | None, bool, bool]:
    encode: Encode | None
    if cls is types.FunctionType:
        encode = _reduce_function
    elif cls is not type and (cls in copyreg.dispatch_table or cls in ForkingPickler._extra_reducers):  # type: ignore[attr-defined]
        encode = None  # somebody has said how: as with the standard library, that comes first
    elif issubclass(cls, type):
        encode = _reduce_class
    elif cls is functools._lru_cache_wrapper:
        encode = _reduce_cached
    elif cls is typing.TypeVar:
        encode = _reduce_type_variable
    else:
        encode = encoder_for(cls)
    found = encode, library_of(cls) is not None, _packs(cls)
    number = id(cls)
    # First what ends the entry, then the entry.
    _types[number] = weakref.ref(cls, functools.partial(_forget, number))
    _encoders[number] = found
    return found


def _registered_by_now() -> dict[type, Any]:
    """The reducers that others have registered; the same object until there are others."""
    global _registered
    now: dict[type, Any] = {**copyreg.dispatch_table, **ForkingPickler._extra_reducers}  # type: ignore[attr-defined]
    if now != _registered:
        _registered = now
        # What was found for a type may not be what is found now.
        _encoders.clear()
        _types.clear()
    return _registered


def _forget(number: int, reference: weakref.ref[type]) -> None:
    """A type is gone. In a finalizer, maybe; another type may have its id, and an entry, already."""
    if _types.get(number) is reference:
        _encoders.pop(number, None)
        _types.pop(number, None)


def dumps(obj: Any, *, inline_limit: int) -> tuple[bytes, list[Unit]]:
    """Reduce one object to its stream and its units."""
    return Reducer(inline_limit=inline_limit).reduce(obj)


def loads(stream: Any, rooms: Iterable[ByteArray] = ()) -> Any:
    """Rebuild the object from its stream and its units' memory, in order."""
    return pickle.loads(stream, buffers=rooms)


def loads_in_turn(streams: Sequence[Any], rooms: Iterable[ByteArray]) -> list[Any]:
    """Rebuild the objects of streams of which each was reduced `after` the one before, from all their units' memory."""
    unpickler = pickle.Unpickler(io.BytesIO(b"".join(streams)), buffers=rooms)
    return [unpickler.load() for _ in streams]
