"""Times that go in: int nanoseconds, datetime, datetime64, each exact to the nanosecond."""

from __future__ import annotations

import datetime as dt
import sys

import numpy as np
import pytest

from tests.helpers import NS

UTC = dt.UTC

TIMES = {
    "int": (NS, NS),
    "bool": (True, 1),
    "numpy-int64": (np.int64(NS), NS),
    "numpy-int8": (np.int8(-3), -3),
    "numpy-uint64": (np.uint64(2**63 - 1), 2**63 - 1),
    "lowest": (-(2**63), -(2**63)),
    "highest": (2**63 - 1, 2**63 - 1),
    "datetime": (dt.datetime(2022, 1, 1, 0, 10, 23, 456789, UTC), 1640995823456789000),
    "datetime-zone": (dt.datetime(2022, 1, 1, 2, 10, 23, 0, dt.timezone(dt.timedelta(hours=2))), 1640995823000000000),
    "datetime-before-1970": (dt.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), -1000),
    "datetime64-ns": (np.datetime64(NS + 1, "ns"), NS + 1),
    "datetime64-us": (np.datetime64("2022-01-01T00:10:23.000001"), NS + 1000),
    "datetime64-s": (np.datetime64(7, "s"), 7 * 10**9),
    "datetime64-25s": (np.datetime64(2, "25s"), 50 * 10**9),
    "datetime64-D": (np.datetime64("1970-01-03"), 2 * 86400 * 10**9),
    "datetime64-W": (np.datetime64(1, "W"), 7 * 86400 * 10**9),
    "datetime64-M": (np.datetime64("1970-03"), 59 * 86400 * 10**9),
    "datetime64-Y": (np.datetime64("1971"), 365 * 86400 * 10**9),
    "datetime64-ps": (np.datetime64(12_345, "ps"), 12),
    "datetime64-as": (np.datetime64(5 * 10**9, "as"), 5),
}


@pytest.mark.parametrize(("value", "expected"), TIMES.values(), ids=TIMES)
def test_a_time_is_exact_wherever_it_goes_in(et, tmp_path, value, expected):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=value)
        tape.append(bytearray(b"x"), value)
        tape.append_many([b"x"], [value])
        tape.append_array(np.zeros((1, 1)), (value,))
        assert tape.timestamps.tolist() == [expected] * 4
        assert tape.searchsorted(value) == 0
        assert tape.searchsorted(value, "right") == 4
        assert len(tape.between(starting_at=value, ending_at=value)) == 4
        assert len(tape.between(starting_after=value)) == 0
        assert len(tape.between(ending_before=value)) == 0


def test_a_class_with_an_index(et, tmp_path):
    class Stamp:
        def __index__(self) -> int:
            return NS

    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=Stamp())
        tape.append_many([b"x"], [Stamp()])
        assert tape.timestamps.tolist() == [NS, NS]


@pytest.mark.parametrize("value", [dt.datetime(2022, 1, 1, 0, 10, 23), "2022-01-01T00:10:23", "2022-01-01"], ids=str)
def test_a_time_without_a_zone_is_refused_with_both_ways_out(et, tmp_path, value):
    with et.open(tmp_path / "t.tape", "w") as tape:
        for call in (
            lambda: tape.append(b"x", timestamp=value),
            lambda: tape.append_many([b"x"], [value]),
            lambda: tape.between(starting_at=value),
            lambda: tape.searchsorted(value),
        ):
            with pytest.raises(ValueError, match=r"has no zone; for UTC .*'Z', for local time .*\+01:00") as caught:
                call()
            assert str(tape.path) in str(caught.value)
            assert str(value) in str(caught.value)
        assert len(tape) == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2022-01-01T00:10:23Z", NS),
        ("2022-01-01T01:10:23+01:00", NS),
        (" 2022-01-01 00:10:23.000000007Z ", NS + 7),
        ("2022-01-01T00:10:23,5Z", NS + 500_000_000),
        ("20220101T001023Z", NS),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_iso_text_is_a_time_everywhere(et, tmp_path, text, wanted):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=text)
        tape.append_many([b"x"], [text])
        assert tape.timestamps.tolist() == [wanted, wanted]
        assert len(tape.between(starting_at=text, ending_at=text)) == 2
        assert tape.searchsorted(text, "right") == 2


def test_shown_times_come_back(et):
    times = sys.modules["evtape.core.times"]
    for value in (0, -1, NS, 2**63 - 1, -(2**63)):
        assert times.parse_iso(times.iso(value)) == (value, True)


def test_nanoseconds_of_a_datetime_subclass_count(et, tmp_path):
    class Fine(dt.datetime):  # as pandas.Timestamp is
        nanosecond = 7

    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=Fine(2022, 1, 1, 0, 10, 23, 0, UTC))
        assert tape[0].timestamp == NS + 7


BAD = [
    ("now", ValueError),
    ("2022-01-01T00:00:00.1234567890Z", ValueError),
    (1.5, TypeError),
    (2**63, OverflowError),
    (np.datetime64("NaT", "s"), ValueError),
]


@pytest.mark.parametrize(("value", "error"), BAD, ids=[str(value) for value, _ in BAD])
def test_a_bad_time_in_a_query(et, tmp_path, value, error):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=NS)
        for query in (
            lambda: tape.searchsorted(value),
            lambda: tape.between(starting_at=value),
            lambda: tape.between(starting_after=value),
            lambda: tape.between(ending_at=value),
            lambda: tape[:].between(ending_before=value),
        ):
            with pytest.raises(error) as caught:
                query()
            assert str(tape.path) in str(caught.value)
