"""Batches: published whole or not at all, with the bytes that single appends would have written."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import HEADER, NS, pairs, published, sample, stream


def test_a_batch_writes_what_single_appends_write(et, tmp_path):
    events = sample(300)
    with et.open(tmp_path / "t.tape", "w") as tape:
        half = tape.append_many([data for _, data in events[:150]], [stamp for stamp, _ in events[:150]])
        rest = tape.append_many(
            tuple(bytearray(data) for _, data in events[150:]), np.array([stamp for stamp, _ in events[150:]])
        )
        start = tape.start_timestamp
    assert (half, rest) == (range(150), range(150, 300))
    assert (tmp_path / "t.tape").read_bytes() == stream(events, start=start)


@pytest.mark.parametrize(
    "times", [list, tuple, iter, np.array, lambda s: np.array(s, "M8[ns]"), lambda s: np.array(s, ">i8")]
)
def test_timestamps_of_a_batch_in_every_form(et, tmp_path, times):
    stamps = [NS, NS - 5, NS + 7]
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_many((b"%d" % i for i in range(3)), times(stamps))
        assert pairs(tape) == [(NS, b"0"), (NS - 5, b"1"), (NS + 7, b"2")]
        tape.append_array(np.zeros((3, 1), np.uint8), times(stamps))
        assert tape.timestamps.tolist() == stamps * 2


def test_an_empty_batch_changes_nothing(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x", timestamp=NS)
        before = published(tape.path)
        assert tape.append_many([]) == range(1, 1)
        assert tape.append_many([], []) == range(1, 1)
        assert tape.append_array(np.empty((0, 8))) == range(1, 1)
        assert tape.append_array(np.empty(0), []) == range(1, 1)
        assert published(tape.path) == before


def test_a_batch_of_empty_payloads(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        assert tape.append_many([b"", bytearray()], [1, 2]) == range(2)
        assert tape.append_array(np.empty((2, 0)), [3, 4]) == range(2, 4)
        assert len(tape.append_array(np.empty((2, 0)))) == 2
        assert pairs(tape)[:4] == [(1, b""), (2, b""), (3, b""), (4, b"")]


ARRAYS = {
    "bytes-2d": np.arange(60, dtype=np.uint8).reshape(5, 12),
    "floats": np.arange(12, dtype=np.float64).reshape(4, 3),
    "scalars": np.arange(7, dtype=np.int32),
    "big-endian": np.arange(7, dtype=">u2"),
    "structured": np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
    "datetime64": np.array([1, 2], "M8[ns]"),
    "strings": np.array([b"abc", b"de"]),
    "bools": np.array([True, False]),
    "3d": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    "one-row": np.arange(5, dtype=np.uint8).reshape(1, 5),
    "every-other-row": np.arange(60, dtype=np.uint8).reshape(10, 6)[::2],
    "rows-backwards": np.arange(60, dtype=np.uint8).reshape(10, 6)[::-1],
    "column": np.arange(60, dtype=np.int32).reshape(10, 6)[:, 2],
    "columns": np.arange(60, dtype=np.uint8).reshape(10, 6)[:, 1:4],
    "every-other-column": np.arange(60, dtype=np.uint8).reshape(10, 6)[:, ::2],
    "fortran": np.asfortranarray(np.arange(60, dtype=np.uint16).reshape(10, 6)),
    "transposed": np.arange(60, dtype=np.uint16).reshape(10, 6).T,
    "broadcast": np.broadcast_to(np.arange(4, dtype=np.uint8), (3, 4)),
    "broadcast-scalar": np.broadcast_to(np.int64(7), (5,)),
    "read-only": np.frombuffer(bytes(range(12)), np.uint8).reshape(3, 4),
    "backwards": np.arange(9, dtype=np.int16)[::-1],
    "field": np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")])["b"],
    "list-of-lists": [[1, 2], [3, 4]],
    "matrix-row": np.arange(60, dtype=np.uint8).reshape(10, 6)[3:4, ::2],
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_each_row_of_an_array_is_one_event(et, tmp_path, array):
    values = np.asarray(array)
    rows = [values[i : i + 1].tobytes() for i in range(len(values))]
    stamps = range(NS, NS + len(rows))
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"before", timestamp=NS)
        assert tape.append_array(array, stamps) == range(1, 1 + len(rows))
        start = tape.start_timestamp
    assert (tmp_path / "t.tape").read_bytes() == stream([(NS, b"before"), *zip(stamps, rows, strict=True)], start=start)


@pytest.mark.parametrize("size", [1, 100, 70_000])
def test_batches_beyond_the_room_and_beyond_a_step(et, tmp_path, size):
    rows = np.random.default_rng(1).integers(0, 256, (300, size), np.uint8)
    with et.open(tmp_path / "t.tape", "w", durability="none") as tape:
        tape.append_array(rows, np.arange(300))
        tape.append_many(list(rows), np.arange(300))
        start = tape.start_timestamp
    expected = [(i, rows[i].tobytes()) for i in range(300)]
    assert (tmp_path / "t.tape").read_bytes() == stream(expected * 2, start=start)


def test_without_timestamps_a_batch_has_one_reading_of_the_clock(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_many([b"x"] * 5)
        assert len(set(tape.timestamps.tolist())) == 1


@pytest.mark.parametrize("at", [0, 1, 49, 98, 99])
@pytest.mark.parametrize("bad", ["text", None, memoryview(b"abcd")[::2]], ids=["str", "none", "strided"])
def test_one_bad_element_and_none_of_the_batch_is_there(et, tmp_path, at, bad):
    payloads: list[object] = [bytearray(b"%d" % i) for i in range(100)]
    payloads[at] = bad
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        with pytest.raises((TypeError, ValueError), match=f"payload {at} "):
            tape.append_many(payloads)
        with pytest.raises((TypeError, ValueError), match=f"payload {at} "):
            tape.append_many(payloads, range(100))
        assert HEADER.unpack(published(path))[:2] == (24, 0)
        for i in range(100):  # buffers of the failed batch are let go of, so this resizes without BufferError
            if i != at:
                payloads[i] += b"!"


def test_buffers_are_let_go_of_after_a_batch(et, tmp_path):
    payloads = [bytearray(b"a"), bytearray(b"b")]
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_many(payloads, [NS, NS])
        tape.append(payloads[0], timestamp=NS)
        payloads[0] += b"more"
        payloads[1].clear()
        assert pairs(tape) == [(NS, b"a"), (NS, b"b"), (NS, b"a")]
