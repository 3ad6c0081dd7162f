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

import numpy as np
import pandas as pd
from pandas._libs.tslibs import offsets

from arrowpool.codecs.recent import Recent

__all__ = ["frequency_token", "interval_token", "period_token", "text_token", "zoned_token"]

_LIMIT = 256
#: By what makes up the object; zones by their ids: the bytes, and the zone, so that no other object can have that id.
_known: Recent[tuple[Any, ...], tuple[bytes, Any]] = Recent(_LIMIT)

#: Offsets that are made of their attributes, and these are plain values. Not those with holidays, nor `DateOffset`.
_SIMPLE_OFFSETS: dict[type, tuple[str, ...]] = {
    cls: cls._attributes  # type: ignore[union-attr]  # of its stub
    for cls in (
        *(offsets.Day, offsets.Hour, offsets.Minute, offsets.Second, offsets.Milli, offsets.Micro, offsets.Nano),
        *(offsets.BusinessDay, offsets.Week),
        *(offsets.MonthEnd, offsets.MonthBegin, offsets.BusinessMonthEnd, offsets.BusinessMonthBegin),
        *(offsets.QuarterEnd, offsets.QuarterBegin, offsets.BQuarterEnd, offsets.BQuarterBegin),
        *(offsets.YearEnd, offsets.YearBegin, offsets.BYearEnd, offsets.BYearBegin),
    )
}
#: Types of their attributes' values, of which equal ones are pickled alike. Not `bool`, since True equals 1.
_PLAIN = frozenset({int, type(None), datetime.timedelta})


def frequency_token(freq: Any) -> bytes | None:
    """The bytes of the offset of an index; None for kinds that are made of more."""
    key = _key_of_offset(freq)
    return None if key is None else _token(freq, key)


def _key_of_offset(freq: Any) -> tuple[Any, ...] | None:
    cls = type(freq)
    names = _SIMPLE_OFFSETS.get(cls)
    if names is None:
        return None
    # The first two are a C integer and a C truth value.
    values = [getattr(freq, name) for name in names[2:]]
    return (cls, freq.n, freq.normalize, *values) if _PLAIN.issuperset(map(type, values)) else None


def zoned_token(dtype: Any) -> bytes | None:
    """The bytes of a `DatetimeTZDtype`; None for time zones of unknown kinds."""
    if type(dtype) is not pd.DatetimeTZDtype:
        return None
    zone = dtype.tz
    key = dtype.unit, id(zone)
    known = _known.get(key)
    if known is not None:
        return known[0]
    cls = type(zone)
    if not (
        cls is datetime.timezone
        or (cls is zoneinfo.ZoneInfo and zone.key is not None)
        or cls.__module__.partition(".")[0] == "pytz"
    ):
        return None
    return _token(dtype, key, zone)


def period_token(dtype: Any) -> bytes | None:
    """The bytes of a `PeriodDtype`; None for unknown frequencies."""
    if type(dtype) is not pd.PeriodDtype:
        return None
    key = _key_of_offset(dtype.freq)
    return None if key is None else _token(dtype, (pd.PeriodDtype, *key))


def interval_token(dtype: Any) -> bytes | None:
    """The bytes of an `IntervalDtype`; None for unknown kinds of ends."""
    if type(dtype) is not pd.IntervalDtype:
        return None
    ends = dtype.subtype
    detail = ends.str if isinstance(ends, np.dtype) and not ends.metadata else zoned_token(ends)
    return None if detail is None else _token(dtype, (pd.IntervalDtype, dtype.closed, detail))


def text_token(dtype: Any) -> bytes | None:
    """The bytes of a `StringDtype`; None for subclasses."""
    if type(dtype) is not pd.StringDtype:
        return None
    return _token(dtype, (pd.StringDtype, dtype.storage, dtype.na_value is pd.NA))


def _token(obj: Any, key: tuple[Any, ...], keep: Any = None) -> bytes:
    known = _known.get(key)
    if known is None:
        known = pickle.dumps(obj, 4), keep
        _known.put(key, known)
    return known[0]
