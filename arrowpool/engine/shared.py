"""Data that tasks of one call share: objects that occur in several items, memory that overlaps, objects that users have shared.

The reducer asks for it while it reduces a task or a function. The blobs that the task or function needs are noted. Used by the
acting thread (see `mailbox`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from arrowpool.codecs import Extent, extents
from arrowpool.engine.calls import Blob, Call
from arrowpool.memory import platform
from arrowpool.transport.overlaps import find, stretches
from arrowpool.transport.parcel import Reduced
from arrowpool.transport.sharing import Sharing
from arrowpool.tuning import OWN_SEGMENT

_NONE: frozenset[int] = frozenset()


class SharedByCall(Sharing):
    """The shared data that one task or function of a call may refer to, and the blobs that it refers to.

    Parameters
    ----------
    call : Call
        The call.
    take_apart : callable
        Reduces an object with another reducer: the call comes in the middle of a reduction.
    place : callable
        Places a reduced object for all tasks of the call. Returns None when there is no memory for it.
    saved : callable
        Called with the bytes of each copy that is saved.
    """

    #: The blobs that this task or function refers to, each once, and held by the call.
    blobs: list[Blob]

    def __init__(
        self,
        call: Call,
        take_apart: Callable[[Any], Reduced],
        place: Callable[[Call, Reduced], Blob | None],
        saved: Callable[[int], None],
    ):
        self.blobs = []
        self._call = call
        self._take_apart = take_apart
        self._place = place
        self._saved = saved

    def __repr__(self) -> str:
        return f"<SharedByCall blobs: {[blob.number for blob in self.blobs]}>"

    @property
    def pinned(self) -> Mapping[int, int]:
        return self._call.pinned

    @property
    def may_repeat(self) -> bool:
        return self._call.items is not None and self._call.repeated != _NONE

    def number_of(self, obj: Any) -> int | None:
        blob = self._blob_of(obj)
        if blob is None:
            return None
        self._refer(blob)
        self._saved(blob.parcel.nbytes)
        return blob.number

    @property
    def has_windows(self) -> bool:
        call = self._call
        if call.stretches is None:
            call.stretches = stretches(_extents(call.items)) if call.items is not None and len(call.items) > 1 else []
        return bool(call.stretches)

    def window_of(self, address: int, nbytes: int) -> tuple[int, int] | None:
        call = self._call
        if not self.has_windows:
            return None
        stretch = find(call.stretches, address, nbytes)  # type: ignore[arg-type]  # it has some
        if stretch is None:
            return None
        if stretch.blob is None:
            whole = platform.bytes_at(stretch.start, stretch.stop - stretch.start, owner=stretch)
            stretch.blob = self._place(call, self._take_apart(whole))
            if stretch.blob is None:
                return None
        self._refer(stretch.blob)
        self._saved(nbytes)
        return stretch.blob.number, address - stretch.start

    def refer_to_pins(self, reduced: Reduced) -> None:
        """Add the objects that users have shared, and that a reduction refers to, to the needed blobs."""
        pins = self._call.pins
        if pins:
            for unit in reduced.units:
                blob = pins.get(unit.shared_object) if unit.shared_object is not None else None
                if blob is not None:
                    self._refer(blob)
                    if blob.parcel.nbytes:
                        self._saved(blob.parcel.nbytes)

    def _refer(self, blob: Blob) -> None:
        self._call.hold(blob)
        if blob not in self.blobs:
            self.blobs.append(blob)

    def _blob_of(self, obj: Any) -> Blob | None:
        call = self._call
        if call.items is None:
            return None
        if call.repeated is None:
            call.repeated = repeated(call.items)
        if id(obj) not in call.repeated:
            return None
        if id(obj) in call.shared:
            return call.shared[id(obj)][1]
        reduced = self._take_apart(obj)
        if reduced.nbytes < OWN_SEGMENT:
            call.shared[id(obj)] = obj, None
            return None
        blob = self._place(call, reduced)
        if blob is not None:
            call.shared[id(obj)] = obj, blob
        return blob


def members(items: Iterable[Any]) -> Iterator[Any]:
    """The items, or the members of items that are containers.

    Members are the stored objects of a container. A subclass's own methods may return temporary objects instead.
    """
    for item in items:
        if isinstance(item, tuple):
            yield from tuple.__iter__(item)
        elif isinstance(item, list):
            yield from list.__iter__(item)
        elif isinstance(item, dict):
            yield from dict.values(item)
        else:
            yield item


def _extents(items: Iterable[Any]) -> Iterator[Extent]:
    """The large memory of all members."""
    for member in {id(member): member for member in members(items)}.values():
        yield from extents(member)


def repeated(items: list[Any] | tuple[Any, ...]) -> frozenset[int]:
    """Ids of the objects that occur more than once among the items, or among the members of items that are containers."""
    counts: Counter[int] = Counter()
    for item in items:
        counts.update({id(member) for member in members((item,))})
    return frozenset(number for number, count in counts.items() if count > 1)
