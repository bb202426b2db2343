"""Event: a tuple of timestamp and data when unpacked, with attributes beside."""

from __future__ import annotations

import copy
import gc
import pickle
import zlib

import numpy as np
import pytest

from tests.helpers import NS, stream


@pytest.fixture
def event(et, tmp_path):
    (tmp_path / "t.tape").write_bytes(stream([(NS, b"first"), (NS + 1, b"payload")]))
    with et.open(tmp_path / "t.tape") as tape:
        return tape[1]


def test_an_event_unpacks(et, event):
    timestamp, data = event
    assert (timestamp, bytes(data)) == (NS + 1, b"payload")
    assert (event[0], bytes(event[1]), event[-2], bytes(event[-1]), len(event)) == (
        NS + 1,
        b"payload",
        NS + 1,
        b"payload",
        2,
    )
    assert isinstance(event, et.Event)
    with pytest.raises(IndexError):
        event[2]


def test_attributes(event):
    assert (event.timestamp, event.ordinal, event.offset, event.checksum) == (NS + 1, 1, 45, zlib.crc32(b"payload"))
    assert (type(event.timestamp), type(event.checksum)) == (int, int)


@pytest.mark.parametrize("name", ["timestamp", "data", "ordinal", "offset", "checksum"])
def test_an_event_cannot_be_changed(event, name):
    with pytest.raises(AttributeError):
        setattr(event, name, 1)
    with pytest.raises(AttributeError):
        event.other = 1
    with pytest.raises(TypeError):
        event.data[0] = 1


def test_equality_and_hash(et, event):
    same = et.Event(NS + 1, b"payload", ordinal=77)
    assert event == same == (NS + 1, b"payload")
    assert event != et.Event(NS, b"payload")
    assert event != et.Event(NS + 1, b"other")
    assert event != (NS + 1, b"payload", 1)
    assert event != [NS + 1, b"payload"]
    assert event != 5
    assert hash(event) == hash(same) == hash((NS + 1, memoryview(b"payload")))
    assert len({event, same}) == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_everything(et, event, protocol):
    again = pickle.loads(pickle.dumps(event, protocol))
    assert type(again) is et.Event
    assert again == event
    assert (again.ordinal, again.offset, again.checksum) == (event.ordinal, event.offset, event.checksum)
    assert again.data.readonly


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_hold_their_own_bytes(et, event, duplicate):
    again = duplicate(event)
    assert type(again) is et.Event
    assert (again, again.ordinal, again.offset, again.checksum) == (event, 1, 45, event.checksum)


def test_made_by_hand(et):
    event = et.Event(5, bytearray(b"abc"))
    assert (event.timestamp, bytes(event.data), event.ordinal, event.offset) == (5, b"abc", 0, 0)
    assert event.checksum == zlib.crc32(b"abc")
    assert event.data.readonly
    assert repr(event) == "Event(0, 1970-01-01T00:00:00.000000005Z, b'abc')"
    for wrong in (lambda: et.Event(), lambda: et.Event(5), lambda: et.Event(5, "text"), lambda: et.Event("x", b"")):
        with pytest.raises(TypeError):
            wrong()


def test_the_payload_as_bytes_and_text_and_the_time(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append("gr\u00fc\u00df".encode(), timestamp="2026-11-25T09:30:00.000000001Z")
        tape.append(b"\xff" * 100, timestamp=2**62)
        one, other = tape
    assert (one.bytes, one.text) == ("gr\u00fc\u00df".encode(), "gr\u00fc\u00df")
    assert one.time == np.datetime64("2026-11-25T09:30:00.000000001", "ns")
    assert one.time.dtype == np.dtype("datetime64[ns]")
    assert "2026-11-25T09:30:00.000000001Z" in repr(one)
    assert repr(other).endswith("\\xff'... 100 bytes)")
    with pytest.raises(UnicodeDecodeError):
        _ = other.text
    for name in ("bytes", "text", "time"):
        with pytest.raises(AttributeError):
            setattr(one, name, 1)


def test_the_payload_of_an_event_that_outlives_its_stream(et, tmp_path):
    """The native core makes the view when it is asked for."""
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_many([b"one", b"", "drei ü".encode()], timestamps=[1, 2, 3])
    with et.open(tmp_path / "t.tape") as tape:
        events = list(tape)
    gc.collect()
    assert [event.bytes for event in events] == [b"one", b"", "drei ü".encode()]
    assert [event.text for event in events] == ["one", "", "drei ü"]
    first = events[0].data
    assert (bytes(first), first.readonly, first.format, first.shape) == (b"one", True, "B", (3,))
    assert events[0].data is first
    assert list(events[0])[1] is first
    assert [bytes(event.data) for event in events] == [event.bytes for event in events]
    assert [event.text for event in events] == ["one", "", "drei ü"]
    assert len(events[1].data) == 0


def test_text_that_is_none(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"a\xff")
    with et.open(tmp_path / "t.tape") as tape:
        event = tape[0]
    found = []
    for _ in range(2):
        with pytest.raises(UnicodeDecodeError) as caught:
            _ = event.text
        found.append((caught.value.object, caught.value.start, str(caught.value)))
        assert bytes(event.data) == b"a\xff"
    assert found[0] == found[1]
    assert found[0][:2] == (b"a\xff", 1)
