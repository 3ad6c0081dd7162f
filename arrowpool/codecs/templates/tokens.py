"""Small immutable objects of pandas, as bytes: dtypes of strings, with a time zone or a frequency, and offsets.

Called by `values`, `text`, `labels` and `index`. Their pickles are part of templates: on arrival one object serves all frames of its template.

Guarantees: only objects that users cannot change, of types that pickle says all of. Which of them are the same object is not
preserved, as it is not for strings.
"""

from __future__ import annotations

import datetime
import pickle
import zoneinfo
from typing import Any

import pandas as pd
from pandas._libs.tslibs import offsets

from arrowpool.codecs.templates.recent import Recent

__all__ = ["frequency_token", "period_token", "text_token", "zoned_token"]

_LIMIT = 256
#: By the id of an object that the entry keeps alive, so that no other object can have that id: the object, and its bytes.
_by_id: Recent[int, tuple[Any, bytes]] = Recent(_LIMIT)
#: By what makes up the object; with the parts that are known by their ids.
_by_parts: Recent[tuple[Any, ...], tuple[Any, bytes]] = Recent(_LIMIT)

#: Offsets that are made of a number and `normalize` alone.
_SIMPLE_OFFSETS = frozenset(
    {
        *(offsets.Day, offsets.Hour, offsets.Minute, offsets.Second, offsets.Milli, offsets.Micro, offsets.Nano),
        *(offsets.MonthEnd, offsets.MonthBegin, offsets.BusinessMonthEnd, offsets.BusinessMonthBegin),
    }
)


def frequency_token(freq: Any) -> bytes | None:
    """The bytes of the offset of an index; None for kinds that are made of more."""
    known = _by_id.get(id(freq))
    if known is not None:
        return known[1]
    if type(freq) not in _SIMPLE_OFFSETS:
        return None
    return _token(freq, (type(freq), freq.n, freq.normalize), None)


def zoned_token(dtype: Any) -> bytes | None:
    """The bytes of a `DatetimeTZDtype`; None for time zones of unknown kinds."""
    known = _by_id.get(id(dtype))
    if known is not None:
        return known[1]
    zone = dtype.tz
    cls = type(zone)
    if type(dtype) is not pd.DatetimeTZDtype or not (
        cls is datetime.timezone
        or (cls is zoneinfo.ZoneInfo and zone.key is not None)
        or cls.__module__.partition(".")[0] == "pytz"
    ):
        return None
    return _token(dtype, (dtype.unit, id(zone)), zone)


def period_token(dtype: Any) -> bytes | None:
    """The bytes of a `PeriodDtype`; None for unknown frequencies."""
    known = _by_id.get(id(dtype))
    if known is not None:
        return known[1]
    freq = dtype.freq
    if type(dtype) is not pd.PeriodDtype or type(freq) not in _SIMPLE_OFFSETS:
        return None
    return _token(dtype, (pd.PeriodDtype, type(freq), freq.n, freq.normalize), None)


def text_token(dtype: Any) -> bytes | None:
    """The bytes of a `StringDtype`; None for subclasses."""
    known = _by_id.get(id(dtype))
    if known is not None:
        return known[1]
    if type(dtype) is not pd.StringDtype:
        return None
    return _token(dtype, (pd.StringDtype, dtype.storage, dtype.na_value is pd.NA), None)


def _token(obj: Any, parts: tuple[Any, ...], keep: Any) -> bytes:
    known = _by_parts.get(parts)
    if known is None:
        known = keep, pickle.dumps(obj, 4)
        _by_parts.put(parts, known)
    _by_id.put(id(obj), (obj, known[1]))
    return known[1]
