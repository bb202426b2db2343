"""Streams in memory: the queries, the views and the damage are those of a file with the same bytes."""

from __future__ import annotations

import copy
import gc
import io
import mmap
import os
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest

from tests.helpers import DATA, ENTRY, HEADER, NS, pairs, sample, stream

EVENTS = sample(200)
RAW = stream(EVENTS)


def unaligned(raw):
    """The bytes at every distance from an aligned address."""
    for shift in range(1, 17):
        yield memoryview(bytes(shift) + raw)[shift:]


KINDS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "unaligned": lambda raw: memoryview(b"x" + raw)[1:],
    "numpy": lambda raw: np.frombuffer(raw, np.uint8),
    "numpy-words": lambda raw: np.frombuffer(raw.ljust(-(-len(raw) // 8) * 8, b"\0"), "<i8"),
    "two-dimensional": lambda raw: np.frombuffer(raw.ljust(-(-len(raw) // 8) * 8, b"\0"), np.uint8).reshape(-1, 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_query_answers_as_of_a_file(et, tmp_path, kind):
    path = tmp_path / "t.tape"
    path.write_bytes(RAW)
    with et.open(path) as file, et.frombuffer(KINDS[kind](RAW)) as tape:
        assert len(tape) == 200
        assert pairs(tape) == pairs(reversed(list(reversed(tape)))) == EVENTS
        assert tape[-1] == file[-1]
        assert tape[3].offset == file[3].offset
        assert pairs(tape[10:90:7]) == pairs(file[10:90:7])
        assert tape.start_timestamp == file.start_timestamp
        for name in ("timestamps", "sizes", "offsets"):
            assert np.array_equal(getattr(tape, name), getattr(file, name))
        window = {"starting_at": NS + 50_000, "ending_before": NS + 90_000}
        assert pairs(tape.between(**window)) == pairs(file.between(**window))
        assert tape.searchsorted(NS + 77_500) == file.searchsorted(NS + 77_500)
        assert tape.durable == et.Position(0, 24)
        assert not tape.replaced
        assert isinstance(tape, et.Reader)


def test_rows_and_unsorted_times(et):
    events = [(NS + (i * 7919) % 1000, ENTRY.pack(i, i, i)) for i in range(500)]
    with et.frombuffer(stream(events)) as tape:
        assert np.array_equal(tape.rows("<i8, <u4, <u4")["f0"], np.arange(500))
        found = tape.between(starting_at=NS + 100, ending_before=NS + 200)
        assert pairs(found) == [event for event in events if NS + 100 <= event[0] < NS + 200]
        with pytest.raises(ValueError, match="timestamps go backwards"):
            tape.searchsorted(NS)


def test_every_alignment(et):
    for view in unaligned(RAW):
        with et.frombuffer(view) as tape:
            assert pairs(tape) == EVENTS
            assert pairs(tape[150:]) == EVENTS[150:]


def test_nothing_is_copied(et):
    buffer = bytearray(RAW)
    with et.frombuffer(buffer) as tape:
        for data in (tape[7].data, next(iter(tape[7:])).data):
            assert data.readonly
            address = np.frombuffer(data, np.uint8).ctypes.data
            assert address == np.frombuffer(buffer, np.uint8).ctypes.data + tape[7].offset + 16


def test_a_large_buffer_is_whole_after_it_was_walked(et):
    # Pages of a file that were read are dropped; those of the heap would be zeros afterwards.
    payload = bytes(range(256)) * 4096
    events = [(NS + i, payload) for i in range(100)]
    buffer = np.frombuffer(stream(events), np.uint8).copy()
    with et.frombuffer(buffer) as tape:
        assert len(tape) == 100
        assert sum(len(data) for _, data in tape) == 100 * len(payload)
        assert pairs(tape) == events
    assert bytes(buffer) == stream(events)


def test_the_buffer_lives_as_long_as_its_views(et):
    class Owner(np.ndarray):
        pass

    owner = np.frombuffer(RAW, np.uint8).copy().view(Owner)
    alive = weakref.ref(owner)
    tape = et.frombuffer(owner)
    event = tape[5]
    tape.close()
    del owner, tape
    gc.collect()
    assert alive() is not None
    assert bytes(event.data) == EVENTS[5][1]
    del event
    gc.collect()
    assert alive() is None


def test_a_buffer_is_released_at_the_end(et):
    buffer = bytearray(RAW)
    with et.frombuffer(buffer) as tape:
        with pytest.raises(BufferError):
            buffer.append(0)
        assert len(tape) == 200
    del tape
    gc.collect()
    buffer.append(0)


def test_a_closed_one(et):
    tape = et.frombuffer(RAW, name="message 7")
    tape.close()
    tape.close()
    assert tape.closed
    for ask in (len, list, lambda tape: tape[0], lambda tape: tape.timestamps, lambda tape: pickle.dumps(tape)):
        with pytest.raises(et.ClosedError, match="message 7"):
            ask(tape)
    assert "closed" in repr(tape)


@pytest.mark.parametrize("name", sorted(p.name for p in DATA.glob("*.tape")))
def test_damage_says_the_same_as_in_a_file(et, name):
    path = DATA / name

    def told(reader):
        try:
            with reader() as tape:
                said, events = [], iter(tape)
                while True:
                    try:
                        event = next(events, None)
                    except et.CorruptError as error:
                        said.append((type(error).__name__, str(error), error.ordinal, error.offset, error.reason))
                        if error.reason != "checksum":
                            break
                    else:
                        if event is None:
                            break
                        said.append((event.timestamp, bytes(event.data), event.ordinal, event.offset))
                return said, len(tape), tape.timestamps.tolist()
        except et.Error as error:
            return type(error).__name__, str(error)

    raw = path.read_bytes()
    in_memory = told(lambda: et.frombuffer(memoryview(b"xyz" + raw)[3:], name=str(path)))
    in_file = told(lambda: et.open(path))
    if len(raw) < HEADER.size:
        assert in_memory[0] == in_file[0] == "FormatError"
    else:
        assert in_memory == in_file


@pytest.mark.parametrize("length", [0, 1, 23])
def test_too_short(et, length):
    with pytest.raises(et.FormatError, match=f"message: {length} bytes are not a stream"):
        et.frombuffer(RAW[:length], name="message")


def test_a_cut_buffer(et):
    with pytest.raises(et.TruncatedError, match=f"message: .*has {len(RAW) - 1} bytes.*publishes {len(RAW)}"):
        et.frombuffer(RAW[:-1], name="message")


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("t.tape", TypeError, "str; to read a file use evtape.open"),
        (None, TypeError, "NoneType"),
        ([1, 2], TypeError, "list"),
        (np.zeros(100, np.uint8)[::2], ValueError, "not contiguous"),
        (np.zeros((40, 40), np.uint8).T[1:], ValueError, "not contiguous"),
    ],
)
def test_what_is_no_buffer(et, value, error, says):
    with pytest.raises(error, match=f"^<buffer>: .*{says}"):
        et.frombuffer(value)


def test_a_released_view(et):
    view = memoryview(RAW)
    view.release()
    with pytest.raises(ValueError, match="released"):
        et.frombuffer(view)


def test_a_header_that_changes(et):
    buffer = bytearray(RAW + bytes(100))
    more = stream([*EVENTS, (NS + 10**9, b"new")])
    with et.frombuffer(buffer) as tape:
        assert len(tape) == 200
        buffer[24 : len(more)] = more[24:]
        buffer[:24] = more[:24]  # a mapping of a stream that is written does this
        assert len(tape) == 201
        assert tape[-1].bytes == b"new"
        buffer[:8] = (24).to_bytes(8, "little")
        with pytest.raises(et.RewoundError):
            len(tape)
        buffer[:8] = (10**6).to_bytes(8, "little")
        with pytest.raises(et.TruncatedError):
            tape[0]


def test_sizes_that_change_stay_inside(et):
    buffer = bytearray(RAW)
    with et.frombuffer(buffer) as tape:
        events = iter(tape)
        next(events)
        for at in range(24, len(buffer) - 4, 4):
            buffer[at : at + 4] = b"\xff\xff\xff\x7f"
        with pytest.raises(et.Error):
            list(events)


def test_pickles_as_a_copy(et):
    with et.frombuffer(bytearray(RAW), name="message") as tape:
        for other in (pickle.loads(pickle.dumps(tape)), copy.copy(tape)):
            assert pairs(other) == EVENTS
            assert other.path == "message"
        assert pairs(pickle.loads(pickle.dumps(tape[5:9]))) == EVENTS[5:9]


def test_following_ends_and_cursors_are_refused(et, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with et.frombuffer(RAW, name="message") as tape:
        assert pairs(tape.follow(until="closed")) == EVENTS
        assert pairs(tape.follow(timeout=0.2)) == EVENTS
        with pytest.raises(io.UnsupportedOperation, match="message: the stream is in memory"):
            tape.cursor("c")
        with pytest.raises(et.ReadOnlyError):
            tape.append(b"x")
    assert os.listdir(tmp_path) == []


def test_merged_with_others(et):
    one, other = EVENTS[::2], EVENTS[1::2]
    with et.frombuffer(stream(one)) as left, et.frombuffer(stream(other)) as right:
        with et.merge([left, right]) as merged:
            assert pairs(merged) == EVENTS
            assert pairs(merged.follow(until="closed")) == EVENTS
        with pytest.raises(ValueError, match="twice"):
            et.merge([left, left])


def test_a_mapping_of_ones_own(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(RAW)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        with et.frombuffer(mapping) as tape:
            assert pairs(tape[20:30]) == EVENTS[20:30]
        del tape
        gc.collect()


@pytest.mark.skipif(os.name == "nt", reason="a mapped file cannot be cut there")
@pytest.mark.parametrize(("size", "error"), [(98_304, "TruncatedError"), (100_000, "RewoundError")])
def test_a_mapping_that_is_cut(packages, tmp_path, size, error):
    if "native" not in packages:
        pytest.skip("the pure core has no guard")
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, bytes(5000)) for i in range(100)]))
    code = """
import mmap, os, sys, evtape
file = open(sys.argv[1], "rb")
tape = evtape.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), name="mine")
assert len(tape) == 100
os.truncate(sys.argv[1], int(sys.argv[2]))
try:
    list(tape)
except evtape.Error as error:
    print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", code, path, str(size)]  # at the end of a page, and within one
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{error} mine: ")


def test_both_cores_say_the_same(both):
    bad = bytearray(RAW)
    bad[24 + 16 + 16] ^= 1  # the first byte of event 1
    said = []
    for package in both:
        with package.frombuffer(bytes(bad), name="m") as tape:
            with pytest.raises(package.CorruptError) as caught:
                list(tape)
            said.append((str(caught.value), repr(tape[3:5])))
    assert said[0] == said[1]
