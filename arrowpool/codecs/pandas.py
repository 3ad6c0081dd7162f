"""pandas: frames and series are taken apart by pandas itself; their blocks' values are arrays, which go to their own codec.

Found by :func:`arrowpool.codecs.encoder_for`. What is special is the block: pandas copies the values of a row slice when a
block is pickled with protocol 5, which halves the throughput; here they go to the NumPy codec as they lie, and are copied
once, row by row, into the segment.
"""

from __future__ import annotations

from typing import Any

from pandas._libs import internals

from arrowpool.codecs.outbox import Encode, Outbox, Reduced

__all__ = ["encoder_for"]

_Block: Any = internals.Block


def encoder_for(cls: type) -> Encode | None:
    """How to encode objects of type `cls`; None for all but blocks, which pickle themselves well."""
    return _encode_block if issubclass(cls, _Block) else None


def _encode_block(block: Any, out: Outbox) -> Reduced:
    # Not __reduce_ex__: that is the one that copies.
    return block.__reduce__()
