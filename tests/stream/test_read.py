"""The read path: a tape is a sequence of events, whose payloads stay valid whatever happens afterwards."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from tests.helpers import NS, entry, pairs, sample, stream

EVENTS = sample(200)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(EVENTS))
    return path


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_tape_is_a_sequence(et, path, mode):
    with et.open(path, mode) as tape:
        assert not isinstance(tape, Sequence)  # of which polars makes a column of objects, not a table
        assert len(tape) == 200
        assert pairs(tape) == pairs(reversed(list(reversed(tape)))) == EVENTS
        assert [(tape[i].timestamp, bytes(tape[i].data)) for i in range(-200, 200)] == EVENTS * 2
        assert tape[np.int64(5)] == tape[5]
        assert tape[7] in tape
        assert tape.index(tape[150]) == 150
        assert (NS - 1, b"") not in tape


@pytest.mark.parametrize("index", [200, -201, 10**30, -(10**30)])
def test_an_index_outside(et, path, index):
    with (
        et.open(path) as tape,
        pytest.raises(IndexError, match=f"index {index} is outside a stream of 200 events") as caught,
    ):
        tape[index]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("index", ["a", 1.0, None, (1, 2)])
def test_an_index_that_is_none(et, path, index):
    with et.open(path) as tape, pytest.raises(TypeError):
        tape[index]


def test_the_attributes_of_an_event(et, path):
    raw = path.read_bytes()
    with et.open(path) as tape:
        for ordinal, event in enumerate(tape):
            assert event.ordinal == ordinal
            size = len(event.data)
            assert raw[event.offset : event.offset + 16 + size] == entry(event.timestamp, bytes(event.data))
            assert raw[event.offset + 12 : event.offset + 16] == event.checksum.to_bytes(4, "little")


@pytest.mark.parametrize("mode", ["r", "a"])
def test_payloads_are_read_only_views(et, path, mode):
    with et.open(path, mode) as tape:
        for data in (tape[3].data, next(iter(tape[3:])).data, list(tape)[3].data):
            assert isinstance(data, memoryview)
            assert (data.readonly, data.format, data.ndim, data.itemsize, data.c_contiguous) == (True, "B", 1, 1, True)
            assert data.shape == (len(EVENTS[3][1]),)
            with pytest.raises(TypeError):
                data[0] = 1
            assert not np.frombuffer(data, np.uint8).flags.writeable


def test_payloads_of_the_native_core_are_not_copied(et, path):
    # The pure core hands out copies: without C nothing turns a SIGBUS into an exception.
    with et.open(path) as tape:
        whole = np.frombuffer(memoryview(tape._source.region.view(0, tape._source.region.size)), np.uint8)
        for event in tape:
            shares = np.shares_memory(whole, np.frombuffer(event.data, np.uint8))
            assert shares is (et.backend == "native" and len(event.data) > 0)


def test_views_outlive_close(et, path):
    with et.open(path) as tape:
        events = list(tape)
        one, array = tape[10], np.frombuffer(tape[11].data, np.uint8)
    del tape
    gc.collect()
    assert pairs(events) == EVENTS
    assert (bytes(one.data), array.tobytes()) == (EVENTS[10][1], EVENTS[11][1])


def test_views_outlive_a_writer_that_grows_and_closes(et, path):
    with et.open(path, "a", durability="none") as tape:
        early = list(tape)
        for _ in range(40):
            tape.append(bytes(1 << 20))
        late = tape[-1]
    del tape
    gc.collect()
    assert pairs(early) == EVENTS
    assert bytes(late.data) == bytes(1 << 20)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be removed there")
def test_views_outlive_the_file(et, path):
    tape = et.open(path)
    event = tape[10]
    path.unlink()
    assert pairs(tape) == EVENTS
    tape.close()
    assert bytes(event.data) == EVENTS[10][1]


def test_iteration_ends_at_what_was_published_when_it_began(et, path):
    with et.open(path, "a") as tape:
        iterator = iter(tape)
        tape.append(b"later", timestamp=NS)
        assert len(list(iterator)) == 200
        assert len(tape) == 201
        for _ in tape:
            tape.append(b"never meets itself", timestamp=NS)
        assert len(tape) == 402


def test_an_iterator_that_ended_stays_ended(et, path):
    with et.open(path) as tape:
        iterator = iter(tape)
        assert len(list(iterator)) == 200
        with pytest.raises(StopIteration):
            next(iterator)


def test_an_empty_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([]))
    with et.open(path) as tape:
        assert (len(tape), list(tape), list(tape[:]), bool(tape)) == (0, [], [], False)
        for column in (tape.timestamps, tape.sizes, tape.offsets):
            assert (column.shape, column.dtype) == ((0,), np.int64)
        assert (tape.searchsorted(NS), len(tape.between(starting_at=0))) == (0, 0)
        assert tape.rows("f8").shape == (0,)
        with pytest.raises(IndexError):
            tape[0]
        with pytest.raises(IndexError):
            tape[-1]


def test_a_reader_pickles_and_copies_as_its_path(et, path):
    with et.open(path, verify_checksums=False) as tape:
        for again in (pickle.loads(pickle.dumps(tape)), copy.copy(tape), copy.deepcopy(tape)):
            with again:
                assert type(again) is type(tape)
                assert (again.path, again.verify_checksums) == (tape.path, False)
                assert pairs(again) == EVENTS
        assert pairs(tape) == EVENTS  # closing a copy does not close this one


def test_verify_off_hands_out_damaged_payloads(et, path):
    raw = bytearray(path.read_bytes())
    with et.open(path) as tape:
        at = tape[100].offset + 16
    raw[at] ^= 1
    path.write_bytes(raw)
    with et.open(path, verify_checksums=False) as tape:
        assert bytes(tape[100].data) == raw[at : at + len(EVENTS[100][1])]
        assert len(list(tape)) == 200
        assert len(tape[100:101].rows(f"V{len(EVENTS[100][1])}")) == 1
    with et.open(path) as tape:
        for use in (lambda: tape[100], lambda: list(tape), lambda: list(tape[90:110]), lambda: list(tape[::-1]),
                    lambda: tape[100:101].rows(f"V{len(EVENTS[100][1])}")):  # fmt: skip
            with pytest.raises(et.CorruptError, match="checksum") as caught:
                use()
            assert (caught.value.ordinal, caught.value.offset, caught.value.reason) == (100, at - 16, "checksum")
            assert str(path) in str(caught.value)
        assert (len(tape), bytes(tape[101].data)) == (200, EVENTS[101][1])
        assert len(tape.timestamps) == 200  # columns need no payload


def test_the_same_iterator_goes_on_after_a_bad_checksum(et, path):
    raw = bytearray(path.read_bytes())
    with et.open(path) as tape:
        raw[tape[100].offset + 16] ^= 1
    path.write_bytes(raw)
    with et.open(path) as tape:
        iterator, seen, errors = iter(tape), [], 0
        while True:
            try:
                seen.append(next(iterator).ordinal)
            except StopIteration:
                break
            except et.CorruptError:
                errors += 1
    assert (errors, seen) == (1, [i for i in range(200) if i != 100])


def test_sixteen_zero_bytes_are_an_event_where_the_count_adds_up(et, tmp_path):
    path = tmp_path / "t.tape"
    events = [(NS, b"a"), (0, b""), (NS, b"b"), (0, b"")]
    path.write_bytes(stream(events))
    with et.open(path) as tape:
        assert (len(tape), pairs(tape)) == (4, events)
    assert et.verify(path).state == "clean"
    path.write_bytes(stream(events, count=2))
    with et.open(path) as tape:
        assert (len(tape), bytes(tape[0].data)) == (1, b"a")
        iterator = iter(tape)
        next(iterator)
        with pytest.raises(et.CorruptError) as caught:
            next(iterator)
        assert (caught.value.ordinal, caught.value.offset, caught.value.reason) == (1, 41, "zero")
    report = et.verify(path)
    assert (report.state, report.reason, report.events, report.end) == ("damaged", "zero", 1, 41)


def test_repr_names_the_file(et, path):
    tape = et.open(path)
    assert str(path) in repr(tape)
    assert "200" in repr(tape[:])
    tape.close()
    assert "closed" in repr(tape)
