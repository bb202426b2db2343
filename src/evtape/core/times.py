"""Times that go in: int nanoseconds, datetime, numpy datetime64.

Inside there are only int nanoseconds since 1970, UTC.
"""

from __future__ import annotations

import datetime as dt
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import errors
from .format import TIME_MAX, TIME_MIN

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def nanoseconds(value: Any, path: str) -> int:
    """``value`` as Unix nanoseconds within int64. A naive datetime is local time, as everywhere in ``datetime``.

    Raises TypeError for what is no time, OverflowError for one outside int64 and ValueError for NaT; each names
    ``path``.
    """
    if type(value) is int and TIME_MIN <= value <= TIME_MAX:
        return value
    if isinstance(value, np.datetime64):
        return _from_datetime64(value, path)
    if isinstance(value, dt.datetime):
        # pandas.Timestamp is a datetime that knows nanoseconds.
        try:
            aware = value.astimezone(dt.UTC) if value.utcoffset() is None else value
        except (OverflowError, ValueError, OSError):  # local time at the ends of what a datetime can be
            raise errors.no_such_time(path, value) from None
        result = (aware - _EPOCH) // _MICROSECOND * 1000 + getattr(value, "nanosecond", 0)
    else:
        try:
            result = operator.index(value)
        except TypeError:
            raise errors.not_a_timestamp(path, value) from None
    if not TIME_MIN <= result <= TIME_MAX:
        raise errors.timestamp_out_of_range(path, result)
    return result


def _from_datetime64(value: np.datetime64, path: str) -> int:
    if np.isnat(value):
        raise ValueError(f"{path}: timestamp is NaT, which is no time")
    unit = np.datetime_data(value.dtype)
    if unit[0] in ("Y", "M"):
        value, unit = value.astype("datetime64[D]"), ("D", 1)
    scale, divisor = _UNITS[unit[0]]  # a datetime64 without a unit can only be NaT
    result = int(value.astype(np.int64)) * unit[1] * scale // divisor
    if not TIME_MIN <= result <= TIME_MAX:
        raise errors.timestamp_out_of_range(path, result)
    return result


# Nanoseconds per unit as (factor, divisor), exact in Python's integers where numpy's own cast would wrap around.
_UNITS = {
    "W": (7 * 86400 * 10**9, 1),
    "D": (86400 * 10**9, 1),
    "h": (3600 * 10**9, 1),
    "m": (60 * 10**9, 1),
    "s": (10**9, 1),
    "ms": (10**6, 1),
    "us": (10**3, 1),
    "ns": (1, 1),
    "ps": (1, 10**3),
    "fs": (1, 10**6),
    "as": (1, 10**9),
}


def nanosecond_array(values: Any, path: str) -> npt.NDArray[np.int64]:
    """Many times as a contiguous int64 array, shape (n,), unit ns.

    Integer and datetime64[ns] arrays convert without a loop.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1:
        if values.dtype == np.dtype("datetime64[ns]") and not np.isnat(values).any():
            return np.ascontiguousarray(values).view(np.int64)
        if values.dtype.kind == "i" or (values.dtype.kind == "u" and values.dtype.itemsize < 8):
            return np.ascontiguousarray(values, dtype=np.int64)
    try:
        items = list(values)
    except TypeError:
        raise errors.not_a_sequence(path, "timestamps", values) from None
    return np.fromiter((nanoseconds(item, path) for item in items), dtype=np.int64, count=len(items))
