"""Frames, series and indexes without pickle: each is a reference to a template, and its buffers.

A *template* is what objects of one kind have in common: dtypes, placements of blocks, the kind and frequency of an index. It
travels as its own bytes, always the same object for the same template, so that pickle's memo writes them once a message; a
receiver keeps what it has built from them. So no process has to know what another one has.

Called by the pandas codec. What is not known exactly goes as without templates, whole or in part.
"""

from __future__ import annotations

from arrowpool.codecs.templates.frame import encoder_of_frame
from arrowpool.codecs.templates.index import INDEXES, encoder_of_index
from arrowpool.codecs.templates.labels import encode_few_strings
from arrowpool.codecs.templates.text import TextArray

__all__ = ["INDEXES", "TextArray", "encode_few_strings", "encoder_of_frame", "encoder_of_index"]
