"""Extension arrays of pandas' own by template, and the dtypes of categories: what stands alone, or belongs to several frames.

Found by :func:`arrowpool.codecs.pandas.encoder_for`. A frame takes an array apart itself if nothing else refers to it. Any other
array is an object of its own in the stream, so that the pickler's memo preserves what is shared, as pickle does.
"""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from arrowpool.codecs.outbox import Encode, Outbox, Reduced
from arrowpool.codecs.templates.labels import labels_builder, labels_of_text
from arrowpool.codecs.templates.leaves import Heap, Key, Reader, Small, heap_of
from arrowpool.codecs.templates.rebuild import Plan, fill, plans, rebuild, template
from arrowpool.codecs.templates.reductions import Reductions
from arrowpool.codecs.templates.text import TextArray
from arrowpool.codecs.templates.values import TAKERS, builder_of

__all__ = ["ARRAYS", "encoder_of_array", "encoder_of_categories"]


def _is_rebuilt_around(index: Any) -> bool:
    """Whether unpickling makes an index around the very array that was pickled with it; older versions of pandas copy some."""
    try:
        arrived, values = pickle.loads(pickle.dumps((index, index._data)))
        return arrived._data is values
    except Exception:  # another library pickles them in its own way
        return False


#: Indexes whose arrays pickle may see in two ways: whole, and by what they are made of.
_SAMPLES: list[Any] = [pd.period_range("2020", periods=1), pd.interval_range(0, 1)]
#: Whose exact types have templates.
ARRAYS = frozenset(TAKERS) - {type(index._data) for index in _SAMPLES if not _is_rebuilt_around(index)}
_reductions = Reductions((*TAKERS, pd.CategoricalDtype, np.ndarray))


def encoder_of_array(cls: type, otherwise: Encode | None = None) -> Encode | None:
    """How to encode an array whose type is `cls`, one of `ARRAYS`. What has no template is for `otherwise`, or pickle."""
    # Also that of the arrays inside.
    if not (_reductions.are_unchanged(cls) and _reductions.are_unchanged(np.ndarray)):
        return otherwise
    take = TAKERS[cls]
    is_text = cls is TextArray

    def encode(values: Any, out: Outbox) -> Reduced:
        if is_text:
            labels = labels_of_text(values)
            if labels is not None:
                return rebuild, (template(("labels", labels)),)
        small = Small()
        parts: list[Any] = []
        # Older versions of pandas have the frequency of an index on its array.
        key = take(values, out, small, parts) if getattr(values, "_freq", None) is None else None
        if key is None:
            return NotImplemented if otherwise is None else otherwise(values, out)
        return rebuild, (template(("array", key)), values.shape, heap_of(small, out), *parts)

    return encode


@plans("labels")
def _plan_of_labels(labels: tuple[Any, ...]) -> Plan:
    return labels_builder(labels)


@plans("array")
def _plan_of_array(key: Key) -> Plan:
    build = builder_of(key)

    def plan(shape: tuple[int, ...], heap: Heap, *parts: Any) -> Any:
        return build(Reader(heap, parts), shape[0] if len(shape) == 2 else None, shape[-1])

    return plan


def encoder_of_categories(cls: type) -> Encode | None:
    """How to encode a `CategoricalDtype`; None if that has another way of pickling now."""
    return _encode_categories if _reductions.are_unchanged(cls) else None


def _encode_categories(dtype: Any, out: Outbox) -> Reduced:
    state = _CATEGORIES, dtype._categories, dtype._ordered
    return rebuild, (_EMPTY_CATEGORIES,), state, None, None, fill


_EMPTY_CATEGORIES, _CATEGORIES = template(("empty categories",)), template(("categories",))


@plans("empty categories")
def _plan_of_empty_categories() -> Plan:
    return partial(object.__new__, pd.CategoricalDtype)


@plans("categories")
def _plan_of_categories() -> Plan:
    def plan(dtype: Any, categories: Any, ordered: Any) -> None:
        dtype._categories, dtype._ordered = categories, ordered

    return plan
