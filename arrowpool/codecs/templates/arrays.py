"""Extension arrays of pandas' own by template, and the dtypes of categories: what stands alone, or belongs to several frames.

Found by :func:`arrowpool.codecs.pandas.encoder_for`. A frame takes an array apart itself if nothing else refers to it. Any other
array is an object of its own in the stream, so that the pickler's memo preserves what is shared, as pickle does.
"""

from __future__ import annotations

import copyreg
import pickle
from typing import Any

import pandas as pd
import pyarrow as pa

from arrowpool.codecs.outbox import Encode, Outbox, Reduced
from arrowpool.codecs.templates.labels import encode_few_strings
from arrowpool.codecs.templates.leaves import Build, Heap, Reader, heap_of, is_plain
from arrowpool.codecs.templates.recent import Recent, template_of
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.text import STATE_OF_TEXT, TextArray, new_text
from arrowpool.codecs.templates.tokens import text_token
from arrowpool.codecs.templates.values import TAKERS, builder_of

__all__ = ["ARRAYS", "encoder_of_array", "encoder_of_categories"]


def _is_rebuilt_around(index: Any) -> bool:
    """Whether unpickling makes an index around the very array that was pickled with it; older versions of pandas copy some."""
    arrived, values = pickle.loads(pickle.dumps((index, index._data)))
    return arrived._data is values


_PERIODS: Any = pd.period_range("2020", periods=1)
#: Whose exact types have templates.
ARRAYS = frozenset(TAKERS) - ({type(_PERIODS._data)} if not _is_rebuilt_around(_PERIODS) else set())
_REMEMBERED = 512
_reductions = Reductions((*TAKERS, pd.CategoricalDtype))

#: By the key: the bytes of the template.
_templates: Recent[Any, bytes] = Recent(_REMEMBERED)
#: By the template: the function that makes an array by it.
_plans: Recent[bytes, Build] = Recent(_REMEMBERED)


def encoder_of_array(cls: type, otherwise: Encode | None = None) -> Encode | None:
    """How to encode an array whose type is `cls`, one of `ARRAYS`. What has no template is for `otherwise`, or pickle."""
    if not _reductions.are_unchanged(cls):
        return otherwise
    take = TAKERS[cls]
    is_text = cls is TextArray

    def encode(values: Any, out: Outbox) -> Reduced:
        if is_text:
            few = encode_few_strings(values, out)
            if few is not None:
                return few
        small: list[Any] = []
        parts: list[Any] = []
        # Older versions of pandas have the frequency of an index on its array.
        key = take(values, out, small, parts) if getattr(values, "_freq", None) is None else None
        if key is None and is_text and is_plain(values, STATE_OF_TEXT) and values._pa_array.num_chunks == 1:
            token = text_token(values._dtype)
            if token is not None:
                return _rebuild_text, (token, values._pa_array.chunk(0))
        if key is None:
            return NotImplemented if otherwise is None else otherwise(values, out)
        return _rebuild, (_templates.of(key, template_of), values.shape, heap_of(small, out), *parts)

    return encode


def _plan(template: bytes) -> Build:
    return builder_of(pickle.loads(template))


def _rebuild(template: bytes, shape: tuple[int, ...], heap: Heap, *parts: Any) -> Any:
    build = _plans.of(template, _plan)
    return build(Reader(heap, parts), shape[0] if len(shape) == 2 else None, shape[-1])


#: By the token.
_dtypes: Recent[bytes, Any] = Recent(_REMEMBERED)


def _rebuild_text(token: bytes, chunk: Any) -> Any:
    return new_text(pa.chunked_array([chunk]), _dtypes.of(token, pickle.loads))


def encoder_of_categories(cls: type) -> Encode | None:
    """How to encode a `CategoricalDtype`; None if that has another way of pickling now."""
    return _encode_categories if _reductions.are_unchanged(cls) else None


def _encode_categories(dtype: Any, out: Outbox) -> Reduced:
    state = dtype._categories, dtype._ordered
    return copyreg.__newobj__, (pd.CategoricalDtype,), state, None, None, _fill_categories  # type: ignore[attr-defined]


def _fill_categories(dtype: Any, state: tuple[Any, Any]) -> None:
    dtype._categories, dtype._ordered = state
