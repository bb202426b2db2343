"""What a writer must refuse, as one table: what is done, which exception it is, and the value its message names.

`test_errors.py` checks each line on each core, `test_parity.py` that both cores say the same, word for word.
"""

from __future__ import annotations

import datetime as dt
import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.helpers import NS


class Bad(NamedTuple):
    id: str
    call: Callable[[Any], object]
    error: type[Exception]
    names: str


def _huge() -> Any:
    """A payload one byte too large. The memory is never touched, so it costs address space only."""
    return memoryview(np.zeros(2**32, np.uint8))


def _released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


_STRIDED = memoryview(bytes(10))[::2]
_FORTRAN = np.zeros((3, 2), order="F")
_OBJECTS = np.array([object(), object()])

PAYLOADS = [
    ("str", "text", TypeError, "str; encode it first"),
    ("list", [1, 2], TypeError, "list"),
    ("tuple", (b"a",), TypeError, "tuple"),
    ("none", None, TypeError, "NoneType"),
    ("int", 5, TypeError, "int"),
    ("float", 1.5, TypeError, "float"),
    ("object", object(), TypeError, "object"),
    ("type", bytes, TypeError, "type"),
    ("strided-view", _STRIDED, ValueError, "not contiguous"),
    ("strided-array", np.arange(10)[::2], ValueError, "not contiguous"),
    ("reversed-array", np.arange(10)[::-1], ValueError, "not contiguous"),
    ("fortran-array", _FORTRAN, ValueError, "not contiguous"),
    ("fortran-view", memoryview(_FORTRAN), ValueError, "not contiguous"),
    ("released", _released(), ValueError, "released"),
    ("object-array", np.array([object()]), ValueError, "Python objects"),
]

TIMES = [
    ("above-int64", 2**63, OverflowError, str(2**63)),
    ("below-int64", -(2**63) - 1, OverflowError, str(-(2**63) - 1)),
    ("far-above", 10**30, OverflowError, str(10**30)),
    ("uint64", np.uint64(2**63), OverflowError, str(2**63)),
    ("datetime-far", dt.datetime(9999, 1, 1, tzinfo=dt.UTC), OverflowError, "253370764800000000000"),
    ("datetime64-far", np.datetime64(2**62, "s"), OverflowError, str(2**62 * 10**9)),
    ("nat", np.datetime64("NaT", "D"), ValueError, "NaT"),
    ("nat-ns", np.datetime64("NaT", "ns"), ValueError, "NaT"),
    ("float", 1.5, TypeError, "float"),
    ("numpy-float", np.float64(1.5), TypeError, "float64"),
    ("str", "now", ValueError, "not an ISO 8601 time"),
    ("naive", "2022-01-01T00:00", ValueError, "has no zone"),
    ("naive-datetime", dt.datetime(2022, 1, 1), ValueError, "has no zone"),
    ("bytes", b"1", TypeError, "bytes"),
    ("date", dt.date(2022, 1, 1), TypeError, "date"),
    ("timedelta64", np.timedelta64(1, "s"), TypeError, "timedelta64"),
    ("list", [1], TypeError, "list"),
]


def _payload_lines() -> list[Bad]:
    lines = []
    for name, value, error, names in PAYLOADS:
        lines += [
            Bad(f"append-{name}", lambda tape, value=value: tape.append(value, timestamp=NS), error, names),
            Bad(f"append-now-{name}", lambda tape, value=value: tape.append(value), error, names),
            Bad(
                f"many-{name}",
                lambda tape, value=value: tape.append_many([b"a", bytearray(b"b"), value, b"c"]),
                error,
                names,
            ),
        ]
        if name != "released":
            call = lambda tape, value=value: tape.append_many([b"a", b"b", value], [1, 2, 3])  # noqa: E731
            lines.append(Bad(f"many-names-position-{name}", call, error, "payload 2"))
    return lines


def _time_lines() -> list[Bad]:
    lines = []
    for name, value, error, names in TIMES:
        lines += [
            Bad(f"time-{name}", lambda tape, value=value: tape.append(b"x", timestamp=value), error, names),
            Bad(
                f"time-view-{name}",
                lambda tape, value=value: tape.append(memoryview(b"x"), timestamp=value),
                error,
                names,
            ),
            Bad(
                f"many-time-{name}", lambda tape, value=value: tape.append_many([b"a", b"b"], [NS, value]), error, names
            ),
            Bad(
                f"array-time-{name}",
                lambda tape, value=value: tape.append_array(np.zeros((2, 2)), (NS, value)),
                error,
                names,
            ),
        ]
    return lines


TABLE = [
    *_payload_lines(),
    *_time_lines(),
    Bad("append-huge", lambda tape: tape.append(_huge()), ValueError, "4294967296 bytes is larger than 4294967295"),
    Bad("append-huge-mmap", lambda tape: tape.append(mmap.mmap(-1, 2**32), timestamp=NS), ValueError, "4294967296"),
    Bad("append-huge-words", lambda tape: tape.append(np.zeros(2**29 + 1)), ValueError, "4294967304"),
    Bad("many-huge", lambda tape: tape.append_many([b"a", _huge(), b"c"]), ValueError, "payload 1 of 4294967296 bytes"),
    Bad("array-huge", lambda tape: tape.append_array(np.zeros((1, 2**32), np.uint8)), ValueError, "4294967296"),
    Bad("zero", lambda tape: tape.append(b"", timestamp=0), ValueError, "timestamp 0 with an empty payload"),
    Bad("zero-view", lambda tape: tape.append(memoryview(b""), 0), ValueError, "timestamp 0 with an empty payload"),
    Bad("zero-false", lambda tape: tape.append(bytearray(), False), ValueError, "timestamp 0 with an empty payload"),
    Bad("many-zero", lambda tape: tape.append_many([b"a", b"", b"c"], [NS, 0, NS]), ValueError, "empty payload 1"),
    Bad("array-zero", lambda tape: tape.append_array(np.empty((3, 0)), [1, 2, 0]), ValueError, "empty payload 2"),
    Bad("many-lengths", lambda tape: tape.append_many([b"a", b"b"], [1]), ValueError, "2 payloads but 1 timestamps"),
    Bad(
        "many-lengths-more",
        lambda tape: tape.append_many([b"a"], np.arange(3)),
        ValueError,
        "1 payloads but 3 timestamps",
    ),
    Bad("many-lengths-none", lambda tape: tape.append_many([], [1]), ValueError, "0 payloads but 1 timestamps"),
    Bad(
        "array-lengths",
        lambda tape: tape.append_array(np.zeros((3, 2)), [1, 2]),
        ValueError,
        "3 payloads but 2 timestamps",
    ),
    Bad("many-times-floats", lambda tape: tape.append_many([b"a"], np.array([1.5])), TypeError, "float64"),
    Bad(
        "many-times-uint64",
        lambda tape: tape.append_many([b"a"], np.array([2**63], np.uint64)),
        OverflowError,
        str(2**63),
    ),
    Bad(
        "many-times-nat",
        lambda tape: tape.append_many([b"a", b"b"], np.array([1, "NaT"], "datetime64[ns]")),
        ValueError,
        "NaT",
    ),
    Bad("many-times-2d", lambda tape: tape.append_many([b"a"], np.array([[1]])), TypeError, "ndarray"),
    Bad("many-times-0d", lambda tape: tape.append_many([b"a"], np.array(1)), TypeError, "ndarray"),
    Bad("many-times-scalar", lambda tape: tape.append_many([b"a"], 5), TypeError, "int"),
    Bad(
        "many-bytes",
        lambda tape: tape.append_many(b"abc"),
        TypeError,
        "payload 0 must be a contiguous bytes-like object, not int",
    ),
    Bad(
        "many-str",
        lambda tape: tape.append_many("abc"),
        TypeError,
        "payload 0 must be a contiguous bytes-like object, not str",
    ),
    Bad("many-scalar", lambda tape: tape.append_many(5), TypeError, "int"),
    Bad("array-0d", lambda tape: tape.append_array(np.array(5)), ValueError, "at least one dimension"),
    Bad("array-scalar", lambda tape: tape.append_array(5), ValueError, "at least one dimension"),
    Bad("array-objects", lambda tape: tape.append_array(_OBJECTS), ValueError, "Python objects"),
    Bad("array-object-field", lambda tape: tape.append_array(np.zeros(2, [("o", "O")])), ValueError, "Python objects"),
    Bad("array-ragged", lambda tape: tape.append_array([[1], [2, 3]]), ValueError, "inhomogeneous"),
]
