"""The append path: modes, creation, exact bytes, room, timestamps, and what a writer leaves when it does not close."""

from __future__ import annotations

import array
import gc
import mmap
import os
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers import FUTURE, HEADER, NS, pairs, prefix, published, sample, stream

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX semantics")


def test_a_new_stream_is_its_header_alone(et, tmp_path):
    path = tmp_path / "t.tape"
    before = time.time_ns()
    with et.open(path, "x") as tape:
        assert tape.start_timestamp == HEADER.unpack(path.read_bytes()[:24])[2]
    offset, count, start = HEADER.unpack(path.read_bytes())
    assert (offset, count) == (24, 0)
    assert before <= start <= time.time_ns()
    assert os.listdir(tmp_path) == ["t.tape"]


def test_file_is_byte_for_byte_what_the_format_says(et, tmp_path):
    path, events = tmp_path / "t.tape", sample(500)
    with et.open(path, "w") as tape:
        ordinals = [tape.append(data, timestamp=timestamp) for timestamp, data in events]
        live = published(path)
        start = tape.start_timestamp
    assert ordinals == list(range(500))
    assert path.read_bytes() == live == stream(events, start=start)


@pytest.mark.parametrize(
    "payload",
    [
        b"bytes",
        b"",
        bytearray(b"bytearray"),
        memoryview(b"-memoryview-")[1:-1],
        memoryview(b"abcdefgh").cast("B", (2, 4)),
        memoryview(bytes(8)).cast("d"),
        array.array("i", [1, 2, 3]),
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.arange(6, dtype=">i8"),
        np.zeros(3, dtype=[("a", "<i4"), ("b", "u1")]),
        np.float64(1.5),
        np.empty((0, 3)),
        np.array(7),
        mmap.mmap(-1, 100),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'format', '') or getattr(value, 'dtype', '')}",
)
def test_any_contiguous_buffer_is_a_payload(et, tmp_path, payload):
    expected = memoryview(payload).tobytes()
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(payload, timestamp=NS)
        tape.append_many([b"before", payload], [NS + 1, NS + 2])
        assert pairs(tape) == [(NS, expected), (NS + 1, b"before"), (NS + 2, expected)]


def test_a_ctypes_payload(et, tmp_path):
    ctypes = pytest.importorskip("ctypes")
    numbers = (ctypes.c_int32 * 3)(1, 2, 3)
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(numbers, timestamp=NS)
        tape.append_many([numbers], [NS])
        assert pairs(tape) == [(NS, bytes(numbers))] * 2


def test_x_refuses_a_name_that_is_taken(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(b"something else")
    with pytest.raises(FileExistsError) as caught:
        et.open(path, "x")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"something else"
    assert os.listdir(tmp_path) == ["t.tape"]


@posix
def test_x_refuses_a_dangling_link(et, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        et.open(tmp_path / "link", "x")
    assert os.listdir(tmp_path) == ["link"]


@posix
def test_a_and_w_go_through_a_link_or_replace_it_whole(et, tmp_path):
    real = tmp_path / "real.tape"
    et.open(real, "x").close()
    (tmp_path / "link").symlink_to(real)
    with et.open(tmp_path / "link", "a") as tape:
        tape.append(b"through the link", timestamp=NS)
    assert len(pairs(et.open(real))) == 1


@pytest.mark.parametrize("mode", ["a", "w", "x"])
def test_modes_make_a_missing_stream(et, tmp_path, mode):
    with et.open(tmp_path / "t.tape", mode) as tape:
        assert len(tape) == 0
        assert tape.append(b"first") == 0
    assert et.verify(tmp_path / "t.tape").events == 1
    assert os.listdir(tmp_path) == ["t.tape"]


def test_a_continues(et, tmp_path):
    path = tmp_path / "t.tape"
    for turn in range(3):
        with et.open(path, "a") as tape:
            assert tape.append(b"%d" % turn, timestamp=NS + turn) == turn
    assert pairs(et.open(path)) == [(NS, b"0"), (NS + 1, b"1"), (NS + 2, b"2")]


@posix
def test_w_makes_a_new_stream_and_old_readers_keep_theirs(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(30)))
    old = et.open(path)
    last = old[-1]
    with et.open(path, "w") as tape:
        tape.append(b"new", timestamp=NS)
        assert pairs(old) == sample(30)
    assert bytes(last.data) == sample(30)[-1][1]
    old.close()
    assert pairs(et.open(path)) == [(NS, b"new")]
    assert os.listdir(tmp_path) == ["t.tape"]


def test_creation_is_never_half_visible(et, tmp_path):
    path = tmp_path / "t.tape"
    et.open(path, "x").close()
    stop, seen, wrong = threading.Event(), [0], []

    def look() -> None:
        while not stop.is_set():
            raw = path.read_bytes()
            seen[0] += 1
            if len(raw) < 24 or HEADER.unpack(raw[:24])[:2] != (24, 0):
                wrong.append(raw)

    looker = threading.Thread(target=look)
    looker.start()
    for _ in range(100):
        et.open(path, "w", durability="none").close()
    stop.set()
    looker.join()
    assert wrong == []
    assert seen[0] > 0


def test_a_creation_that_fails_leaves_nothing(et, tmp_path, monkeypatch):
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    path = tmp_path / "t.tape"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="creating the stream") as caught:
            et.open(path, "w")
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert os.listdir(tmp_path) == []


def test_a_failed_w_keeps_the_old_stream(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(3)))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(PermissionError):
            et.open(path, "w")
    assert path.read_bytes() == stream(sample(3))
    assert os.listdir(tmp_path) == ["t.tape"]
    et.open(path, "a").close()  # and no lock is left


@posix
def test_capacity_is_allocated_before_the_first_append_and_cut_at_close(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w", capacity=1 << 20) as tape:
        size = path.stat().st_size
        assert size >= 1 << 20
        assert path.stat().st_blocks * 512 >= 1 << 20
        for _ in range(1000):
            tape.append(bytes(1000))
        assert path.stat().st_size == size
    assert path.stat().st_size == 24 + 1000 * 1016


def test_capacity_of_an_existing_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(3)))
    with et.open(path, "a", capacity=1 << 20) as tape:
        assert path.stat().st_size >= 1 << 20
        tape.append(b"x", timestamp=NS)
    assert pairs(et.open(path)) == [*sample(3), (NS, b"x")]


def test_growth_over_many_megabytes(et, tmp_path):
    path = tmp_path / "t.tape"
    block = bytes(range(256)) * 4096
    with et.open(path, "w", durability="none") as tape:
        for i in range(60):
            assert tape.append(block, timestamp=NS + i) == i
        assert path.stat().st_size >= 60 * (len(block) + 16) + 24
        assert tape.offsets.tolist() == [24 + i * (len(block) + 16) for i in range(60)]
    assert path.stat().st_size == 24 + 60 * (len(block) + 16)
    report = et.verify(path)
    assert (report.state, report.events) == ("clean", 60)


def test_an_event_larger_than_a_step(et, tmp_path):
    path = tmp_path / "t.tape"
    big = os.urandom(1 << 20) * 40
    with et.open(path, "w", durability="none") as tape:
        tape.append(b"small", timestamp=NS)
        tape.append(big, timestamp=NS)
        assert bytes(tape[1].data) == big
    assert prefix(path.read_bytes(), path.stat().st_size)[1] == (NS, big)


def test_default_timestamp_is_now(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        before = time.time_ns()
        tape.append(b"x")
        tape.append_many([b"y", b"z"])
        tape.append_array(np.zeros((2, 1), np.uint8))
        after = time.time_ns()
        stamps = tape.timestamps.tolist()
    assert before <= stamps[0] <= stamps[1] == stamps[2] <= stamps[3] == stamps[4] <= after


def test_default_timestamp_is_never_lower_than_the_last_one(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append(b"x", timestamp=FUTURE)
        tape.append(b"y")
        tape.append_many([b"z"])
    with et.open(path, "a") as tape:  # nor after the stream was opened again
        tape.append(b"a")
        tape.append_array(np.zeros((1, 1), np.uint8))
        assert tape.timestamps.tolist() == [FUTURE] * 5


def test_explicit_timestamps_may_go_backwards(et, tmp_path):
    extremes = [NS, 5, -1, -(2**63), 2**63 - 1, 0]
    with et.open(tmp_path / "t.tape", "w") as tape:
        for stamp in extremes:
            tape.append(b"x", timestamp=stamp)
        assert tape.timestamps.tolist() == extremes
        before = time.time_ns()
        tape.append(b"x")  # the last one was 0, so the clock counts again
        assert before <= tape[-1].timestamp <= time.time_ns()


def test_timestamp_zero_needs_a_payload(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=0)
        tape.append(b"", timestamp=1)
        assert pairs(tape) == [(0, b"x"), (1, b"")]


def test_append_is_one_call_of_the_core(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        assert tape.append.__self__ is tape._appender
    with pytest.raises(et.ClosedError):
        tape.append(b"x")


def test_append_takes_the_timestamp_by_position_and_by_name(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"1", NS)
        tape.append(data=b"2", timestamp=NS + 1)
        assert pairs(tape) == [(NS, b"1"), (NS + 1, b"2")]
        with pytest.raises(TypeError):
            tape.append()
        with pytest.raises(TypeError):
            tape.append(b"x", when=1)
        assert len(tape) == 2


def test_context_manager_closes_when_the_block_fails(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w")
    with pytest.raises(ZeroDivisionError), tape:  # noqa: PT012
        tape.append(b"kept", timestamp=NS)
        _ = 1 / 0
    assert tape.closed
    assert et.verify(path).state == "clean"


def test_close_is_idempotent(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w")
    tape.append(b"x")
    tape.close()
    size = path.stat().st_size
    tape.close()
    assert (tape.closed, path.stat().st_size) == (True, size)


def test_a_forgotten_writer_warns_and_closes(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w")
    tape.append(b"x")
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
        del tape
        gc.collect()
    assert et.verify(path).state == "clean"
    et.open(path, "a").close()


def test_writer_cannot_be_pickled(et, tmp_path):
    import copy
    import pickle

    with et.open(tmp_path / "t.tape", "w") as tape:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(tape)
        with pytest.raises(TypeError, match="cannot be pickled"):
            copy.copy(tape)


def test_paths_of_every_kind(et, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["relative.tape", tmp_path / "päth ☃.tape", os.fsencode(tmp_path / "bytes.tape")]
    for name in names:
        with et.open(name, "w") as tape:
            tape.append(b"x", timestamp=NS)
        assert pairs(et.open(name)) == [(NS, b"x")]
    with pytest.raises(TypeError):
        et.open(3, "w")
