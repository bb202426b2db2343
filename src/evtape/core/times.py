"""Times. Inside there are only int nanoseconds since 1970, UTC.

Accepted where a time goes in: int nanoseconds, aware datetime, numpy datetime64 (UTC, as numpy defines it) and
ISO 8601 text with a zone. A time without a zone is refused, because it means two different things.
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import errors
from .format import TIME_MAX, TIME_MIN

EXAMPLE = "2026-11-25T09:30:00.123456789Z"

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_SECOND = dt.timedelta(seconds=1)
_FRACTION = re.compile(r"([0-9W-]+[Tt ][0-9:]+)[.,]([0-9]{1,9})([Z+-].*|)")


def nanoseconds(value: Any, path: str) -> int:
    """``value`` as Unix nanoseconds within int64.

    Raises TypeError for what is not a time, ValueError for a time without a zone, for text that is not ISO 8601 and
    for NaT, OverflowError for a time outside int64. Each names ``path``.
    """
    if type(value) is int and TIME_MIN <= value <= TIME_MAX:
        return value
    if isinstance(value, np.datetime64):
        return _from_datetime64(value, path)
    if isinstance(value, dt.datetime):
        if value.utcoffset() is None:
            raise errors.naive_time(path, value)
        # pandas.Timestamp is a datetime that knows nanoseconds.
        result = (value - _EPOCH) // _MICROSECOND * 1000 + getattr(value, "nanosecond", 0)
    elif isinstance(value, str):
        result = _from_text(value, path)
    else:
        try:
            result = operator.index(value)
        except TypeError:
            raise errors.not_a_timestamp(path, value) from None
    if not TIME_MIN <= result <= TIME_MAX:
        raise errors.timestamp_out_of_range(path, result)
    return result


def _from_text(text: str, path: str) -> int:
    try:
        result, aware = parse_iso(text.strip())
    except ValueError:
        raise errors.not_iso(path, text, EXAMPLE) from None
    if not aware:
        raise errors.naive_time(path, text)
    return result


def parse_iso(text: str) -> tuple[int, bool]:
    """ISO 8601 text with up to nine decimals as nanoseconds, and whether it names a zone.

    Without a zone it is taken as UTC.

    The nanoseconds may lie outside int64. Raises ValueError for other text.
    """
    # datetime knows microseconds only, so the decimals are taken out and added again.
    parts = _FRACTION.fullmatch(text)
    whole, decimals = (parts[1] + parts[3], parts[2]) if parts else (text, "")
    if not parts and not {".", ","}.isdisjoint(text):  # decimals beyond the ninth would be dropped silently
        raise ValueError(f"{text!r} has more than nine decimals")
    when = dt.datetime.fromisoformat(whole)
    aware = when.utcoffset() is not None
    if not aware:
        when = when.replace(tzinfo=dt.UTC)
    return (when - _EPOCH) // _SECOND * 10**9 + int(decimals.ljust(9, "0")), aware


def iso(nanoseconds: int) -> str:
    """ISO 8601 in UTC with all nine decimals, so that parsing it gives the same number."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{_whole(seconds)}.{rest:09d}Z"


@functools.lru_cache(maxsize=256)
def _whole(seconds: int) -> str:
    return (_EPOCH + seconds * _SECOND).isoformat()[:-6]


def to_datetime64(nanoseconds: int) -> np.datetime64[Any]:
    """Nanoseconds as datetime64[ns]. The lowest int64 is NaT, as numpy defines it."""
    return np.datetime64(nanoseconds, "ns")


def _from_datetime64(value: np.datetime64, path: str) -> int:
    if np.isnat(value):
        raise ValueError(f"{path}: timestamp is NaT, which is not a time")
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
