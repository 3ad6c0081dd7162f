"""Frames, series, indexes and arrays of pandas without pickle: each is a reference to a template, and its buffers.

A *template* is what objects of one kind have in common: dtypes, placements of blocks, the kind and frequency of an index. It
travels as its own bytes, always the same object for the same template, so that pickle's memo writes them once a message; a
receiver keeps what it has built from them. So no process has to know what another one has.

Called by the pandas codec. What is not known exactly goes as without templates, whole or in part.
"""

from __future__ import annotations

from arrowpool.codecs.templates.arrays import ARRAYS, encoder_of_array, encoder_of_categories
from arrowpool.codecs.templates.frame import encoder_of_frame
from arrowpool.codecs.templates.index import INDEXES, encoder_of_index

__all__ = ["ARRAYS", "INDEXES", "encoder_of_array", "encoder_of_categories", "encoder_of_frame", "encoder_of_index"]
