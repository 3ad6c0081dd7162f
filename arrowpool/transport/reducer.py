"""The reducer: one object in, a pickle stream and the large memory it refers to out.

Called by the sender, which decides where that memory goes, and by the shelf. Guarantees: what `loads` returns equals what
plain pickle delivers; the stream holds no payload of `inline_limit` bytes or more that a codec can take out of it. Functions
and classes go by reference where `resolution` says that the worker finds the same, else by value.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import cloudpickle
import numpy as np
from cloudpickle import cloudpickle as by_value

from arrowpool.codecs import ByteArray, extents
from arrowpool.codecs.numpy import bounds
from arrowpool.memory.mapping import leased_memory_under
from arrowpool.transport.by_type import registered, way_of, ways
from arrowpool.transport.by_value import (
    came_by_value,
    has_only_its_sender,
    is_dispatched,
    is_whole,
    reduce_cached,
    reduce_cached_property,
    reduce_class,
    reduce_dispatched,
    reduce_known_class,
    reduce_to_its_sender,
    reducers,
)
from arrowpool.transport.resolution import Reach, main_globals
from arrowpool.transport.sharing import NOTHING, Sharing
from arrowpool.transport.unit import Unit, Window
from arrowpool.tuning import OWN_SEGMENT

_dump = pickle.Pickler.dump
_UNKNOWN = (None, None)
_EMPTY: Any = np.empty(0, dtype=np.uint8)
_NOWHERE = io.BytesIO()
_DISPATCH_TABLE = cast(types.MemberDescriptorType, pickle.Pickler.__dict__["dispatch_table"])


class _MainGlobals:
    """Stands for the globals of a function from ``__main__``; becomes the worker's own."""

    def __init__(self, live: bool):
        self._live = live

    def __reduce__(self) -> tuple[Any, tuple[bool]]:
        return main_globals, (self._live,)


class Seen:
    """The objects that went into a stream. Keeps them alive, so that no other object can have one of their ids."""

    __slots__ = ("_pickler", "globals_ref")

    def __init__(self, reducer: Reducer):
        # A pickler's memo is a table in C. It is copied quickly, but only from one pickler to another.
        self._pickler = pickle.Pickler(_NOWHERE)
        self._pickler.memo = reducer.memo
        self.globals_ref = reducer.globals_ref

    @property
    def memo(self) -> Any:
        return self._pickler.memo


class Reducer(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that puts large memory aside, as units in the order in which `loads` will ask for them.

    Used for many messages, one at a time. Each thread that reduces has one of its own, and so has each reduction that
    begins while another one runs in the same thread.

    Parameters
    ----------
    inline_limit : int
        Payloads of fewer bytes stay in the stream.
    heap_limit : int
        Arrays of one object may be placed together if they have fewer bytes, all in all.
    reach : Reach, optional
        What the receiver can resolve by name; the rest goes by value. Without it, functions and classes go by
        reference or not at all, as with the standard library.
    for_initializer : bool
        Whether functions that go by value write their globals into the receiver's ``__main__``.
    """

    globals_ref: dict[int, Any]
    #: Whether something goes in a way that may be wrong, because no worker has reported its names yet. The caller resets it.
    guessed: bool

    def __init__(
        self,
        *,
        inline_limit: int,
        heap_limit: int = OWN_SEGMENT,
        reach: Reach | None = None,
        for_initializer: bool = False,
    ):
        self._for_initializer = for_initializer
        self._stream = io.BytesIO()
        super().__init__(self._stream, protocol=5, buffer_callback=self._take_buffer)
        self.inline_limit = inline_limit
        self.heap_limit = heap_limit
        self._reach = reach
        self.guessed = False
        self._units: list[Unit] = []
        #: Units by the ids of their tokens. With the token: a codec may have dropped it, and another may get its id.
        self._placed: dict[int, tuple[pickle.PickleBuffer, Unit]] = {}
        #: What the message that is being reduced may refer to, and whether memory of other processes is left where it lies.
        self._sharing = NOTHING
        self._pinned: Mapping[int, int] = NOTHING.pinned
        self._lends = False
        #: While a reduction runs that may use its memory again for the next object: what the objects had before they were
        #: reduced, by id, which is not such memory. None outside of that.
        self._known: dict[int, Any] | None = None
        self._latest: list[Any] = []
        self._known_extents: list[tuple[int, int]] | None = None
        #: Whether memory is copied when it is met.
        self._copies = False
        #: What others have registered for pickling, at the last `refresh`.
        self._registered: dict[type, Any] | None = None
        self.refresh()

    def __repr__(self) -> str:
        return f"<Reducer inline_limit={self.inline_limit} units={len(self._units)}>"

    def refresh(self) -> None:
        """Take note of reducers registered since the last call, with `copyreg` or `multiprocessing`."""
        now = registered()
        if now is self._registered:
            return
        self._registered = now
        table: dict[type, Any] = {}
        if self._reach is not None:
            table |= reducers()
            table[functools.cached_property] = reduce_cached_property
        # The slot itself: an instance attribute would hide cloudpickle's class attribute from Python, not from pickle's C code.
        _DISPATCH_TABLE.__set__(self, table | now)

    def reduce(
        self, obj: Any, after: Seen | None = None, sharing: Sharing = NOTHING, *, lends: bool = False
    ) -> tuple[bytes, list[Unit]]:
        """The stream and the units of one object.

        Parameters
        ----------
        obj : object
            What to take apart.
        after : Seen, optional
            What the receiver loads just before, with the same unpickler: see `loads_in_turn`. An object in both is one
            object there.
        sharing : Sharing
            What the stream may refer to by number.
        lends : bool
            Whether what lies in another process's memory may be left there.
        """
        stream, units, _ = self._reduce(obj, after, sharing, lends, note=False)
        return stream, units

    def reduce_and_note(
        self, obj: Any, sharing: Sharing = NOTHING, *, lends: bool = False
    ) -> tuple[bytes, list[Unit], Seen]:
        """As `reduce`, with the objects that went into the stream."""
        return self._reduce(obj, None, sharing, lends, note=True)

    def _reduce(
        self, obj: Any, after: Seen | None, sharing: Sharing, lends: bool, note: bool
    ) -> tuple[bytes, list[Unit], Any]:
        stream = self._stream
        self._sharing, self._pinned, self._lends = sharing, sharing.pinned, lends
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
            self._units = []  # not `clear`: this list may have been returned
            self._sharing, self._pinned = NOTHING, NOTHING.pinned
            if self._placed:
                self._placed = {}
            if self._known is not None:
                self._known, self._known_extents, self._copies, self._latest = None, None, False, []
            if self.globals_ref:
                self.globals_ref = {}

    def place(self, array: np.ndarray[Any, Any]) -> pickle.PickleBuffer:
        if self._copies and not self._is_known(array):
            return self._token(Unit(array.nbytes, array.copy(), is_own=True))
        leased = (
            leased_memory_under(array)
            if self._lends and array.nbytes >= OWN_SEGMENT and array.flags.c_contiguous
            else None
        )
        return self._token(Unit(array.nbytes, array, leased=leased))

    def _is_known(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether this memory belongs to an array or frame that the latest object had before it was reduced."""
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

    @property
    def has_windows(self) -> bool:
        return self._sharing.has_windows

    def place_window(self, address: int, nbytes: int, writable: bool = True) -> pickle.PickleBuffer | None:
        found = self._sharing.window_of(address, nbytes)
        if found is None:
            return None
        number, offset = found
        return self._token(Unit(0, shared_object=number, window=Window(offset, nbytes, writable)))

    def _token(self, unit: Unit) -> pickle.PickleBuffer:
        token = pickle.PickleBuffer(_EMPTY)
        self._placed[id(token)] = (token, unit)
        return token

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        _, unit = self._placed.pop(id(buffer), _UNKNOWN)
        if unit is None:
            # Memory that a type offers by itself (PEP 574).
            raw = buffer.raw()
            if raw.nbytes < self.inline_limit:
                return True
            source = np.frombuffer(raw, dtype=np.uint8)
            # A read-only view may be one of writable memory. The memory of bytes never changes.
            copied = self._known is not None and type(raw.obj) is not bytes
            unit = Unit(raw.nbytes, source.copy() if copied else source, is_own=copied)
        self._units.append(unit)
        return False

    def reducer_override(self, obj: Any) -> Any:
        # Called for all but objects of pickle's own types: some 70 times a frame.
        try:
            encode, whole, packs = ways[id(type(obj))]
        except KeyError:
            encode, whole, packs = way_of(type(obj))
        if packs:
            known = self._known = self._known or {}
            self._latest = list(_attributes(obj))
            known.update((id(value), value) for value in self._latest)
            self._known_extents = None
        if self._known is not None:
            self._copies = id(obj) not in self._known
        if self._pinned or (whole and self._sharing.may_repeat):
            number = self._number_of(obj, whole)
            if number is not None:
                return _itself, (self._token(Unit(0, shared_object=number)),)
        return NotImplemented if encode is None else encode(obj, self)

    def _number_of(self, obj: Any, whole: bool) -> int | None:
        """The number of an object that is shared as a whole; None for all others."""
        number = self._pinned.get(id(obj))
        if number is not None or not whole or not self._sharing.may_repeat:
            return number
        # Small arrays are many, and cheaper to send than to look up.
        if type(obj) is np.ndarray and obj.nbytes < self.inline_limit:
            return None
        return self._sharing.number_of(obj)

    def reduce_function(self, function: types.FunctionType) -> Any:
        """By reference, or as cloudpickle does."""
        # This package's own, which rebuild what codecs have taken apart, are the same everywhere.
        if (function.__module__ or "").startswith("arrowpool."):
            return NotImplemented
        if self._reach is None:
            return reduce_to_its_sender(function) if has_only_its_sender(function) else NotImplemented
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
        """By reference, or as a new cache around the function by value."""
        if self._reach is None and has_only_its_sender(function):
            return reduce_to_its_sender(function)
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
        reach = self._reach
        if reach is not None and func.__globals__ is vars(sys.modules["__main__"]):
            sent = reduced[2][1]["__globals__"]
            there = [name for name, value in sent.items() if reach.has_global(name, value)]
            if self._for_initializer:
                reach.goes_with_initializer(sent)
            else:
                there += [name for name, value in sent.items() if reach.went_with_initializer(name, value)]
            for name in there:
                sent.pop(name, None)
        return reduced

    def _function_getnewargs(self, func: types.FunctionType) -> Any:
        if func.__globals__ is vars(sys.modules["__main__"]):
            self.globals_ref.setdefault(id(func.__globals__), _MainGlobals(self._for_initializer))
        return super()._function_getnewargs(func)


def _itself(obj: Any) -> Any:
    """The receiver puts the shared object itself in the place of its token."""
    return obj


def _attributes(obj: Any) -> Iterable[Any]:
    try:
        found = object.__getattribute__(obj, "__dict__")
    except Exception:  # a property of that name may raise anything
        return ()
    return dict.values(found) if isinstance(found, dict) else ()


def dumps(obj: Any, *, inline_limit: int) -> tuple[bytes, list[Unit]]:
    """Reduce one object to its stream and its units."""
    return Reducer(inline_limit=inline_limit).reduce(obj)


def dumps_stream(obj: Any) -> bytes:
    """Reduce one object to its stream alone: no memory of its is shared."""
    return dumps(obj, inline_limit=sys.maxsize)[0]


def loads(stream: Any, rooms: Iterable[ByteArray] = ()) -> Any:
    """Rebuild the object from its stream and its units' memory, in order."""
    return pickle.loads(stream, buffers=rooms)


def loads_in_turn(streams: Sequence[Any], rooms: Iterable[ByteArray]) -> list[Any]:
    """Rebuild the objects of streams of which each was reduced `after` the one before, from all their units' memory."""
    unpickler = pickle.Unpickler(io.BytesIO(b"".join(streams)), buffers=rooms)
    try:
        return [unpickler.load() for _ in streams]
    finally:
        # Its memo refers to all that it has rebuilt, and a rebuilt traceback (with Dask, errors have theirs) to the frames here. The
        # garbage collector would not free that: older versions of Python do not show it the memo.
        del unpickler
