"""The receiving side of a message: from stream and segments back to live objects."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from arrowpool.codecs.outbox import ByteArray
from arrowpool.memory import orphans, platform
from arrowpool.memory.control_page import Flags
from arrowpool.memory.lease import Account, Lease, disown, unreleased
from arrowpool.memory.limits import memory
from arrowpool.memory.mapping import Mapping, has_maps
from arrowpool.transport.placements import InSegment, Placement, SharedObject, read_placement
from arrowpool.transport.protocol import Body, Grants, is_plain_body
from arrowpool.transport.reducer import loads, loads_in_turn
from arrowpool.tuning import (
    HEADROOM_STEP,
)

#: Mappings of lent arenas that are kept for the next time: their pages stay warm, but so does a dead process's memory stay.
_BORROWED_KEPT = 64


class _Copies:
    """Sees to it that what cannot be mapped and so is copied finds memory."""

    def __init__(self) -> None:
        self._checked = 0

    def check(self, nbytes: int) -> None:
        """Before so many bytes more are copied.

        Raises
        ------
        MemoryError
            When there is not so much.
        """
        self._checked -= nbytes
        if self._checked < 0:
            _, available = memory()
            if nbytes + HEADROOM_STEP > available:
                raise MemoryError("more objects that overlap than can be mapped, and no memory to copy them")
            self._checked = HEADROOM_STEP


class NotReadableError(Exception):
    """What was lent to this process lies where it may not read."""


class Receiver:
    """Rebuilds objects over one owner's arena, seen privately.

    Parameters
    ----------
    fd : int
        Descriptor of the owner's arena, this object's own from here on; mapped on first use. -1 when there is none.
    flags : Flags
        Where this process says which of its leases are over.
    released : callable, optional
        Called with the bytes of each lease that is over, maybe in a finalizer.
    lender : int
        The process whose descriptors say what it lends.
    """

    def __init__(self, fd: int, flags: Flags, released: Callable[[int], None] | None = None, lender: int = -1):
        self._fd = fd
        self._lender = lender
        #: Mappings of what is lent, the one used last at the end.
        self._borrowed: dict[tuple[int, int], Mapping] = {}
        self._account = Account(flags, released)
        self._mapping: Mapping | None = None

    def __repr__(self) -> str:
        return f"<Receiver leased: {self.leased():,} bytes | borrowed arenas: {len(self._borrowed)}>"

    def accept(self, grants: Grants) -> list[Lease]:
        """Take the rights to some segments; they end when the returned objects and all built on them are gone."""
        account = self._account
        return [Lease(account, slot, offset, nbytes, source) for slot, offset, nbytes, source in grants]

    def leased(self) -> int:
        """Bytes that may still be read, here or by a forked child."""
        return sum(size for _, size in unreleased(self._account))

    def trim(self) -> None:
        """Keep no mappings of what is lent, but for those that something is read through."""
        self._borrowed.clear()

    def borrows(self) -> bool:
        """Whether there are mappings of what was lent, that nothing may be read through any more."""
        return bool(self._borrowed)

    def owner_lost(self) -> None:
        """The owner's process has ended. Accept no more; of its memory only that stays which may still be read."""
        if self._fd >= 0:
            mapping = self._mapping or Mapping(self._fd)
            self._mapping = mapping
            mapping.reclaim_all_but(disown(self._account, mapping.reclaim))
            orphans.add(mapping)
            # That one refers to the mapping now, and is its leases' alone: others may keep this receiver for longer.
            self._account = Account(self._account.flags, self._account.released)
        self.close()

    def close(self) -> None:
        """Accept no more; what was rebuilt stays valid."""
        mapping, fd = self._mapping, self._fd
        # Forgotten first: another thread that closes this object meanwhile would close another file that has the number by then.
        self._mapping, self._fd = None, -1
        if mapping is None and fd >= 0:
            os.close(fd)
        self.trim()

    def rebuild(self, body: Body, leases: list[Lease], shared: Callable[[int], Any] | None = None) -> Any:
        """The object, new and private to the caller.

        Parameters
        ----------
        body : Body
            Where the object is.
        leases : list of Lease
            The rights to the segments that the body's units lie in.
        shared : callable, optional
            Rebuilds the shared object of a number; needed when the body refers to such.

        Raises
        ------
        Exception
            Whatever unpickling raises.
        """
        if is_plain_body(body):
            (value,) = body
            return value
        stream, placements = body
        if not placements:
            return loads(stream)
        arrays = self._units(placements, leases, shared)
        return loads(next(arrays) if stream is None else stream, arrays)

    def rebuild_in_turn(
        self, parts: Sequence[tuple[Body, list[Lease]]], shared: Callable[[int], Any] | None = None
    ) -> list[Any]:
        """The objects of several bodies, each of which was reduced `after` the one before: what they share, they share here.

        Raises
        ------
        Exception
            Whatever unpickling raises.
        """
        streams: list[Any] = []
        arrays: list[Iterator[Any]] = []
        for body, leases in parts:
            assert not is_plain_body(body)
            stream, placements = body
            units = self._units(placements, leases, shared)
            streams.append(next(units) if stream is None else stream)
            arrays.append(units)
        return loads_in_turn(streams, itertools.chain.from_iterable(arrays))

    def _units(
        self, placements: Iterable[Placement], leases: list[Lease], shared: Callable[[int], Any] | None
    ) -> Iterator[Any]:
        """What lies at each of the placements, in order."""
        views = [self._view(lease) for lease in leases]
        copies: dict[tuple[int, int], ByteArray | None] = {}
        unmapped = _Copies()
        for placement in placements:
            place = read_placement(placement)
            if isinstance(place, InSegment):
                whole = views[place.segment]
                if whole is None:
                    unmapped.check(place.nbytes)
                    lease = leases[place.segment]
                    yield self._mapping_of(lease).read(lease, place.offset, place.nbytes)
                else:
                    yield whole[place.offset : place.offset + place.nbytes]
                continue
            assert shared is not None
            if isinstance(place, SharedObject):
                yield shared(place.number)
                continue
            _, number, offset, nbytes, copy = place
            if (number, copy) not in copies:
                copies[number, copy] = shared(number) if has_maps() or not copies else None
            whole = copies[number, copy]
            if whole is None:
                # From a copy that no task gets, so that no task has written to it.
                unmapped.check(nbytes)
                if (number, -1) not in copies:
                    copies[number, -1] = shared(number)
                pristine = copies[number, -1]
                assert pristine is not None
                whole = platform.aligned(nbytes)
                np.copyto(whole, pristine[offset : offset + nbytes])
                yield whole
            else:
                yield whole[offset : offset + nbytes]

    def _view(self, lease: Lease) -> ByteArray | None:
        """The bytes of a segment; None when there can be no more maps."""
        mapping = self._mapping_of(lease)
        try:
            return mapping.view(lease)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            return None

    def _mapping_of(self, lease: Lease) -> Mapping:
        source = lease.source
        if source is None:
            if self._mapping is None:
                self._mapping = Mapping(self._fd)
            return self._mapping
        mapping = self._borrowed.pop(source, None)
        if mapping is None:
            try:
                mapping = Mapping(platform.open_of(self._lender, *source))
            except OSError as error:
                raise NotReadableError(str(error)) from error
            if len(self._borrowed) >= _BORROWED_KEPT:
                del self._borrowed[next(iter(self._borrowed))]
        self._borrowed[source] = mapping
        return mapping
