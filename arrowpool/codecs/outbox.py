"""The interface by which a codec places bytes outside the pickle stream of a message.

A codec turns one object into a reduce value (PEP 307), exactly as ``__reduce_ex__`` would, except that the large memory
in it is replaced by *tokens*. The reducer implements :class:`Outbox`; the codecs use no other part of the reducer.

Guarantees to the rebuild function: where the encoder put a token, it receives a one-dimensional, writable, C-contiguous
``numpy.ndarray`` of ``uint8`` with exactly the bytes asked for, 64-byte aligned, private to this task. The shared memory
behind it stays valid for as long as that array or any view, buffer or slice made from it is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

ByteArray = NDArray[np.uint8]
#: What ``__reduce_ex__`` may return; ``NotImplemented`` leaves the object to plain pickle.
Reduced = Any


class Extent(NamedTuple):
    """Memory ``[start, stop)``, by address, in which `visible` bytes belong to an object; `owner` keeps it alive."""

    start: int
    stop: int
    visible: int
    owner: Any


class Outbox(Protocol):
    """The message that is being encoded."""

    #: Payloads below this many bytes belong in the pickle stream: sharing them would cost more than copying them.
    inline_limit: int
    #: Arrays of one object are placed together only if they have fewer bytes than this, all in all: then none of them is asked for
    #: on its own, and keeping one keeps all.
    heap_limit: int

    @property
    def has_windows(self) -> bool:
        """Whether `place_window` may return a token."""

    def place(self, array: np.ndarray[Any, Any]) -> PickleBuffer:
        """Take the elements of `array`, in C order for any strides; return the token that stands for them.

        The array is read after the whole message has been pickled: its memory must stay unchanged until then.
        """

    def place_with(self, nbytes: int, write: Callable[[ByteArray], None]) -> PickleBuffer:
        """Reserve `nbytes`. After pickling, `write` is called with writable memory of exactly that size.

        It may be called again, with other memory, to find out whether it writes the same for another task.
        """

    def place_window(self, address: int, nbytes: int, writable: bool = True) -> PickleBuffer | None:
        """A token for this memory if it lies in a stretch that is copied as a whole for many messages; else None.

        The rebuild function receives an array that may begin at any address, as the memory does, not only at a multiple of 64.
        Without `writable`, the array may overlap other windows of this message, so it must never be written to.
        """


Encode = Callable[[Any, Outbox], Reduced]
